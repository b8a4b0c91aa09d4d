"""How near texts come to what they should be: BLEU and chrF of sacrebleu, exact matches, with bootstrap intervals.

An interval is that of a draw of documents, whose pairs vary together: documents are drawn anew with replacement, the
same for all that are compared, and a score is made of the sums of what its sentences count (Koehn 2004, W04-3250).

n pairs, G documents, K counts of a sentence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NUM_DRAWS = 1000
TOKENIZE = {"zh": "zh", "ja": "char", "ko": "char"}
"""Language of the targets -> how sacrebleu cuts them into words; 13a where none stands here. It has better ones for
Japanese and Korean, which need packages of their own."""
FEWEST = 30
"""Pairs from which on a difference is told."""


def score_translations(
    targets: Sequence[str], given: Mapping[str, Sequence[str]], documents: np.ndarray, language: str = ""
) -> dict[str, Any]:
    """Returns `scores`: of each that gave texts, `bleu` and `chrf` (0 to 100) and `exact_match` (0 to 1), each with its
    `_interval_95`; `against`: of the first less each other, the same differences; and `signatures` of sacrebleu.

    Args:
      targets: what the texts should be, [n].
      given: what each gave, by its name.
      documents: int [n], what each pair is part of.
      language: code of the targets.

    Raises:
      ValueError: sacrebleu is not installed.
    """
    metrics, signatures = _metrics(language)
    _, index = np.unique(documents, return_inverse=True)
    num_documents = int(index.max()) + 1
    rng = np.random.default_rng(0)
    draws = rng.multinomial(num_documents, np.full(num_documents, 1 / num_documents), NUM_DRAWS)
    found: dict[str, dict[str, tuple[float, np.ndarray]]] = {name: {} for name in given}
    for name, texts in given.items():
        for metric, scorer in metrics.items():
            of_document = _summed(scorer.counts(texts, targets), index, num_documents)
            drawn = np.array([scorer.score(each) for each in draws @ of_document])
            found[name][metric] = scorer.score(of_document.sum(axis=0)), drawn
    first, *others = given
    return {
        "scores": {name: _with_intervals(each) for name, each in found.items()},
        "against": {name: _with_intervals(_less(found[first], found[name])) for name in others},
        "signatures": signatures,
    }


class _OfSacrebleu:
    """A metric of sacrebleu, by the counts of each sentence."""

    def __init__(self, metric: Any) -> None:
        self.metric = metric

    def counts(self, texts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """Returns int64 [n, K]."""
        return np.array(self.metric._extract_corpus_statistics(list(texts), [list(targets)]), np.int64)

    def score(self, counts: np.ndarray) -> float:
        """Returns the score of summed counts [K]."""
        return float(self.metric._compute_score_from_stats(counts.tolist()).score)


class _Exact:
    """The share of texts that are just what they should be."""

    def counts(self, texts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """Returns int64 [n, 2]: hits, and one."""
        return np.array([[text == target, 1] for text, target in zip(texts, targets, strict=True)], np.int64)

    def score(self, counts: np.ndarray) -> float:
        """Returns the share of summed counts."""
        return float(counts[0] / counts[1])


def check_installed() -> None:
    """Raises ValueError if sacrebleu is not there, before anything is translated."""
    _metrics("")


def _metrics(language: str) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ModuleNotFoundError:
        raise ValueError(
            "BLEU and chrF are those of sacrebleu, which is not installed: pip install 'kleiber[translation]'"
        ) from None
    found = {"bleu": BLEU(tokenize=TOKENIZE.get(language, "13a")), "chrf": CHRF()}
    scorers: dict[str, Any] = {name: _OfSacrebleu(metric) for name, metric in found.items()}
    for metric in found.values():
        metric.corpus_score(["a"], [["a"]])  # after which its signature says how many references there are
    return scorers | {"exact_match": _Exact()}, {name: str(metric.get_signature()) for name, metric in found.items()}


def _summed(counts: np.ndarray, index: np.ndarray, num_documents: int) -> np.ndarray:
    """Returns counts [n, K] summed by document, int64 [G, K]."""
    summed = np.zeros((num_documents, counts.shape[1]), np.int64)
    np.add.at(summed, index, counts)
    return summed


def _less(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: (one[name][0] - other[name][0], one[name][1] - other[name][1]) for name in one}


def _with_intervals(found: dict[str, tuple[float, np.ndarray]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, (value, drawn) in found.items():
        told |= {name: value, f"{name}_interval_95": np.quantile(drawn, [0.025, 0.975]).tolist()}
    return told
