"""What a question asks for: the fields that its words name, themselves or by one of their levels."""

import re
from collections.abc import Iterable

from kleiber.experiments.planning.varied import Factor

IN_WORDS = {
    "d_model": "width", "num_layers": "depth deep", "seq_len": "context", "dtype": "precision", "epochs": "passes",
    "has_tied_head": "tying embeddings", "is_gated": "gating glu", "num_kv_heads": "key value",
    "weight_bits": "quantisation quantization", "tokenizer": "vocabulary", "corpus": "mixture",
}  # fmt: skip
"""What a question may call a field besides its name."""
SAYS_LITTLE = frozenset("num kind name model size step data optimizer fraction ha i".split())
"""Parts of names that a question may hold without meaning that field; a whole name always counts."""


def words(text: str) -> set[str]:
    """Returns the words of a text, small, hyphens and a plural's s taken off."""
    return {word.removesuffix("s") for word in re.findall(r"[a-z0-9]+", text.lower().replace("-", ""))}


def is_named(names: Iterable[str], said: set[str]) -> bool:
    """Returns whether words of a question name a field by one of its names."""
    names = list(names)
    parts = set().union(*(words(f"{name.replace('_', ' ')} {IN_WORDS.get(name, '')}") for name in names)) - SAYS_LITTLE
    whole = any(words(name.replace("_", " ")) <= said for name in names)
    return whole or bool(said & {word for word in parts if len(word) > 2 and not word.isdecimal()})


def is_asked(factor: Factor, said: set[str]) -> bool:
    """Returns whether words of a question name a factor, what goes with it, or one of its levels."""
    levels = set().union(*(words(level) for level in factor.levels if isinstance(level, str)))
    by_level = said & {word for word in levels if len(word) > 2 and not word.isdecimal()}
    return bool(by_level) or is_named((each for each in (factor.name, *factor.goes_with) if "." not in each), said)
