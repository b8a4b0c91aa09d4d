"""The shape of a Transformer and the numbers it is computed in. Needs no jax, so planning stays instant."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from kleiber.fields import check_fields
from kleiber.model.adapter import AdapterConfig, AdapterTarget
from kleiber.model.conditions import check_adapter, check_ranks
from kleiber.model.encoder import EncoderConfig, check_encoder
from kleiber.model.image import ImageConfig, check_image

Activation = Literal["relu_squared", "silu", "gelu"]
Dtype = Literal["float32", "bfloat16", "float16"]
Parametrization = Literal["standard", "inverse_width", "mup", "completep"]
Family = Literal["decoder", "encoder", "vision_transformer", "residual_network", "encoder_decoder"]
"""What a model may be; model/families/table.py says where each stands."""
AttentionKernel = Literal["plain", "splash", "interpreted_splash", "cudnn"]
RematKeeps = Literal["nothing", "attention", "products", "products_on_host"]


@dataclass(frozen=True)
class ExpertsConfig:
    """A mixture of experts in place of each feed-forward; d_ff is then the width of one expert."""

    num_experts: int
    """Experts a token may be sent to."""
    num_active: int = 2
    """Experts each token is sent to."""
    num_shared: int = 0
    """Experts that every token passes besides, as one wider feed-forward."""
    capacity_factor: float = 1.25
    """Places an expert has for a group's tokens, over its even share; who finds it full skips it and is counted."""
    group_size: int | None = None
    """Consecutive tokens that compete for places; None means a whole row. A mesh with context needs smaller ones."""
    has_normalised_weights: bool = True
    """Whether the weights of a token's experts sum to one."""
    balance_loss: float = 0.01
    """Weight of the load-balancing loss in the training loss; never part of the reported loss."""
    router_z_loss: float = 0.001
    """Weight of the router's squared log-normaliser in the training loss; never part of the reported loss."""

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("num_experts", "num_active", "group_size"), "[1, inf)")
        weights = dict.fromkeys(("balance_loss", "router_z_loss"), "[0, inf)")
        check_fields(self, num_shared="[0, inf)", capacity_factor="(0, inf)", **counts, **weights)
        if self.num_active > self.num_experts:
            raise ValueError(f"experts: {self.num_active} active of {self.num_experts}, expected at most all of them.")


@dataclass(frozen=True)
class CompressionConfig:
    """Fewer bits and fewer weights (model/compress/); as it stands here nothing is compressed."""

    weight_bits: int = 32
    """Bits of every matrix, 2 to 8; 32 leaves them as they are."""
    table_bits: int | None = None
    """Bits of the embedding and of the head; None is weight_bits."""
    number_format: Literal["integer", "float8"] = "integer"
    """Whole multiples of a scale, or 8-bit floats (e4m3) times one; the latter need 8 bits."""
    group_size: int | None = None
    """Consecutive inputs of an output that share a scale; None is all of them. Tables keep one an entry."""
    has_clipped_scales: bool = False
    """Whether each scale is the one of least squared error, which may cut off the largest weights."""
    sparsity: float = 0.0
    """Share of the weights inside the layers that are zero, the smallest; tables and the router stay whole."""
    pattern: Literal["matrix", "global", "1:4", "2:4", "4:8"] = "matrix"
    """Which weights compete to stay: those of a matrix, of all of them, or n of every m inputs of an output."""
    rank_share: float = 1.0
    """Rank of the matrices inside the layers, over the smaller side of each: two narrow factors stand in the place of a
    matrix; 1 leaves it."""
    factored: tuple[AdapterTarget, ...] | None = None
    """Which matrices rank_share is of; None is all of them."""
    approximation: Literal["whitened", "plain"] = "whitened"
    """Of a trained matrix, the factors that come nearest to what it gives of its inputs, as training has them; or those
    that come nearest to its entries, the truncated singular value decomposition."""
    rounding: Literal["nearest", "gptq"] = "nearest"
    """How the bits of a matrix inside the layers are chosen: each weight to the nearest; or of a finished model input
    after input, each making good for the errors before it in what the matrix gives of its inputs (GPTQ)."""

    def __post_init__(self) -> None:
        check_fields(self, sparsity="[0, 1)", rank_share="(0, 1]", group_size="[1, inf); None is all inputs")
        if self.factored == ():
            raise ValueError("factored is empty, expected matrices such as up,down, or None for all of them.")
        for name, bits in (("weight_bits", self.weight_bits), ("table_bits", self.table_bits)):
            if bits is not None and bits != 32 and not 2 <= bits <= 8:
                raise ValueError(f"{name} is {bits}, expected 2 to 8, or 32 for weights as they are.")
            if self.number_format == "float8" and bits not in (None, 8, 32):
                raise ValueError(f"{name} is {bits} with number_format float8, expected 8 or 32.")
        if self.rounding == "gptq" and (self.weight_bits == 32 or self.sparsity or self.is_low_rank):
            what = "weight_bits 32, which rounds nothing" if self.weight_bits == 32 else "sparsity or rank_share"
            raise ValueError(f"rounding gptq with {what}; expected weight_bits of 2 to 8 of whole, dense matrices.")
        kept, of = map(int, self.pattern.split(":")) if ":" in self.pattern else (1, 1)
        if of > 1 and self.sparsity != 1 - kept / of:
            raise ValueError(
                f"pattern {self.pattern} with sparsity {self.sparsity:g}: {kept} of {of} kept is a sparsity of "
                f"{1 - kept / of:g}."
            )

    @property
    def rounds(self) -> bool:
        """Whether any weight has fewer bits."""
        return self.weight_bits != 32 or self.table_bits not in (None, 32)

    @property
    def is_none(self) -> bool:
        """Whether the model stays as it is."""
        return not self.rounds and not self.sparsity and not self.is_low_rank

    @property
    def is_low_rank(self) -> bool:
        """Whether factors stand in the place of any matrix."""
        return self.rank_share != 1


@dataclass(frozen=True)
class ModelConfig:
    """A Transformer, or a network of convolutions. Every field changes the function or its cost; nothing here names a
    device."""

    d_model: int
    """Width of the residual stream."""
    num_layers: int
    """Number of layer blocks, each attention then feed-forward."""
    num_heads: int
    """Query heads; must divide d_model, and d_model / num_heads must be even for rotary positions."""
    num_kv_heads: int | None = None
    """Key/value heads, a divisor of num_heads (grouped-query attention); None means as many as query heads."""
    d_ff: int | None = None
    """Feed-forward width; None means 4 * d_model (plain), or 8/3 * d_model rounded up to a multiple of 8 (gated)."""
    vocab_size: int = 256
    """Number of token ids; 256 for bytes."""
    seq_len: int = 128
    """Context in tokens, in training and evaluation."""
    family: Family = "decoder"
    """What is built of the layers: a row of model/families/table.py."""
    experts: ExpertsConfig | None = None
    """Mixture of experts in every layer; None means one feed-forward a layer."""
    activation: Activation = "relu_squared"
    """Non-linearity of the feed-forward."""
    is_gated: bool = False
    """Whether the feed-forward multiplies by a second projection (GLU)."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Normalisation before attention, feed-forward and head; statistics are computed in float32."""
    has_norm_gain: bool = False
    """Whether each norm learns a gain (and a bias, for layernorm)."""
    has_qk_norm: bool = False
    """Whether queries and keys are RMS-normalised per head before the scores."""
    positions: Literal["rotary", "learned"] = "rotary"
    """How positions enter: rotated queries and keys, or a learned table added to the embedding."""
    has_previous_token_mix: bool = False
    """Whether h_t = e_t + s * e_(t-1) once at the input, s a learned vector started at 0.5."""
    has_tied_head: bool = True
    """Whether the output head is the embedding table."""
    dropout: float = 0.0
    """Probability of dropping a unit of what attention and feed-forward add during training."""
    parametrization: Parametrization = "inverse_width"
    """Rule for initial scales, multipliers and learning rates over width and depth (kleiber.model.parametrization)."""
    base_d_model: int = 32
    """Width at which the learning rate was chosen."""
    base_num_layers: int = 2
    """Depth at which the learning rate was chosen."""
    base_num_heads: int | None = None
    """Query heads at which the learning rate was chosen (sets the base head width of muP); None means num_heads."""
    param_dtype: Dtype = "float32"
    """Storage of the parameters, and of Adam's second moment. bfloat16 has 8 bits: an update below a 256th of its
    weight is lost, so that small learning rates train worse (loss 1.64 in place of 1.39 at .0005 in a trial); at .01 no
    difference was seen. float16 is for sgd alone."""
    compute_dtype: Dtype = "float32"
    """Arithmetic of the products; norms, softmax and the loss stay in float32. float16 trains with a loss scale."""
    has_float8_products: bool = False
    """Whether operands of the products inside the layers are rounded to 8 bits (kleiber.model.kernels.float8): fast
    where the hardware has such products, emulated elsewhere."""
    has_scanned_layers: bool = False
    """Whether the layers run as one scanned layer: faster to compile, the same numbers."""
    has_remat: bool = False
    """Whether activations are recomputed in the backward pass: less memory, the same numbers."""
    attention_blocks: int = 2
    """Chunks of queries in causal attention: n chunks skip (n - 1) / 2n of the square, the same numbers. Kernels other
    than plain cut it their own way."""
    attention_kernel: AttentionKernel | None = None
    """How attention is computed: plain writes the scores to memory; splash (TPU) and cudnn (GPU, 16-bit) never do;
    interpreted_splash is splash anywhere, slowly. None takes the platform's: the same numbers to rounding."""
    remat_keeps: RematKeeps = "nothing"
    """What has_remat keeps of a layer in place of recomputing it: nothing but its input; all of attention; results of
    all products; the same in the memory of the host. The same numbers."""
    has_next_token_mix: bool = False
    """Whether the input of an encoder also holds s * e_(t+1), s a learned vector started at 0.5. With the
    previous-token mix it ends the plateau on which small encoders sit, each seed for another time."""
    compression: CompressionConfig = CompressionConfig()
    """Fewer bits and fewer weights."""
    adapter: AdapterConfig | None = None
    """Small weights beside the matrices; None is none."""
    rotary_base: float = 10_000.0
    """Longest wavelength of rotary positions over 2 pi, in tokens."""
    norm_epsilon: float = 1e-6
    """Added to the mean square by which a norm divides, that of queries and keys included."""
    has_qk_norm_gain: bool = False
    """Whether the norms of queries and keys learn a gain, one for all heads."""
    head_width: int | None = None
    """Width of one head; None means d_model / num_heads."""
    image: ImageConfig | None = None
    """What the families vision_transformer and residual_network read, None of the others. Each image is one target of
    vocab_size labels: seq_len is then 1, and the head is not tied, as there is no table of tokens. Of a
    residual_network d_model is the width of the first stage, num_layers counts the residual blocks of all stages, and
    num_heads the groups that its norms normalise apart."""
    encoder: EncoderConfig | None = None
    """What an encoder_decoder reads its source with, None of the other families. Both sides share the table of tokens,
    and positions of a target go on where its source ends (RedLLM, arXiv:2510.26622)."""

    def __post_init__(self) -> None:
        sizes = ("d_model", "num_layers", "num_heads", "num_kv_heads", "vocab_size", "seq_len", "attention_blocks")
        bases = ("base_d_model", "base_num_layers", "base_num_heads")
        check_fields(
            self,
            d_ff="[1, inf); None is the usual width",
            dropout="[0, 1)",
            rotary_base="(0, inf)",
            norm_epsilon="(0, inf)",
            head_width="[1, inf); None is d_model / num_heads",
            **dict.fromkeys((*sizes, *bases), "[1, inf)"),
        )
        if self.head_width is None and self.d_model % self.num_heads:
            divisors = [n for n in range(1, self.d_model + 1) if self.d_model % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - self.num_heads))[:3])
            raise ValueError(
                f"num_heads {self.num_heads} does not divide d_model {self.d_model}; try num_heads in {near}."
            )
        check_image(self)
        check_encoder(self)
        if self.positions == "rotary" and self.has_attention and self.d_head % 2:
            whence = f"d_model / num_heads = {self.d_model} / {self.num_heads}" if not self.head_width else "head_width"
            raise ValueError(
                f"rotary positions need an even d_head, got {whence} = {self.d_head}; change num_heads or use "
                "positions='learned'."
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}.")
        if self.has_qk_norm_gain and not self.has_qk_norm:
            raise ValueError("has_qk_norm_gain is a gain of has_qk_norm; set has_qk_norm=True too.")
        if self.has_next_token_mix and self.is_causal:
            raise ValueError("has_next_token_mix shows a decoder the token it should predict; use family='encoder'.")
        if self.remat_keeps != "nothing" and not self.has_remat:
            raise ValueError(f"remat_keeps is '{self.remat_keeps}' without has_remat=True, which keeps everything.")
        check_adapter(self)
        check_ranks(self)
        pattern = self.compression.pattern
        parts = {"group_size": self.compression.group_size, f"pattern {pattern}": int(pattern.partition(":")[2] or 1)}
        for name, part in parts.items():
            widths = {"d_model": self.d_model, "the feed-forward width": self.feed_forward_width}
            widths |= {f"the rank of {matrix}": rank for matrix, rank in self.ranks().items()}
            for what, inputs in widths.items():
                if part and inputs % part:
                    raise ValueError(
                        f"compression: {name} takes {part} inputs at a time and does not divide {what} {inputs}; "
                        f"choose one that divides {' and '.join(map(str, dict.fromkeys(widths.values())))}."
                    )

    @property
    def is_causal(self) -> bool:
        """Whether a position sees nothing after itself, so that the model can predict the next token."""
        return self.family == "decoder"

    @property
    def unit(self) -> str:
        """What a target is, and the loss the mean over."""
        return "image" if self.image else "token"

    @property
    def has_attention(self) -> bool:
        """Whether the blocks are those of a Transformer."""
        return self.family != "residual_network"

    @property
    def num_positions(self) -> int:
        """Places of a row that pass the blocks for each of its targets: one of text, all patches of an image."""
        return self.image.num_patches if self.image and self.has_attention else 1

    @property
    def context(self) -> int:
        """Places that attention looks at together."""
        return self.num_positions * self.seq_len + self.num_virtual_tokens

    @property
    def num_virtual_tokens(self) -> int:
        """Vectors in front of every row (adapters/prompt.py)."""
        return self.adapter.num_virtual_tokens if self.adapter and self.adapter.kind == "prompt" else 0

    def on_platform(self, platform: str) -> "ModelConfig":
        """Returns the config with the attention kernel that a platform has: splash for `tpu`; cudnn for `gpu` where its
        kernel takes the numbers (16 bits, heads of 8, 16, ... 128); plain elsewhere. Raises ValueError if the config
        forces a kernel of another platform, or cudnn where it cannot."""
        if not self.has_attention:
            return self
        fits_cudnn = self.compute_dtype != "float32" and self.d_head % 8 == 0 and self.d_head <= 128
        kernels: dict[str, AttentionKernel] = {"tpu": "splash", "gpu": "cudnn" if fits_cudnn else "plain"}
        own = kernels.get(platform, "plain")
        kernel = self.attention_kernel or own
        if kernel not in (own, "plain", "interpreted_splash"):
            raise ValueError(
                f"attention_kernel is '{kernel}', which platform '{platform}' cannot run with compute_dtype "
                f"{self.compute_dtype} and heads of {self.d_head}; leave it None, which takes '{own}' here."
            )
        return replace(self, attention_kernel=kernel)

    @property
    def has_fused_attention(self) -> bool:
        """Whether the scores of attention never lie in memory."""
        return self.attention_kernel not in (None, "plain")

    @property
    def d_head(self) -> int:
        """Width of one head, resolved."""
        return self.head_width or self.d_model // self.num_heads

    @property
    def base_d_head(self) -> float:
        """Width of one head of the base shape; one that is given is that of all shapes."""
        return self.head_width or self.base_d_model / (self.base_num_heads or self.num_heads)

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, resolved."""
        return self.num_kv_heads or self.num_heads

    @property
    def feed_forward_width(self) -> int:
        """Feed-forward width, resolved."""
        if self.d_ff is not None:
            return self.d_ff
        return -(-8 * self.d_model // 24) * 8 if self.is_gated else 4 * self.d_model

    def matrix_shapes(self) -> dict[str, tuple[int, int]]:
        """Returns (inputs, outputs) of the matrices of one layer, by name; those of the feed-forward of one expert."""
        d_query, d_kv, d_ff = self.num_heads * self.d_head, self.kv_heads * self.d_head, self.feed_forward_width
        into, back = (self.d_model, d_ff), (d_ff, self.d_model)
        attention = {"query": (self.d_model, d_query), "key": (self.d_model, d_kv), "value": (self.d_model, d_kv)}
        gate = {"gate": into} if self.is_gated else {}
        return attention | {"output": (d_query, self.d_model), "up": into} | gate | {"down": back}

    def ranks(self) -> dict[str, int]:
        """Returns the inner width of the factors of each matrix of a layer that has them, by name."""
        compression = self.compression
        if not compression.is_low_rank:
            return {}
        chosen = compression.factored or get_args(AdapterTarget)
        shapes = {name: shape for name, shape in self.matrix_shapes().items() if name in chosen}
        return {name: round(compression.rank_share * min(shape)) for name, shape in shapes.items()}
