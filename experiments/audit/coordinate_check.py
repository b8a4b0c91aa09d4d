"""The coordinate check: do activations, and what training changes in them, keep their size as the model grows?

A parametrisation transfers a learning rate over width (or depth) only if after a few optimizer steps every activation,
and its change since initialisation, has the same root mean square (RMS) at every width: log RMS against log width has
slope 0. A slope above 0 blows up in a large model, one below 0 is a part that stops learning.

What is measured. One small batch of synthetic tokens is trained on and looked at, as usual for this check: slopes are
those of the wide limit only where the width is well above the number of different tokens, since Adam's sign-like steps
align with an activation to the extent that few others disagree. The optimizer is the one that trains all our models
(Adam, without clipping, decay or warm-up). After each of the first steps we take the RMS over batch, positions and
features of every named activation and of its change since step 0. The slope of an activation is the mean over steps 1
to the last; its standard error comes from the spread over seeds. What is still exactly zero has no slope: weights that
start at zero pass their first step on to the layers before them only at the next one.

What is judged: all but the attention scores, which are shown. Scores start at zero under muP, and a score of two
vectors that training has not yet aligned is noise that falls as 1 / sqrt(d_head); up to width 1024 that part is large.

Source: Yang et al. 2022 (arXiv:2203.03466), appendix D.1; over depth Dey et al. 2025 (arXiv:2505.01618), figure 3.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from kleiber.model.config import Family, ModelConfig, Parametrization
from kleiber.model.encoder import EncoderConfig
from kleiber.model.functional import Params, apply, init_params
from kleiber.model.image import ImageConfig
from kleiber.model.ladder import shape_of_width
from kleiber.train.config import OptimizerConfig
from kleiber.train.update.optimizer import make_optimizer

Dial = Literal["d_model", "num_layers"]
NOT_JUDGED = ("scores",)


@dataclass(frozen=True)
class Slope:
    """How the RMS of one activation, or of its change, goes with the size of the model."""

    activation: str
    quantity: Literal["value", "change"]
    slope: float
    """d log RMS / d log size, the mean over the steps; 0, and not judged, while the activation is zero."""
    standard_error: float | None
    """Of the slope, from its spread over seeds; None with one seed."""
    slope_of_step: tuple[float | None, ...]
    """At step 1, 2, ...; None while the activation is zero."""
    rms: tuple[float, ...]
    """After the last step, at each size: geometric mean over seeds."""
    is_judged: bool
    """Whether the check passes only if this slope is small."""


@dataclass(frozen=True)
class CoordinateCheck:
    """All slopes of one parametrisation over one dial."""

    parametrization: str
    dial: Dial
    sizes: tuple[int, ...]
    num_seeds: int
    num_steps: int
    learning_rate: float
    tolerance: float
    slopes: tuple[Slope, ...]

    @property
    def worst(self) -> Slope:
        """The judged slope farthest from zero."""
        return max((slope for slope in self.slopes if slope.is_judged), key=lambda slope: abs(slope.slope))

    @property
    def has_passed(self) -> bool:
        """Whether every judged slope is within the tolerance of zero."""
        return abs(self.worst.slope) <= self.tolerance


OF_IMAGES: dict[str, dict[str, Any]] = {
    "vision_transformer": {"image": ImageConfig(side=4, patch_size=2), "positions": "learned"},
    "residual_network": {
        "image": ImageConfig(side=4, num_stages=2),
        "norm": "layernorm",
        "has_norm_gain": True,
        "activation": "silu",
    },
}
"""Families that read images, and what their shapes have of their own: few different patches, as with tokens."""
NUM_LABELS = 10
SOURCE = EncoderConfig(num_layers=2, seq_len=8)
"""Of an encoder_decoder."""


def family(
    parametrization: Parametrization,
    dial: Dial,
    sizes: Sequence[int],
    width_of_depths: int = 128,
    tied: bool = False,
    kind: Family = "decoder",
) -> tuple[ModelConfig, ...]:
    """Returns the shapes of a check: four heads, no mix, eight tokens a sequence, the first size the base; what grows
    is the width at two layers, or the depth at width_of_depths. Of images, 16 pixels and NUM_LABELS labels."""
    fields: dict[str, Any] = {"parametrization": parametrization, "family": kind, "has_tied_head": tied}
    fields |= {"vocab_size": NUM_LABELS, **OF_IMAGES[kind]} if kind in OF_IMAGES else {"seq_len": 8}
    if kind == "encoder_decoder":
        fields["encoder"] = SOURCE
    fields["has_previous_token_mix"] = (
        False  # doubles the different inputs, so needs twice the width for the same slope
    )
    if dial == "d_model":
        return tuple(shape_of_width(size, base_d_model=sizes[0], **fields) for size in sizes)
    base = {"base_d_model": width_of_depths, "base_num_layers": sizes[0]}
    return tuple(shape_of_width(width_of_depths, num_layers=size, **base, **fields) for size in sizes)


def named_activations(config: ModelConfig, params: Params, tokens_BT: jax.Array) -> dict[str, jax.Array]:
    """Returns every activation that the model names with checkpoint_name, as "query 0" for the first layer's queries.

    The names are read from the traced program, so the model itself carries no recording code.

    Args:
      config: unrolled, without rematerialisation and with one attention block, so that each name occurs once a layer.
      params: weights.
      tokens_BT: int32 token ids.
    """
    closed = jax.make_jaxpr(lambda params, tokens: apply(config, params, tokens))(params, tokens_BT)
    named = [(eqn.params["name"], eqn.outvars[0]) for eqn in closed.jaxpr.eqns if eqn.primitive.name == "name"]
    labels, seen = [], dict.fromkeys((name for name, _ in named), 0)
    once = {"embedded", "source_embedded", "source_final", "final", "logits"}
    for name, _ in named:
        labels.append(name if name in once else f"{name} {seen[name]}")
        seen[name] += 1
    jaxpr = closed.jaxpr.replace(outvars=[variable for _, variable in named], debug_info=None)
    outputs = jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))(*jax.tree.leaves((params, tokens_BT)))
    activations = dict(zip(labels, outputs, strict=True))
    for label in activations:
        if label.startswith("scores"):  # only the pairs that attention reads ever see a gradient
            activations[label] = jnp.tril(activations[label]) if config.is_causal else activations[label]
    return activations


def synthetic_tokens(num_batches: int, batch_size: int, seq_len: int, vocab_size: int) -> np.ndarray:
    """Returns int32 [num_batches, batch_size, seq_len + 1]: half the tokens follow from the one before, half are Zipf.

    The same sequences for every shape; a model can learn both the frequencies and the successor of each token.
    """
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, vocab_size + 1)
    successor = rng.permutation(vocab_size)
    tokens = rng.choice(vocab_size, (num_batches, batch_size, seq_len + 1), p=frequency / frequency.sum())
    is_successor = rng.random(tokens.shape) < 0.5
    for position in range(1, seq_len + 1):
        follow = successor[tokens[..., position - 1]]
        tokens[..., position] = np.where(is_successor[..., position], follow, tokens[..., position])
    return tokens.astype(np.int32)


def synthetic_images(num_images: int, side: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (images uint8 [num_images, side, side, channels], labels int32 [num_images, 1]): noise, to be learnt by
    heart."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, side, side, channels)).astype(np.uint8)
    return images, rng.integers(0, NUM_LABELS, (num_images, 1)).astype(np.int32)


def _rows(config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns the one batch that is trained on and looked at: inputs, and targets [B, T]."""
    if image := config.image:
        return synthetic_images(2, image.side, image.channels)
    num_source = config.encoder.seq_len if config.encoder else 0
    tokens = synthetic_tokens(1, 2, num_source + config.seq_len, config.vocab_size)[0]
    return tokens[:, :-1], tokens[:, num_source + 1 :]


def rms_history(config: ModelConfig, learning_rate: float, num_steps: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Returns for each activation float64 [seed, step 1 .. num_steps, (value, change)]: RMS on the probe batch."""
    config = dataclasses.replace(config, has_scanned_layers=False, has_remat=False, attention_blocks=1, dropout=0.0)
    inputs, targets_BT = map(jnp.asarray, _rows(config))
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *[init_params(config, seed) for seed in seeds])
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate, weight_decay=0.0, clip_norm=None), config, jax.tree.map(lambda x: x[0], params)
    )
    rate, no_decay = jnp.float32(learning_rate), jnp.float32(0.0)

    def loss(params: Params) -> jax.Array:
        logits_BTV = apply(config, params, inputs)
        picked_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT)

    def history(params: Params) -> dict[str, jax.Array]:
        start = named_activations(config, params, inputs)

        def measure(params: Params) -> dict[str, jax.Array]:
            now = named_activations(config, params, inputs)
            return {name: jnp.stack([_rms(now[name]), _rms(now[name] - start[name])]) for name in now}

        def step(carry: tuple, _: None) -> tuple[tuple, dict[str, jax.Array]]:
            params, state = carry
            gradients = jax.grad(loss)(params)
            params, state = optimizer.update(gradients, state, params, rate, no_decay)
            return (params, state), measure(params)

        return jax.lax.scan(step, (params, optimizer.init(params)), length=num_steps)[1]

    return {name: np.asarray(rms, np.float64) for name, rms in jax.jit(jax.vmap(history))(params).items()}


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))


def check_coordinates(
    shapes: Sequence[ModelConfig],
    dial: Dial = "d_model",
    learning_rate: float = 2**-9,
    num_steps: int = 10,
    seeds: Sequence[int] = (0, 1, 2),
    tolerance: float = 0.05,
) -> CoordinateCheck:
    """Returns the slopes of every activation over a family of shapes. Raises ValueError if the shapes are fewer than
    two or do not increase, or a depth is odd.

    Args:
      shapes: increasing in the dial, otherwise equal, at least two.
      dial: which field grows. Over depth the block halfway through is compared, so depths must be even.
      learning_rate: at the base shape; the parametrisation scales it.
      num_steps: optimizer steps.
      seeds: initial weights; all in one compiled program a shape.
      tolerance: largest |slope| that passes.
    """
    sizes = [getattr(shape, dial) for shape in shapes]
    if len(sizes) < 2 or sizes != sorted(set(sizes)):
        raise ValueError(f"{dial} of the shapes is {sizes}, expected two or more increasing values.")
    if num_steps < 1 or len(seeds) < 1:
        raise ValueError(f"{num_steps} steps of {len(seeds)} seeds, expected at least 1 of each.")
    if dial == "num_layers" and shapes[0].encoder:
        raise ValueError("an encoder_decoder has two depths, and no block halfway of both; check it over d_model.")
    if dial == "num_layers" and any(size % 2 for size in sizes):
        raise ValueError(f"num_layers of the shapes is {sizes}, expected even depths: the block halfway is compared.")
    histories = [
        _comparable(rms_history(shape, learning_rate, num_steps, seeds), shape.num_layers, dial) for shape in shapes
    ]
    slopes = tuple(
        _slope(name, quantity, np.log(sizes), np.stack([history[name][:, :, index] for history in histories]))
        for name in histories[0]
        for index, quantity in enumerate(("value", "change"))
    )
    return CoordinateCheck(
        shapes[0].parametrization, dial, tuple(sizes), len(seeds), num_steps, learning_rate, tolerance, slopes
    )


def _comparable(history: dict[str, Any], num_layers: int, dial: Dial) -> dict[str, Any]:
    """Over width every layer has its counterpart. Over depth keep what lies at the same part of the way through.

    Block L/2 reads the stream halfway at every even depth L. The first block alone adds a vanishing part of a deep
    stream, so following layer numbers would show slopes that belong to no parametrisation.
    """
    if dial == "d_model":
        return history
    halfway, end = str(num_layers // 2 - 1), str(num_layers - 1)
    kept = {}
    for name, rms in history.items():
        activation, _, layer = name.partition(" ")
        if not layer or (activation != "residual" and layer == str(num_layers // 2)):
            kept[f"{activation} mid" if layer else activation] = rms
        elif activation == "residual" and layer in (halfway, end):
            kept[f"{activation} {'mid' if layer == halfway else 'end'}"] = rms
    return kept


def _slope(name: str, quantity: Any, log_sizes: np.ndarray, rms: np.ndarray) -> Slope:
    """Least squares of log RMS [size, seed, step] on log size, for each seed and step; steps at zero are left out."""
    moved = np.all(rms > 0, axis=(0, 1))
    centred = log_sizes - log_sizes.mean()
    log_rms = np.log(rms[:, :, moved])
    slopes = np.einsum("i,ijk->jk", centred, log_rms) / (centred @ centred)
    of_seeds = slopes.mean(axis=1) if moved.any() else np.zeros(rms.shape[1])
    with np.errstate(divide="ignore"):  # of what is still zero the mean is
        last = np.exp(np.log(rms[:, :, -1]).mean(axis=1))
    spread = float(of_seeds.std(ddof=1) / len(of_seeds) ** 0.5) if len(of_seeds) > 1 else None
    of_steps = iter(slopes.mean(axis=0).tolist())
    return Slope(
        activation=name,
        quantity=quantity,
        slope=float(of_seeds.mean()),
        standard_error=spread,
        slope_of_step=tuple(next(of_steps) if has_moved else None for has_moved in moved),
        rms=tuple(last.tolist()),
        is_judged=bool(moved.any()) and name.split()[0] not in NOT_JUDGED,
    )
