"""Exact counts of parameters and FLOPs of a shape, by three conventions. Needs no jax.

V vocabulary, D model width, F feed-forward width, L layers, T context, N query heads, K key/value heads, H head size.

An image is one token here, with one target: its patches or pixels are places where the same weights are used again.
Of an encoder_decoder a token is one of the T of the target, and bears its part of the row's S of source.

FLOPs are of training, forward and backward, a multiply-add counted as two. Only matrix products are counted: norms,
softmax, activations and the optimizer are left out: by the compiler's count (tests/compiled_flops.py)
the first three are 8 % of the operations at d_model 24 (six a head), 2 % at 64 and under 1 % from 256.
"""

from dataclasses import dataclass, replace

from kleiber.model.config import ModelConfig
from kleiber.model.encoder import parts
from kleiber.model.image import FILTER_PLACES, residual_shapes
from kleiber.model.kernels.splash_blocks import splash_blocks

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Counts:
    """All counts of one shape, side by side: parameters, and training FLOPs per token."""

    num_params_total: int
    num_params_non_embedding: int
    num_params_active: int
    flops_per_token: int
    flops_per_token_causal: int
    flops_per_token_6n: int
    flops_per_token_6n_non_embedding: int


def count(config: ModelConfig) -> Counts:
    """Returns every count of a shape."""
    return Counts(
        num_params_total(config),
        num_params_non_embedding(config),
        num_params_active(config),
        flops_per_token(config),
        flops_per_token_causal(config),
        flops_per_token_6n(config),
        flops_per_token_6n_non_embedding(config),
    )


def num_params_block_matrices(config: ModelConfig, is_active: bool = False) -> int:
    """Returns the parameters of one layer that enter matrix products: 2DNH + 2DKH, and 2DF (3DF when gated), less where
    they are of low rank, and those of adapters.

    With experts the feed-forward part is that of all experts, or of those one token passes (is_active), and the router.
    """
    attention = _matrices(config, "query", "key", "value", "output") + num_params_adapter(config)
    if (experts := config.experts) is None:
        return attention + _feed_forward_matrices(config)
    num = (experts.num_active if is_active else experts.num_experts) + experts.num_shared
    return attention + num * _feed_forward_matrices(config) + config.d_model * experts.num_experts


def num_params_layers(config: ModelConfig, is_active: bool = False) -> int:
    """Returns the parameters of all layers that enter matrix products; of a residual network, those of its blocks; of
    an encoder_decoder, those of both sides and between them."""
    if not config.has_attention:
        return sum(shape.num_params for shape in residual_shapes(config))
    if config.encoder:
        return sum(num_params_layers(part, is_active) for part in parts(config)) + num_params_cross_attention(config)
    return config.num_layers * num_params_block_matrices(config, is_active)


def num_params_cross_attention(config: ModelConfig) -> int:
    """Returns the parameters by which a decoder reads what an encoder made of the source, 0 without one."""
    return config.num_layers * _matrices(config, "query", "key", "value", "output") if config.encoder else 0


def num_params_encoder(config: ModelConfig) -> int:
    """Returns the parameters of the layers that read the source of an encoder_decoder, without tables."""
    return num_params_non_embedding(replace(parts(config)[0], has_previous_token_mix=False))


def num_params_decoder(config: ModelConfig) -> int:
    """Returns the parameters of the layers that write its target, without tables: all but those of the encoder."""
    return num_params_non_embedding(config) - num_params_encoder(config)


def num_params_pixels(config: ModelConfig) -> int:
    """Returns the parameters of the first matrix that pixels meet, 0 where the input is tokens."""
    if (image := config.image) is None:
        return 0
    return config.d_model * (image.patch_pixels if config.has_attention else FILTER_PLACES * image.channels)


def num_params_head(config: ModelConfig) -> int:
    """Returns the parameters of the head, tied or not."""
    return config.vocab_size * (config.d_model if config.has_attention else residual_shapes(config)[-1].width)


def num_params_adapter(config: ModelConfig) -> int:
    """Returns the parameters of one layer's adapters that enter matrix products: (inputs + outputs) rank of a matrix,
    2 outputs rank where its output passes a bottleneck; none where virtual tokens stand in front."""
    if (adapter := config.adapter) is None:
        return 0
    shapes = [shape for name, shape in config.matrix_shapes().items() if name in adapter.matrices]
    is_bottleneck = adapter.kind == "bottleneck"
    return adapter.rank * sum(outputs + (outputs if is_bottleneck else inputs) for inputs, outputs in shapes)


def _num_factors(config: ModelConfig) -> int:
    """Numbers of one layer's adapters that multiply and enter no matrix product: lengths of DoRA, singular values."""
    if (adapter := config.adapter) is None or adapter.kind not in ("dora", "adalora"):
        return 0
    outputs = [shape[1] for name, shape in config.matrix_shapes().items() if name in adapter.matrices]
    return sum(outputs) if adapter.kind == "dora" else adapter.rank * len(outputs)


def _feed_forward_matrices(config: ModelConfig) -> int:
    """Parameters of the products of one feed-forward, or of one expert."""
    return _matrices(config, "up", "gate", "down")


def _matrices(config: ModelConfig, *names: str) -> int:
    """Parameters of matrices of one layer, those that it has: inputs x outputs, or (inputs + outputs) x rank."""
    shapes, ranks = config.matrix_shapes(), config.ranks()
    held = [(shapes[name], ranks.get(name)) for name in names if name in shapes]
    return sum((inputs + outputs) * rank if rank else inputs * outputs for (inputs, outputs), rank in held)


def _last_product(config: ModelConfig) -> int:
    """Parameters of the last product of a feed-forward."""
    return config.d_model * config.ranks().get("down", config.feed_forward_width)


def num_params_embedding(config: ModelConfig) -> int:
    """Returns the parameters that grow with vocabulary or context: token table, untied head, learned positions."""
    table = 0 if config.image else config.vocab_size * config.d_model
    positions = config.context * config.d_model if config.positions == "learned" else 0
    return table + (0 if config.has_tied_head else num_params_head(config)) + positions


def num_params_non_embedding(config: ModelConfig) -> int:
    """Returns all parameters but the token table, the untied head and learned positions.

    Source: Kaplan et al. 2020 (arXiv:2001.08361), section 2.1; here the vectors (gains, mix) count too.
    """
    vectors_per_norm = config.has_norm_gain * (2 if config.norm == "layernorm" else 1)
    if not config.has_attention:
        shapes = residual_shapes(config)
        normed = sum(shape.channels + shape.width for shape in shapes) + shapes[-1].width
        return num_params_layers(config) + num_params_pixels(config) + vectors_per_norm * normed
    num_attentions, num_stacks = config.num_layers, 1
    num_feed_forwards = config.num_layers
    if config.encoder:
        num_attentions, num_stacks = 2 * config.num_layers + config.encoder.num_layers, 2
        num_feed_forwards += config.encoder.num_layers
    vectors = (num_attentions + num_feed_forwards + num_stacks) * vectors_per_norm
    vectors += config.has_previous_token_mix + config.has_next_token_mix + config.num_virtual_tokens
    of_layers = num_params_layers(config) + config.num_layers * _num_factors(config)
    of_layers += num_attentions * 2 * config.d_head * config.has_qk_norm_gain
    return of_layers + num_params_pixels(config) + vectors * config.d_model


def num_params_total(config: ModelConfig) -> int:
    """Returns all trainable parameters, embeddings included; a tied table counts once."""
    return num_params_non_embedding(config) + num_params_embedding(config)


def num_params_active(config: ModelConfig) -> int:
    """Returns the parameters that one token passes through: all of them but the experts it is not sent to."""
    return num_params_total(config) - num_params_layers(config) + num_params_layers(config, is_active=True)


def multiplied_in_layers(config: ModelConfig) -> int:
    """Returns how often a number meets a parameter of the layers for one token: once each, but as many times as an
    image has patches, or the output of a filter has pixels; of an encoder_decoder, those of the source as often as it
    has tokens for one of the target."""
    if not config.has_attention:
        return sum(shape.num_params * shape.side**2 for shape in residual_shapes(config))
    if config.encoder:
        encoder, decoder = parts(config)
        of_source = num_params_layers(encoder, True) + config.num_layers * _matrices(config, "key", "value")
        of_target = num_params_layers(decoder, True) + config.num_layers * _matrices(config, "query", "output")
        return of_target + _a_target(config, config.encoder.seq_len * of_source)
    return _of_places(config, num_params_layers(config, is_active=True))


def _of_places(config: ModelConfig, of_place: float) -> int:
    """Returns what each target bears of what every place of its row has: its patches, and a share of virtual tokens."""
    virtual = _a_target(config, config.num_virtual_tokens * of_place) if config.num_virtual_tokens else 0
    return round(config.num_positions * of_place) + virtual


def _a_target(config: ModelConfig, of_row: float) -> int:
    """Returns what each token of a target bears of something that its row has once."""
    return round(of_row / config.seq_len)


def _multiplied_pixels(config: ModelConfig) -> int:
    """Alike, of the first matrix that pixels meet."""
    places = config.image.side**2 if config.image and not config.has_attention else config.num_positions
    return places * num_params_pixels(config)


def matmul_flops_per_token(config: ModelConfig) -> int:
    """Returns the training FLOPs per token of products with weights: 6 a parameter for each time that it is used, and 4
    where no gradient goes on to pixels. The head counts even when tied."""
    return 6 * (multiplied_in_layers(config) + num_params_head(config)) + 4 * _multiplied_pixels(config)


def _attention_flops(config: ModelConfig) -> int:
    """12 L T N H: scores and weighted values are 2 T N H each forward, twice that backward, over the full square; of an
    image, for each of T patches."""
    if not config.has_attention:
        return 0
    of_place = 12 * config.num_layers * config.context * config.num_heads * config.d_head
    of_own = _of_places(config, of_place)
    return of_own + _source_attention_flops(config)


def _source_attention_flops(config: ModelConfig) -> int:
    """12 L S N H of each of S places for the encoder, and of each target token for what it reads of the source."""
    if config.encoder is None:
        return 0
    places, layers = config.encoder.seq_len, config.encoder.num_layers
    of_source = _a_target(config, 12 * layers * places**2 * config.num_heads * config.d_head)
    return of_source + 12 * config.num_layers * places * config.num_heads * config.d_head


def flops_per_token(config: ModelConfig) -> int:
    """Returns counted training FLOPs per token: 6 * matmul parameters + 12 L T N H, attention over the full square. Of
    an image, of all its patches or pixels.

    This is the project's C. The look-up of embeddings costs nothing, the head always counts.

    Source: PaLM (Chowdhery et al. 2022, arXiv:2204.02311), appendix B, with the head.
    """
    return matmul_flops_per_token(config) + _attention_flops(config)


def flops_per_token_causal(config: ModelConfig) -> int:
    """Returns training FLOPs per token with half the attention square, as if no masked score were computed; with all of
    it where attention looks both ways."""
    seen_both_ways = _source_attention_flops(config)
    of_own = _attention_flops(config) - seen_both_ways
    is_causal = config.is_causal or config.encoder is not None
    return matmul_flops_per_token(config) + of_own // (2 if is_causal else 1) + seen_both_ways


def flops_per_token_computed(config: ModelConfig) -> float:
    """Returns the training FLOPs per token that this implementation executes in products; sums that attention makes as
    products on CPU (4 N D a layer) are left out, like all sums.

    n query chunks compute (n + 1) / 2n of the square, and so does splash with T in n blocks; rematerialisation repeats
    of each layer's forward pass what is not kept (config.remat_keeps), but for its last product, whose result no
    gradient needs. cuDNN's kernel is counted as the plain one.
    """
    if not config.has_attention:
        return flops_per_token(config)
    if config.encoder:
        return _computed_of_parts(config)
    matrices = num_params_block_matrices(config, is_active=True)
    if experts := config.experts:  # every place of an expert is computed, taken or not
        matrices += round(experts.num_active * (experts.capacity_factor - 1) * _feed_forward_matrices(config))
    forward, backward = _computed_attention_flops(config)
    repeated = _repeated_flops(config, matrices, forward) if config.has_remat else 0
    idle = num_params_block_matrices(config, is_active=True) - matrices
    extra = -6 * _of_places(config, config.num_layers * idle)
    return matmul_flops_per_token(config) + extra + forward + backward + repeated


def _computed_of_parts(config: ModelConfig) -> float:
    """Returns flops_per_token_computed of an encoder_decoder: of both sides, and of what one reads of the other."""
    assert config.encoder
    ratio = config.encoder.seq_len / config.seq_len
    found = float(matmul_flops_per_token(config))
    for part, share in zip(parts(config), (ratio, 1.0), strict=True):
        forward, backward = _computed_attention_flops(part)
        matrices = num_params_block_matrices(part, is_active=True)
        repeated = _repeated_flops(part, matrices, forward) if config.has_remat else 0
        found += share * (forward + backward + repeated)
    cross = 12 * config.num_layers * config.encoder.seq_len * config.num_heads * config.d_head
    of_matrices = _matrices(config, "query", "output") + ratio * _matrices(config, "key", "value")
    repeated = 2 * config.num_layers * of_matrices + cross / 3 if config.has_remat else 0
    return found + cross + repeated


def _computed_attention_flops(config: ModelConfig) -> tuple[float, float]:
    """Returns the FLOPs per token of attention's own products, forward and backward.

    Of six products of the square's size two are forward. Splash makes five backward, the scores once more, and computes
    every block that the diagonal touches.
    """
    if not config.attention_kernel or "splash" not in config.attention_kernel:
        share = (config.attention_blocks + 1) / (2 * config.attention_blocks) if config.is_causal else 1
        square = share * _attention_flops(config)
        return square / 3, square * 2 / 3
    side, keys = splash_blocks(config.context)
    filled = -(-config.context // side) * side
    square = (filled / config.context) ** 2 * _attention_flops(config)
    if not config.is_causal:
        return square / 3, square * 5 / 6
    return square / 3 * (filled + side) / (2 * filled), square * 5 / 6 * (filled + keys) / (2 * filled)


def _repeated_flops(config: ModelConfig, matrices: int, attention: float) -> float:
    """Returns the FLOPs per token that rematerialisation repeats, of so many parameters a layer that are multiplied by
    and so many FLOPs of attention forward."""
    num_last = config.experts.num_shared if config.experts else 1  # results of routed experts are needed: they weigh
    of_attention = num_params_block_matrices(replace(config, experts=None)) - _feed_forward_matrices(config)
    if config.remat_keeps == "nothing":
        repeated = matrices - num_last * _last_product(config)
        return 2 * _of_places(config, config.num_layers * repeated) + attention
    scores = 0 if config.has_fused_attention else attention / 2
    if config.remat_keeps != "attention":
        return scores
    repeated = matrices - of_attention - num_last * _last_product(config)
    return 2 * _of_places(config, config.num_layers * repeated) + scores


def flops_per_token_6n(config: ModelConfig) -> int:
    """Returns 6 * all (active) parameters, the usual estimate; it leaves attention out and counts the look-up table."""
    return 6 * num_params_active(config)


def flops_per_token_6n_non_embedding(config: ModelConfig) -> int:
    """Returns 6 * (active) non-embedding parameters, Kaplan's estimate; it leaves attention and the head out."""
    return 6 * (num_params_non_embedding(config) - num_params_total(config) + num_params_active(config))


def training_flops(config: ModelConfig, num_tokens: int) -> int:
    """Returns counted FLOPs of training on num_tokens tokens."""
    return flops_per_token(config) * num_tokens
