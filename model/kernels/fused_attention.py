"""Attention that never writes its scores to memory, by kernels that others wrote: splash on TPU, cuDNN's on GPU.

B batch, T query position, S key position, N query heads, K key/value heads, H head size.

Source: Dao et al. 2022 (arXiv:2205.14135).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kleiber.model.kernels.splash_blocks import SPLASH_BLOCKS, splash_blocks


def splash(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ids_BS: jax.Array | None = None,
    *,
    scale: float,
    is_causal: bool,
    is_interpreted: bool = False,
) -> jax.Array:
    """Returns softmax(scale * q k) v [B, T, N, H] by JAX's splash attention, softmax in float32. Under jax.checkpoint
    its result and normaliser have the name "attended".

    Args:
      q_BTNH: queries; N is a multiple of K, and query head n reads key/value head n // (N / K).
      k_BSKH: keys.
      v_BSKH: values.
      ids_BS: integer document of each position, not negative: a query sees its own alone. None for one document a row.
      scale: factor on the query-key products.
      is_causal: whether a query sees nothing after itself.
      is_interpreted: whether it runs as plain operations, on any platform.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    length, num_keys, num_heads = q_BTNH.shape[1], k_BSKH.shape[1], q_BTNH.shape[2]
    more, more_keys = (-size % SPLASH_BLOCKS[-1] for size in (length, num_keys))
    if ids_BS is None and more_keys and not is_causal:
        ids_BS = jnp.zeros((len(q_BTNH), max(length, num_keys)), jnp.int32)
    shape, whole = (length + more, num_keys + more_keys), library.CausalMask if is_causal else library.FullMask
    (block, _), (block_keys, block_keys_backward) = (splash_blocks(size) for size in shape)
    kernel = library.make_splash_mha(
        library.MultiHeadMask([whole(shape)] * num_heads),
        block_sizes=library.BlockSizes(
            block_q=block,
            block_kv=block_keys,
            block_q_dkv=block,
            block_kv_dkv=block_keys_backward,
            block_kv_dkv_compute=block_keys,
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="attended",
        interpret=is_interpreted,
    )
    segments = None
    if ids_BS is not None:  # what fills up is a document of its own; under a causal mask alone nobody sees it anyway
        parts = (ids_BS[:, :length], more), (ids_BS[:, :num_keys], more_keys)
        segments = library.SegmentIds(*(jnp.pad(ids, [(0, 0), (0, n)], constant_values=-1) for ids, n in parts))

    def heads_first(x_BTNH: jax.Array, more: int) -> jax.Array:
        return jnp.pad(jnp.swapaxes(x_BTNH, 1, 2), [(0, 0), (0, 0), (0, more), (0, 0)])

    k_BKSH, v_BKSH = heads_first(k_BSKH, more_keys), heads_first(v_BSKH, more_keys)
    out_BNTH = jax.vmap(kernel)(heads_first(q_BTNH * scale, more), k_BKSH, v_BKSH, segments)
    return jnp.swapaxes(out_BNTH[:, :, :length], 1, 2)


def cudnn(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ids_BS: jax.Array | None = None,
    *,
    scale: float,
    is_causal: bool,
) -> jax.Array:
    """Returns what splash returns, by cuDNN's kernel for GPUs; arguments in bfloat16 or float16. Documents are told it
    as an array [B, 1, T, S]."""
    mask = None
    if ids_BS is not None:
        mask = (ids_BS[:, : q_BTNH.shape[1], None] == ids_BS[:, None, : k_BSKH.shape[1]])[:, None]
    attention = jax.nn.dot_product_attention
    return attention(q_BTNH, k_BSKH, v_BSKH, mask=mask, scale=scale, is_causal=is_causal, implementation="cudnn")


FUSED: dict[str, Callable[..., jax.Array]] = {
    "splash": splash,
    "interpreted_splash": functools.partial(splash, is_interpreted=True),
    "cudnn": cudnn,
}
"""By the name that ModelConfig.attention_kernel gives."""
