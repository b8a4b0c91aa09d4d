"""Which keys a query of attention sees.

B batch, T query position, S key position.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mask:
    """A query sees the keys of its own document; in a causal one, only those up to its own position."""

    segment_ids_BS: jax.Array | None = None
    """Integer document of each position; None for one document a row."""
    is_causal: bool = field(default=True, metadata={"static": True})
    """Whether a query sees nothing after itself; False lets it look both ways."""
    key_ids_BS: jax.Array | None = None
    """Integer document of each key where keys are of another sequence than queries, as in cross-attention: a query sees
    those of its own document there. None where both are the same."""
    num_shared: int = field(default=0, metadata={"static": True})
    """The first keys, which queries of every document see."""

    def of_queries(self, start: int, end: int, num_keys: int) -> jax.Array:
        """Returns whether the queries at positions [start, end) see each key, bool [1 or B, T, S].

        S is num_keys, but for a causal mask `end`: no query sees a key after that, so that nothing is computed of them.
        """
        queries, keys = np.arange(start, end)[:, None], np.arange(end if self.is_causal else num_keys)[None]
        mask_BTS = jnp.asarray(queries >= keys if self.is_causal else np.full((queries + keys).shape, True))[None]
        if (ids_BS := self.segment_ids_BS) is not None:
            key_ids_BS = ids_BS if self.key_ids_BS is None else self.key_ids_BS
            is_own_BTS = ids_BS[:, start:end, None] == key_ids_BS[:, None, : keys.size]
            mask_BTS = mask_BTS & (is_own_BTS | (keys < self.num_shared))
        return mask_BTS
