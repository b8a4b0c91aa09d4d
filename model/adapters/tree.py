"""Adapters of a whole tree of weights, as pure functions of it."""

from dataclasses import replace
from typing import Any

from kleiber.model.adapter import LOW_RANK
from kleiber.model.adapters.adapted import merged
from kleiber.model.compress.tree import compress
from kleiber.model.config import CompressionConfig, ModelConfig
from kleiber.model.parametrization import BASE


def merge(config: ModelConfig, params: Any) -> tuple[ModelConfig, Any]:
    """Returns the config without adapters, and the tree of weights that gives the same logits.

    Raises:
      ValueError: there is no adapter, or it is none that a weight can take in.
    """
    adapter = config.adapter
    if adapter is None or adapter.kind not in LOW_RANK:
        found = "no adapter" if adapter is None else f"adapter.kind '{adapter.kind}'"
        raise ValueError(f"{found} to merge, expected {', '.join(LOW_RANK)}: they alone are a change of a weight.")

    def walk(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        return merged(adapter, tree) if BASE in tree else {name: walk(each) for name, each in tree.items()}

    return replace(config, adapter=None, compression=CompressionConfig()), walk(compress(config, params))


def put_on(params: Any, start: Any) -> Any:
    """Returns a tree with the weights of another in place of its own where that one has them; an adapter stays."""
    if not isinstance(params, dict):
        return start
    if BASE in params and not isinstance(start, dict):
        return params | {BASE: start}
    return {name: put_on(each, start[name]) if name in start else each for name, each in params.items()}
