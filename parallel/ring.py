"""Causal attention over a sequence that is split over the mesh axis `context`: keys and values travel in a ring.

B batch, T position, N query heads, K key/value heads, G query heads per key/value head, H head size; t positions of
half a shard, c devices on the axis.

A plain ring leaves the first device idle most of the time, for causal masks hide most of what it receives. So the
sequence is cut into 2c halves and device i works on halves i and 2c - 1 - i: at every turn each device then has exactly
two half-blocks to do, none of them masked.

Sources: Liu et al. 2023 (arXiv:2310.01889), the ring; Brandon et al. 2023 (arXiv:2311.09431), the balance.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

AXIS = "context"
MASKED = -1e30  # finite, so that a gradient through a masked score is zero and never NaN

Partial = tuple[jax.Array, jax.Array, jax.Array]
"""Softmax in the making, float32: (highest score [B, t, K, G], sum of weights alike, weighted values [..., H])."""


def context_size() -> int:
    """Returns the devices over which positions are split in the mesh in use; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[AXIS]


def ring_attention(
    q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, scale: float, segment_ids_BT: jax.Array | None = None
) -> jax.Array:
    """Returns softmax(scale * q k) v, where a query sees itself and what came before in its own segment. Raises
    ValueError if T is not a multiple of twice the devices on the axis.

    Args:
      q_BTNH: queries; N is a multiple of K, and query head n reads key/value head n // (N / K).
      k_BTKH: keys.
      v_BTKH: values.
      scale: factor on the query-key products.
      segment_ids_BT: integer document of each position; None for one document a row.

    Returns:
      Array [B, T, N, H] in v's dtype.
    """
    num_devices, length = context_size(), q_BTNH.shape[1]
    if length % (2 * num_devices):
        raise ValueError(
            f"seq_len {length} must be a multiple of {2 * num_devices}, twice mesh axis 'context' of {num_devices}."
        )
    split = PartitionSpec(None, AXIS)
    arrays = [q_BTNH * scale, k_BTKH, v_BTKH, *([] if segment_ids_BT is None else [segment_ids_BT])]
    ring = functools.partial(_ring, num_devices=num_devices)
    specs = (split,) * len(arrays)
    return jax.shard_map(ring, axis_names={AXIS}, in_specs=specs, out_specs=split)(*arrays)


def _ring(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None = None, *, num_devices: int):
    """The part of one device; arrays hold its shard of the positions."""
    num_kv_heads, shape = k.shape[2], q.shape
    q = q.reshape(*q.shape[:2], num_kv_heads, -1, q.shape[-1])  # [B, t, K, G, H]
    mine = _to_halves((q, k, v, segments), num_devices)
    (q_low, k_low, v_low, seg_low), (q_high, k_high, v_high, seg_high) = mine
    positions = np.arange(q_low.shape[1])
    causal = jnp.asarray(positions[:, None] >= positions[None, :])
    low = _attend(q_low, k_low, v_low, seg_low, seg_low, causal)
    high = _merge(
        _attend(q_high, k_high, v_high, seg_high, seg_high, causal), _attend(q_high, k_low, v_low, seg_high, seg_low)
    )
    turn = [(device, (device + 1) % num_devices) for device in range(num_devices)]
    index = jax.lax.axis_index(AXIS)

    @jax.checkpoint  # the scores of a turn are computed again in the backward pass
    def one_turn(carry, step):
        low, high, travelling = carry
        travelling = jax.tree.map(lambda a: jax.lax.ppermute(a, AXIS, turn), travelling)
        (k_low, v_low, seg_k_low), (k_high, v_high, seg_k_high) = travelling
        is_earlier = step <= index  # the sender, index - step, comes before us in the sequence
        # Our high half sees the sender's low half always. The other pair: low sees low of an earlier device, high sees
        # high of a later one.
        high = _merge(high, _attend(q_high, k_low, v_low, seg_high, seg_k_low))
        choose = functools.partial(jax.tree.map, lambda a, b: jnp.where(is_earlier, a, b))
        q_other, seg_other = choose((q_low, seg_low), (q_high, seg_high))
        k_other, v_other, seg_k_other = choose((k_low, v_low, seg_k_low), (k_high, v_high, seg_k_high))
        other = _attend(q_other, k_other, v_other, seg_other, seg_k_other)
        merged = _merge(choose(low, high), other)
        return (choose(merged, low), choose(high, merged), travelling), None

    carry = (low, high, ((k_low, v_low, seg_low), (k_high, v_high, seg_high)))
    (low, high, _), _ = jax.lax.scan(one_turn, carry, jnp.arange(1, num_devices))
    outputs = [(weighted / total[..., None]).astype(v.dtype) for _, total, weighted in (low, high)]
    return _from_halves(outputs, num_devices).reshape(shape)


def _attend(q, k, v, seg_q, seg_k, mask_TS: jax.Array | None = None) -> Partial:
    """One block: queries [B, t, K, G, H] over keys [B, s, K, H]."""
    scores = jnp.einsum("BTKGH,BSKH->BTKGS", q, k, preferred_element_type=jnp.float32)
    if mask_TS is not None:
        scores = jnp.where(mask_TS[None, :, None, None, :], scores, MASKED)
    if seg_q is not None:
        scores = jnp.where((seg_q[:, :, None] == seg_k[:, None, :])[:, :, None, None, :], scores, MASKED)
    highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
    weights = jnp.exp(scores - highest[..., None])
    weighted = jnp.einsum("BTKGS,BSKH->BTKGH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return highest, jnp.sum(weights, axis=-1), weighted


def _merge(a: Partial, b: Partial) -> Partial:
    """Returns the softmax over the keys of both."""
    highest = jnp.maximum(a[0], b[0])
    scale_a, scale_b = jnp.exp(a[0] - highest), jnp.exp(b[0] - highest)
    total = a[1] * scale_a + b[1] * scale_b
    return highest, total, a[2] * scale_a[..., None] + b[2] * scale_b[..., None]


def _routes(num_devices: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Returns where each device sends its first half (halves 0, 2, 4, ...) and its second (1, 3, 5, ...)."""

    def worker(half: int) -> int:
        return half if half < num_devices else 2 * num_devices - 1 - half

    even = [(device, worker(2 * device)) for device in range(num_devices)]
    odd = [(device, worker(2 * device + 1)) for device in range(num_devices)]
    return even, odd


def _to_halves(tree, num_devices: int):
    """Returns (low, high): the halves i and 2c - 1 - i of every array, at device i."""
    even, odd = _routes(num_devices)
    is_even = jax.lax.axis_index(AXIS) % 2 == 0  # half i is an even one, so it came with the evens

    def one(array):
        first, second = jnp.split(array, 2, axis=1)
        first, second = jax.lax.ppermute(first, AXIS, even), jax.lax.ppermute(second, AXIS, odd)
        return jnp.where(is_even, first, second), jnp.where(is_even, second, first)

    leaves, structure = jax.tree.flatten(tree)
    low, high = zip(*map(one, leaves), strict=True)
    return jax.tree.unflatten(structure, low), jax.tree.unflatten(structure, high)


def _from_halves(halves: list[jax.Array], num_devices: int) -> jax.Array:
    """Returns the positions of this device's shard, undoing _to_halves."""
    low, high = halves
    is_even = jax.lax.axis_index(AXIS) % 2 == 0
    first, second = jnp.where(is_even, low, high), jnp.where(is_even, high, low)
    even, odd = _routes(num_devices)
    back = [[(destination, source) for source, destination in route] for route in (even, odd)]
    return jnp.concatenate([jax.lax.ppermute(first, AXIS, back[0]), jax.lax.ppermute(second, AXIS, back[1])], axis=1)
