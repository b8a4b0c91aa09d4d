"""The memory of a training step on one device, on paper: what `kleiber plan` and `kleiber compile` say of it.

Read off XLA's buffers: within 15 % of what its compiler for CPUs takes (tests/test_memory.py). Compilers for TPUs and
GPUs keep other copies; `kleiber compile` has the last word there. Left out: what Muon's products need, replicas of
delayed synchronisation and members of a population beyond the first, the tokens, the program, and the gaps between
buffers (up to 8 %).
"""

from dataclasses import dataclass, replace

from kleiber.experiments.compilation.roofline import layer_params
from kleiber.model.config import ModelConfig
from kleiber.model.counts import BYTES, num_params_total
from kleiber.model.encoder import parts
from kleiber.model.image import FILTER_PLACES, residual_shapes
from kleiber.parallel.config import MeshConfig
from kleiber.train.config import TrainConfig
from kleiber.train.micro_batches import num_micro_batches

SLOTS = {"adamw": 2, "sgd": 1, "muon": 1, "adafactor": 1}
"""float32 numbers that an optimizer keeps of a parameter."""
KEPT_WIDTHS = {"relu_squared": 2, "silu": 3, "gelu": 3}
"""Arrays of the feed-forward width that its backward pass reads; a gate makes two more."""


@dataclass(frozen=True)
class StepMemory:
    """Estimated bytes on one device."""

    state_bytes: float
    """Parameters and optimizer state."""
    copied_bytes: float
    """Optimizer state once more: XLA's code for CPUs copies it before the steps begin."""
    gradient_bytes: float
    """Of its part of the parameters, as they are stored."""
    held_bytes: float
    """Gradients that are there before the backward pass begins: sums over micro-batches, stacks of scanned layers."""
    saved_bytes: float
    """What the forward pass keeps for the backward pass."""
    work_bytes: float
    """What is at work when most is kept: a layer or the head, with gathered weights."""
    teacher_bytes: float = 0.0
    """A teacher's weights, and what it says of each target."""

    @property
    def total_bytes(self) -> float:
        """The peak: when the backward pass begins, or when it has all gradients."""
        begin, end = self.held_bytes + self.saved_bytes + self.work_bytes, self.held_bytes + self.gradient_bytes
        return self.state_bytes + self.copied_bytes + self.teacher_bytes + max(begin, end)


@dataclass(frozen=True)
class _Layer:
    """Bytes of one layer's activations on one device, of one micro-batch."""

    stream: float
    """One array of the model width."""
    width: float
    """One array of the feed-forward width, all experts' places included."""
    scores: float
    last_scores: tuple[float, float]
    """Those of the last block of queries, and of the one before (0 if there is one block)."""
    kept: float
    """Everything its backward pass reads."""
    kept_streams: float
    """Part of it, of the model width."""
    kept_widths: float
    """Part of it, of the feed-forward width."""
    kept_by_name: float
    """What rematerialisation keeps on the device besides the input of the layer."""


def step_memory(config: TrainConfig, platform: str, state_bytes: float | None = None) -> StepMemory:
    """Returns the estimate for a config with its mesh.

    Args:
      config: the trunk; config.mesh says how it is split.
      platform: what it is compiled for, `cpu`, `gpu` or `tpu`.
      state_bytes: of one device (kleiber.experiments.compilation.step.state_bytes); None estimates it from the
        optimizer's slots, all split over fsdp, tensor and expert.
    """
    model, mesh, on_cpu = config.model.on_platform(platform), config.mesh, platform == "cpu"
    compute, stored = 4 if on_cpu else BYTES[model.compute_dtype], BYTES[model.param_dtype]
    pieces = num_micro_batches(config, platform)
    rows = config.batch_size / (mesh.num_batch_shards * pieces)
    tokens = rows * model.seq_len / mesh.context
    dense, experts = layer_params(model)
    held = model.num_layers * (dense + experts / mesh.expert) / (mesh.fsdp * mesh.tensor * mesh.stage)
    held += (num_params_total(model) - model.num_layers * (dense + experts)) / (mesh.fsdp * mesh.tensor)
    slots = 4 * SLOTS[config.optimizer.name] * held
    layers = _layers(model, mesh, rows, compute)
    # Unrolled layers are one program to XLA's compiler for CPUs: it finds what was computed before and keeps that.
    is_recomputed = model.has_remat and (model.has_scanned_layers or not on_cpu)
    saved = sum(num * (each.stream + each.kept_by_name if is_recomputed else each.kept) for num, each in layers)
    saved /= mesh.stage
    at_work = max(_at_work(each, is_recomputed) for _, each in layers)
    if on_cpu and model.has_scanned_layers and not model.has_remat:
        at_work += layers[0][1].scores * 5 / 4  # the masks of a loop's body, made before it: float32 and bool
    head = 2 * 4 * tokens * model.vocab_size / (mesh.tensor * config.loss_blocks)
    if mesh.fsdp > 1 or compute < stored:  # copies of weights: this layer's and the next one's, and a gradient
        at_work += 3 * compute * (dense / mesh.tensor + experts / (mesh.tensor * mesh.expert))
        head += model.vocab_size * model.d_model / mesh.tensor * (compute + 4)
    return StepMemory(
        state_bytes=held * stored + slots if state_bytes is None else state_bytes,
        copied_bytes=slots if on_cpu else 0.0,
        gradient_bytes=held * stored,
        held_bytes=held * stored * ((pieces > 1) + model.has_scanned_layers),
        saved_bytes=saved * (1 if mesh.stage == 1 else 2),
        work_bytes=max(at_work, head),
        teacher_bytes=_teacher_bytes(config, pieces) if config.teacher else 0.0,
    )


def _teacher_bytes(config: TrainConfig, pieces: int) -> float:
    """Returns the bytes of a teacher's weights on one device, and of what it says of each target: logits of the whole
    batch, again as rows of micro-batches where there are several, and four such arrays where they are compared."""
    assert config.teacher
    model, mesh = config.teacher.shape, config.mesh
    experts = model.num_layers * layer_params(model)[1]
    held = (num_params_total(model) - experts * (1 - 1 / mesh.expert)) / (mesh.fsdp * mesh.tensor)
    tokens = config.batch_size / mesh.num_batch_shards * config.model.seq_len / mesh.context
    logits = 4 * tokens * model.vocab_size / mesh.tensor
    return held * BYTES[model.param_dtype] + logits * (1 + (pieces > 1) + 4 / (pieces * config.loss_blocks))


def _at_work(layer: _Layer, is_recomputed: bool) -> float:
    """Returns the bytes that the backward pass of a layer needs beside what is kept."""
    attention = 3 * layer.last_scores[0] + layer.last_scores[1] - layer.kept_widths  # the feed-forward is done then
    return max(attention, 2 * layer.width) + (layer.kept - layer.kept_streams if is_recomputed else 0)


def _layers(model: ModelConfig, mesh: MeshConfig, rows: float, size: int) -> list[tuple[int, _Layer]]:
    """Returns (how many, the activations of one) of the layers of each kind; size is the bytes of a number."""
    if not model.has_attention:
        return [(model.num_layers, _residual_layer(model, mesh, rows, size))]
    if model.encoder is None:
        tokens = rows * model.context / mesh.context
        return [(model.num_layers, _layer(model, mesh, tokens, size))]
    encoder, decoder = parts(model)
    reading, writing = (_layer(part, mesh, rows * part.seq_len, size) for part in (encoder, decoder))
    # Of what is read of the source: the stream before and normed, queries as in any attention, keys, values, scores.
    targets, sources = (size * rows * part.seq_len for part in (decoder, encoder))
    scores = 4 * rows * decoder.seq_len * encoder.seq_len * model.num_heads / mesh.tensor
    of_heads = 4 * targets * model.num_heads + 2 * sources * model.kv_heads
    read = 2 * writing.stream + of_heads * model.d_head / mesh.tensor + scores
    blocks = (scores, 0.0) if scores > writing.last_scores[0] else writing.last_scores
    both = replace(writing, kept=writing.kept + read, kept_streams=writing.kept_streams + 2 * writing.stream)
    return [(encoder.num_layers, reading), (decoder.num_layers, replace(both, last_scores=blocks))]


def _residual_layer(model: ModelConfig, mesh: MeshConfig, images: float, size: int) -> _Layer:
    """Returns the activations of a mean block of a residual network; size is the bytes of a number."""
    shapes = residual_shapes(model)
    before = [images * (each.side * each.stride) ** 2 * each.channels for each in shapes]
    after = [images * each.side**2 * each.width for each in shapes]
    seen = [(images * each.side**2) * FILTER_PLACES * (each.channels + each.width) for each in shapes]
    stream, width = size * sum(before) / len(shapes), size * sum(after) / len(shapes)
    kept = size * sum(seen) / len(shapes) + 2 * stream + 3 * width
    return _Layer(stream, width, 0.0, (0.0, 0.0), kept, 2 * stream, 3 * width, 0.0)


def _layer(model: ModelConfig, mesh: MeshConfig, tokens: float, size: int) -> _Layer:
    """Returns the activations of a layer; size is the bytes of a number."""
    stream, width = size * tokens * model.d_model, size * tokens * model.feed_forward_width / mesh.tensor
    queries = size * tokens * model.num_heads * model.d_head / mesh.tensor
    keys = size * tokens * model.kv_heads * model.d_head / mesh.tensor
    blocks = model.attention_blocks
    square = (
        0 if model.has_fused_attention else 4 * tokens * model.num_heads / mesh.tensor * model.context / mesh.context
    )
    scores = square * (blocks + 1) / (2 * blocks)
    # The residual stream before, between and normed (scanned, each in two layouts); queries, their output and its
    # scale; keys and values, which unrolled blocks of queries each keep up to their own end.
    kept_streams = (7 if model.has_scanned_layers else 4) * stream
    kept = kept_streams + 4 * queries + scores
    kept += 2 * keys * (1 if model.has_scanned_layers else (blocks + 1) / 2)
    kept += 4 * stream * ((model.norm == "layernorm") + (model.dropout > 0)) + model.has_qk_norm * (queries + keys)
    widths = KEPT_WIDTHS[model.activation] + 2 * model.is_gated
    if experts := model.experts:
        places = experts.num_active * experts.capacity_factor
        kept += 2 * places * stream
        width *= places + experts.num_shared
    signs = model.has_scanned_layers and model.activation == "relu_squared"
    kept_widths = widths * width + signs * width / size
    last = square / blocks
    before = last * (blocks - 1) / blocks
    by_name = {"attention": stream + 2 * (queries + keys)}
    by_name["products"] = by_name["attention"] + (1 + model.is_gated) * width
    if model.experts:
        by_name["products"] += model.experts.num_active * model.experts.capacity_factor * stream
    kept_by_name = by_name.get(model.remat_keeps, 0.0)
    return _Layer(stream, width, scores, (last, before), kept + kept_widths, kept_streams, kept_widths, kept_by_name)
