"""Weights by name: those that words such as `head` or `blocks/01/*` mean."""

import difflib
import fnmatch
import functools

import jax

from kleiber.model.adapters.adapted import SMALL
from kleiber.model.config import ModelConfig
from kleiber.model.functional import declarations


@functools.lru_cache(maxsize=256)
def weight_sizes(config: ModelConfig) -> dict[str, int]:
    """Returns how many numbers each weight of a shape holds, by its path, such as blocks/00/attention/query."""
    found = {}
    for path, weight in jax.tree_util.tree_leaves_with_path(declarations(config)):
        size = 1
        for length in weight.shape:
            size *= length
        found[jax.tree_util.keystr(path, simple=True, separator="/")] = size
    return found


@functools.lru_cache(maxsize=256)
def select(config: ModelConfig, words: str) -> frozenset[str]:
    """Returns the paths of the weights that any of the words means.

    Args:
      config: the shape.
      words: with spaces between them: `all`; `head`, the table where it is tied to it; `adapter`; or a path in which *
        stands for anything, a folder of the tree for all in it.

    Raises:
      ValueError: a word means none, with the nearest names.
    """
    paths, chosen = tuple(weight_sizes(config)), set[str]()
    head = "input/embedding" if config.has_tied_head else "head"
    named = {"all": paths, "head": (head,), "adapter": tuple(p for p in paths if p.rpartition("/")[2] in SMALL)}
    for word in words.split():
        meant = named.get(word) or [p for p in paths if fnmatch.fnmatchcase(p, word) or p.startswith(f"{word}/")]
        if not meant:
            near = difflib.get_close_matches(word, [*named, *paths], n=3, cutoff=0.3) or paths[:3]
            raise ValueError(f"'{word}' means no weight of this model; the nearest are {', '.join(near)}.")
        chosen.update(meant)
    return frozenset(chosen)
