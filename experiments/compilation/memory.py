"""The memory of a training step on one device, on paper: what the compiler will ask for, within about a third.

Exact for the state (the shardings give it), a model for the rest; `kleiber compile` has the last word.
"""

from dataclasses import dataclass

from kleiber.experiments.compilation.roofline import layer_params
from kleiber.model.counts import BYTES, num_params_total
from kleiber.train.config import TrainConfig


@dataclass(frozen=True)
class StepMemory:
    """Estimated bytes on one device."""

    state_bytes: float
    """Parameters and optimizer state."""
    gradient_bytes: float
    """Of its part of the parameters, as they are stored."""
    saved_bytes: float
    """What the forward pass keeps for the backward pass."""
    layer_bytes: float
    """The layer at work: gathered weights, their gradient, activations, scores."""
    head_bytes: float
    """Gathered head, its gradient, and the logits of one part of the sequence."""

    @property
    def total_bytes(self) -> float:
        """The peak: a layer and the head are not at work together."""
        return self.state_bytes + self.gradient_bytes + self.saved_bytes + max(self.layer_bytes, self.head_bytes)


def step_memory(config: TrainConfig, state_bytes: float | None = None) -> StepMemory:
    """Returns the estimate for a config with its mesh.

    Args:
      config: the trunk; config.mesh says how it is split.
      state_bytes: of one device (kleiber.experiments.compilation.step.state_bytes); None estimates three float32
        numbers a parameter, all split over fsdp, tensor and expert.
    """
    model, mesh = config.model, config.mesh
    compute, stored = BYTES[model.compute_dtype], BYTES[model.param_dtype]
    rows = config.batch_size / (mesh.num_batch_shards * (config.accumulation_steps or 1))
    tokens = rows * model.seq_len / mesh.context
    dense, experts = layer_params(model)
    held = model.num_layers * (dense + experts / mesh.expert) / (mesh.fsdp * mesh.tensor * mesh.stage)
    held += (num_params_total(model) - model.num_layers * (dense + experts)) / (mesh.fsdp * mesh.tensor)
    layer = dense / mesh.tensor + experts / (mesh.tensor * mesh.expert)
    activations = _layer_activations(config, tokens)
    kept = model.d_model * compute * tokens if model.has_remat else activations
    head = model.vocab_size * model.d_model / mesh.tensor
    logits = tokens * model.vocab_size / (mesh.tensor * config.loss_blocks)
    return StepMemory(
        state_bytes=held * (stored + 8) if state_bytes is None else state_bytes,
        gradient_bytes=held * stored,
        saved_bytes=model.num_layers / mesh.stage * kept * (1 if mesh.stage == 1 else 2),
        # Weights of this layer and of the next, and the gradient before it is summed; backward, what a layer computed
        # and the gradients of that.
        layer_bytes=3 * compute * layer + 2 * activations,
        head_bytes=head * (compute + 4) + 2 * 4 * logits,
    )


def _layer_activations(config: TrainConfig, tokens: float) -> float:
    """Bytes of what one layer's backward pass reads on one device."""
    model, mesh = config.model, config.mesh
    size = BYTES[model.compute_dtype]
    heads = (3 * model.num_heads + 3 * model.kv_heads) * model.d_head
    width = float(model.feed_forward_width * (3 if model.is_gated else 2))
    sent = 0.0
    if experts := model.experts:
        places = experts.num_active * experts.capacity_factor
        width *= places + experts.num_shared
        sent = 4 * places * model.d_model
    streams = size * (8 * model.d_model + sent + (heads + width) / mesh.tensor)
    seen = model.seq_len * (model.attention_blocks + 1) / (2 * model.attention_blocks) / mesh.context
    scores = model.num_heads / mesh.tensor * seen * (4 + size)
    return tokens * (streams + scores)
