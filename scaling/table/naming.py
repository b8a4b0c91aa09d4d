"""Which column of somebody's table is which of ours: by its name, and the unit that the name gives."""

import difflib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from kleiber.scaling.table.expression import as_word

USUAL = {
    "loss": ("val loss", "validation loss", "final loss", "eval loss", "test loss", "L", "cross entropy", "nll", "bpb"),
    "num_params_total": (
        *("params", "num params", "n params", "parameters", "num parameters", "param count", "n total", "total params"),
        *("model size", "size", "N"),
    ),
    "num_tokens": ("tokens", "num tokens", "n tokens", "train tokens", "training tokens", "tokens seen", "D"),
    "num_unique_tokens": ("unique tokens", "distinct tokens", "U"),
    "num_params_non_embedding": ("non embedding params", "params no embed", "N ne"),
    "flops": ("flops", "flop", "training flop", "train flops", "compute", "C"),
    "epochs": ("epoch", "num epochs", "passes"),
    "weight_bits": ("bits", "w bits", "precision"),
}
"""Names that other people's tables use for ours; only ever proposed, never taken silently."""
UNITS = {
    **dict.fromkeys(("k", "thousand", "thousands"), 1e3),
    **dict.fromkeys(("m", "mn", "mil", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "bn", "billion", "billions", "g"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 1e12),
}
PERPLEXITY = ("perplexity", "ppl")
"""Words of a column whose logarithm is a loss."""
LARGEST_IN_UNITS = 1e5
"""Counts whose median is larger are not in millions or billions, whatever the name says."""
QUALIFIERS = {"final", "last", "mean", "avg", "total", "num", "n", "val", "valid", "validation", "eval"}
"""Words in a name that change little (singular, as all words here)."""
OTHER = {"std", "stderr", "se", "sem", "upper", "lower", "min", "max", "error", "count", "rate", "train", "per", "id"}
"""Words that make it another quantity."""


def nearest(name: str, names: Sequence[str]) -> str | None:
    """Returns the column that most likely is the one asked for, or None."""
    ranked = [(_likeness(name, each), -index) for index, each in enumerate(names)]
    if ranked and max(ranked)[0] > 0:
        return names[-max(ranked)[1]]
    long = [each for each in names if len(each) > 2]
    near = difflib.get_close_matches(name, long, n=1, cutoff=0.5)
    return near[0] if near else next((each for each in long if name in each or each in name), None)


def _words(name: str) -> list[str]:
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    words = [word.rstrip("s") or word for word in re.findall(r"[a-z]+", apart.lower())]
    return words[:-1] if len(words) > 1 and words[-1] in UNITS else words


def _likeness(ours: str, theirs: str) -> float:
    """Returns how sure a name is: about 3 for a usual one, 2 for its words in another order, 1 among other words."""
    if len(theirs) == 1:
        return 3.0 if theirs in USUAL.get(ours, ()) else 0.0
    words, best = _words(theirs), 0.0
    for rank, usual in enumerate((ours.replace("_", " "), *USUAL.get(ours, ()))):
        wanted = _words(usual)
        if len(usual) == 1 or not set(wanted) <= set(words):
            continue
        extra = set(words) - set(wanted)
        score = 3.0 if words == wanted else 2.0 if not extra else 1.0 + 0.1 * len(wanted)
        score -= 0.1 * len(extra - QUALIFIERS) + 0.5 * len(extra & OTHER) + 0.001 * rank
        best = max(best, score)
    return best


def unit_of(name: str, values: np.ndarray | None) -> float:
    """Returns what a count is in by its name and its size: 1e9 for `params_b`, `tokens (B)`, else 1."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    unit = UNITS.get(words[-1], 1.0) if len(words) > 1 else 1.0
    if unit == 1.0 or values is None:
        return 1.0
    there = values[np.isfinite(values)]
    return unit if len(there) and np.median(np.abs(there)) < LARGEST_IN_UNITS else 1.0


def guess_mapping(
    needed: Sequence[str], columns: Mapping[str, np.ndarray | None], given: Mapping[str, str]
) -> dict[str, str]:
    """Returns what is given, and for other columns that a law needs the column that most likely is it, or a formula.

    Args:
      needed: our names.
      columns: by their names: numbers [runs], or None for texts.
      given: what the user has mapped already.
    """
    found = dict(given)
    for ours in (*needed, "flops"):
        free = [name for name in columns if name not in {*found.values(), *needed}]
        theirs = nearest(ours, free) if ours not in columns and ours not in found else None
        if theirs is not None:
            unit = unit_of(theirs, columns[theirs])
            found[ours] = theirs if unit == 1.0 else f"{as_word(theirs)}*{unit:.0e}".replace("e+0", "e")
    of_loss = [name for name in columns if {*PERPLEXITY} & {*_words(name)}]
    if of_loss and "loss" in needed and "loss" not in {*columns, *found}:
        found["loss"] = f"log({as_word(of_loss[0])})"
    for ours, other in (("num_tokens", "num_params_total"), ("num_params_total", "num_tokens")):
        flops = "flops" if "flops" in columns else found.get("flops")
        rest = other if other in columns else found.get(other)
        if ours in needed and ours not in {*columns, *found} and flops and rest:
            found[ours] = f"{_factor(flops, columns)}/6/{_factor(rest, columns)}"
    return found


def propose_mapping(needed: Sequence[str], columns: Mapping[str, np.ndarray | None], given: Mapping[str, str]) -> str:
    """Returns `guess_mapping` as the whole of a `--columns` option, "" if nothing fits any of what is needed."""
    found = guess_mapping(needed, columns, given)
    if not set(found) & set(needed) - set(given):
        return ""
    parts = [f"{ours}={found.get(ours, 'COLUMN')}" for ours in needed if ours not in columns or ours in given]
    parts += [f"{ours}={theirs}" for ours, theirs in given.items() if ours not in needed]
    text = ",".join(parts)
    return f"--columns '{text}'" if re.search(r"[^\w=,.]", text) else f"--columns {text}"


def only_count(needed: Sequence[str], columns: Mapping[str, np.ndarray | None], given: Mapping[str, str]) -> str | None:
    """Returns the one column of parameters, tokens and compute that a table seems to have, if a law needs several."""
    found, counts = guess_mapping(needed, columns, given), ("num_params_total", "num_tokens", "flops")
    there = [name if name in columns else found[name] for name in counts if name in columns or name in found]
    return there[0] if {*counts[:2]} <= {*needed} and len(there) == 1 else None


def _factor(text: str, columns: Mapping[str, np.ndarray | None]) -> str:
    return as_word(text) if text in columns else f"({text})"
