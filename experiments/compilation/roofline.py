"""Bytes, FLOPs and seconds of a training step on paper: the communication model of docs/parallel.md.

N tokens of one device's part of the batch, D model width, V vocabulary, P parameters of one layer's products, L layers;
f, d, e, c, t, s devices on the axes fsdp, data, expert, context, tensor, stage. Bytes are what one device sends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kleiber.experiments.compilation.topology import Chip, Links
from kleiber.model.config import ModelConfig
from kleiber.model.counts import BYTES, flops_per_token_computed, num_params_layers
from kleiber.train.config import TrainConfig

OVERLAPPING = ("replica", "stage", "data", "fsdp", "context")
"""Axes whose traffic needs nothing of the layer at hand, so that it can run beside it."""
BLOCKING = ("expert", "tensor")
"""Axes whose traffic the next product waits for."""


@dataclass(frozen=True)
class Roofline:
    """Seconds of one step, by what limits them."""

    compute_seconds: float
    hbm_seconds: float
    overlapping_seconds: Mapping[str, float]
    """Traffic that can run beside the arithmetic, by axis."""
    blocking_seconds: Mapping[str, float]
    """Traffic that the arithmetic waits for, by axis."""

    @property
    def seconds(self) -> float:
        """The step: the largest of arithmetic, memory and overlapping traffic, and after it all that blocks."""
        beside = max([self.compute_seconds, self.hbm_seconds, *self.overlapping_seconds.values()])
        return beside + sum(self.blocking_seconds.values())

    @property
    def limit(self) -> str:
        """What the step spends most time on."""
        parts = {"compute": self.compute_seconds, "HBM": self.hbm_seconds}
        for table in (self.overlapping_seconds, self.blocking_seconds):
            for axis, seconds in table.items():
                name = f"traffic over {axis}"
                parts[name] = parts.get(name, 0.0) + seconds
        return max(parts, key=lambda name: parts[name])


def executed_flops(config: TrainConfig) -> float:
    """Returns the FLOPs of products of one step over all devices, recomputation included."""
    per_token = flops_per_token_computed(config.model)
    if config.loss_blocks > 1:  # the logits of each part are computed again in the backward pass
        per_token += 2 * config.model.vocab_size * config.model.d_model
    return per_token * config.tokens_per_step


def sent_bytes(config: TrainConfig) -> dict[str, float]:
    """Returns the bytes one device sends in a step over each axis of config.mesh.

    Weights are gathered in the compute dtype before each use, forward and (with remat) backward. Gradients are summed
    in the compute dtype by a reduce-scatter over fsdp. (A compiler that sums by an all-reduce of which each device
    keeps its part sends twice that; docs/parallel.md says when.)
    """
    model, mesh = config.model, config.mesh
    size = BYTES[model.compute_dtype]
    tokens = config.tokens_per_step / (mesh.num_batch_shards * mesh.context)
    layers = model.num_layers / mesh.stage
    dense, experts = layer_params(model)
    head = config.loss_blocks * model.vocab_size * model.d_model
    layer = dense / mesh.tensor + experts / (mesh.tensor * mesh.expert)
    gathers = 2 if model.has_remat else 1
    gathered = size * (layers * gathers * layer + (1 + (config.loss_blocks > 1)) * head / mesh.tensor)
    summed = size * (layers * layer + head / mesh.tensor)
    activations = size * tokens * model.context / model.seq_len * model.d_model
    # A layer: two forward, two backward, one recomputed if the output of attention is.
    reduced = 5 if model.has_remat and model.remat_keeps == "nothing" else 4
    sent = {
        "fsdp": _share(mesh.fsdp) * (gathered + summed),
        "data": 2 * _share(mesh.data) * summed / mesh.fsdp,
        "tensor": 2 * _share(mesh.tensor) * activations * (layers * reduced + 2),
        "context": _ring_bytes(config, tokens, layers),
        "expert": 0.0,
        "stage": 0.0,
    }
    if mesh.expert > 1 and model.experts:
        choices = model.experts.num_active * model.experts.capacity_factor
        passes = 6 if model.has_remat else 4  # there and back: forward, backward, and once more recomputed
        sent["expert"] = layers * passes * _share(mesh.expert) * choices * activations
        sent["expert"] += 2 * _share(mesh.expert) * size * (layers * dense + head) / (mesh.tensor * mesh.fsdp)
    if mesh.stage > 1:
        microbatches = mesh.num_microbatches(config.batch_size)
        sent["stage"] = 2 * (1 + mesh.stage / microbatches) * activations
    return {axis: value for axis, value in sent.items() if mesh.sizes[axis] > 1}


def _ring_bytes(config: TrainConfig, tokens: float, layers: float) -> float:
    """Keys and values go round forward and again recomputed; they and their gradients go round backward."""
    model, mesh = config.model, config.mesh
    keys_values = 2 * tokens * model.kv_heads * model.d_head / mesh.tensor * BYTES[model.compute_dtype]
    rounds = 1 + model.has_remat + 3
    return (mesh.context - 1) * layers * rounds * keys_values


def _share(size: int) -> float:
    """(n - 1) / n: the part of an array that lies elsewhere."""
    return (size - 1) / size


def layer_params(model: ModelConfig) -> tuple[float, float]:
    """Returns the parameters of one layer's products: all but those of routed experts, and those."""
    total = num_params_layers(model) / model.num_layers
    if model.experts is None:
        return total, 0.0
    routed = model.experts.num_experts * (3 if model.is_gated else 2) * model.d_model * model.feed_forward_width
    return total - routed, routed


def hbm_traffic(config: TrainConfig, state_bytes: float) -> float:
    """Returns a rough count of the bytes one device moves to and from its memory in a step.

    The state is read and written once; gathered weights are written once and read twice in each of three passes;
    activations of a layer are written and read in each of four passes (forward, recomputed, two of backward); scores
    twice as often, in float32, once forward, once recomputed and twice backward, but for fused attention.
    """
    model, mesh = config.model, config.mesh
    size = BYTES[model.compute_dtype]
    tokens = config.tokens_per_step / (mesh.num_batch_shards * mesh.context)
    layers = model.num_layers / mesh.stage
    dense, experts = layer_params(model)
    weights = 3 * 3 * size * layers * (dense / mesh.tensor + experts / (mesh.tensor * mesh.expert))
    width = model.feed_forward_width * (3 if model.is_gated else 2)
    if model.experts:
        width = int(width * (model.experts.num_active * model.experts.capacity_factor + model.experts.num_shared))
    heads = model.num_heads * model.d_head + 2 * model.kv_heads * model.d_head
    per_token = 6 * model.d_model + (2 * heads + width) / mesh.tensor
    places = tokens * model.context / model.seq_len
    activations = 4 * 2 * size * layers * places * per_token
    seen = model.context * (model.attention_blocks + 1) / (2 * model.attention_blocks) / mesh.context
    scores = 0 if model.has_fused_attention else 4 * 2 * 4 * layers * places * seen * model.num_heads / mesh.tensor
    logits = 4 * 3 * tokens * model.vocab_size / mesh.tensor
    return 2 * state_bytes + weights + activations + scores + logits


def send_seconds(kind: str, sent: float, axes: Sequence[str], links: Mapping[str, Links]) -> float:
    """Returns the seconds in which one device sends bytes over mesh axes by a collective of collectives.KINDS.

    Gathers and sums use all links of the axes at once; an all-to-all too, but its bytes cross several; a permute goes
    one way to a neighbour."""
    if kind == "collective-permute":
        return sent / min(links[axis].neighbour_bandwidth for axis in axes)
    hops = sum(links[axis].hops for axis in axes) if kind == "all-to-all" else 1.0
    return sent * hops / sum(links[axis].bandwidth for axis in axes)


KIND_OF_AXIS = {"expert": "all-to-all", "context": "collective-permute", "stage": "collective-permute"}
"""What most of the traffic over an axis is; the others gather and sum."""


def on_paper(config: TrainConfig, chip: Chip, links: Mapping[str, Links], state_bytes: float) -> Roofline:
    """Returns the roofline of a step of a config with its mesh, from formulas alone; state_bytes are of one device,
    links as topology.axis_links returns."""
    seconds = {
        axis: send_seconds(KIND_OF_AXIS.get(axis, "all-reduce"), sent, [axis], links)
        for axis, sent in sent_bytes(config).items()
    }
    num = config.mesh.num_devices * (1.0 if config.mesh.stage == 1 else _pipeline_efficiency(config))
    return Roofline(
        executed_flops(config) / num / (chip.peak_flops / chip.devices_per_chip),
        hbm_traffic(config, state_bytes) / (chip.hbm_bandwidth / chip.devices_per_chip),
        {axis: seconds[axis] for axis in seconds if axis in OVERLAPPING},
        {axis: seconds[axis] for axis in seconds if axis in BLOCKING},
    )


def _pipeline_efficiency(config: TrainConfig) -> float:
    microbatches = config.mesh.num_microbatches(config.batch_size)
    return microbatches / (microbatches + config.mesh.stage - 1)
