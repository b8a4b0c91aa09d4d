"""What the matrices of a model read: second moments of their inputs, for compression that keeps what they give."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.compress.observed import observing
from kleiber.model.config import ModelConfig
from kleiber.model.families.decoder import block_name
from kleiber.model.functional import apply_hidden
from kleiber.model.parametrization import name_of


def second_moments(
    config: ModelConfig, params: Any, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Returns the mean of x^T x over the inputs x of every matrix inside the layers, float32 [D, D] (of stacked layers
    [layers, D, D]), by the path of the matrix, such as blocks/00/attention/query.

    Args:
      config: of plain matrices, whole ones.
      params: tree of weights.
      tokens_BT: int32.
      segment_ids_BT: document of each; None for one document a row.
    """
    plain = replace(config, has_scanned_layers=False, has_remat=False, remat_keeps="nothing", dropout=0.0)
    unrolled = params
    if config.has_scanned_layers:
        layers = {
            block_name(n): jax.tree.map(lambda leaf, n=n: leaf[n], params["blocks"]) for n in range(config.num_layers)
        }
        unrolled = {**params, "blocks": layers}
    with observing() as seen:
        apply_hidden(plain, unrolled, tokens_BT, segment_ids_BT)
    found: dict[str, list[jax.Array]] = {name: [] for name in config.matrix_shapes()}
    for name, x in seen:
        if name not in found:
            continue
        x = x.astype(jnp.float32)
        found[name].append(jnp.einsum("...d,...e->de", x, x) / (x.size // x.shape[-1]))

    moments = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(params["blocks"]):
        if (name := name_of(path)) in found:
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            is_stacked = config.has_scanned_layers
            moments[f"blocks/{place}"] = jnp.stack(found[name]) if is_stacked else found[name][int(path[0].key)]
    return moments
