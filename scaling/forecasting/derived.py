"""Columns of a law that follow from parameters and tokens."""

from collections.abc import Mapping
from typing import Any

DERIVED = ("flops", "tokens_per_param")
COUNTS = {"num_params_total", "num_tokens"}


def with_derived(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Returns columns by name, with FLOPs and tokens per parameter where they are not given but counts are."""
    if not columns.keys() >= COUNTS:
        return dict(columns)
    params, tokens = columns["num_params_total"], columns["num_tokens"]
    return {"flops": 6.0 * params * tokens, "tokens_per_param": tokens / params, **columns}
