"""Labelled texts and images, and how well the weights of a run tell their labels.

A language model tells a label by what it makes of `text, new line, label, end of the document` for every label: the
least surprising one is its answer. Documents of that form, `DataConfig("train.jsonl#text+label")`, teach it to.

n examples, K labels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.train.data.corpora.text_file.reading import read_json_records
from kleiber.train.scores.classification import classify, paired_difference
from kleiber.train.scores.linear import predict_linear, predict_linear_of_images

if TYPE_CHECKING:
    from kleiber.experiments.api.runs import Run

FEWEST = 30
"""Examples from which on a difference is told."""


@dataclass(frozen=True)
class Labelled:
    """Texts and what they are."""

    path: Path
    texts: tuple[str, ...]
    labels: tuple[str, ...]


def read_labelled(path: Path) -> Labelled:
    """Returns the texts of a JSON file with `text` and `label` in each object.

    Raises:
      ValueError: an object lacks one of them, or all have one label; says where.
    """
    rows = read_json_records(path, ("text", "label"))
    if len({label for _, label in rows}) < 2:
        raise ValueError(f"{path} holds {len(rows)} texts of one label or none, expected two labels or more.")
    return Labelled(path, *(tuple(column) for column in zip(*rows, strict=True)))


def score_labels(run: "Run", test: Labelled, train: Labelled | None = None) -> dict[str, Any]:
    """Returns the scores of a run, and of the baselines, on labelled texts.

    Args:
      run: a decoder with weights.
      test: to be told.
      train: from which the baselines learn; without it the majority is that of test, and there is no linear one.

    Returns:
      As `kleiber score --json` (docs/json.md).

    Raises:
      ValueError: the run predicts no next token, or a label of test is none of train.
    """
    names = sorted(set((train or test).labels))
    if missing := sorted(set(test.labels) - set(names)):
        raise ValueError(f"{test.path} has the label '{missing[0]}', which {train and train.path} has not.")
    number = {name: place for place, name in enumerate(names)}
    labels = np.array([number[name] for name in test.labels])
    losses, num_cut = label_losses(run, test.texts, names)
    known = labels if train is None else np.array([number[name] for name in train.labels])
    told = {"majority": np.full(len(labels), np.bincount(known).argmax())}
    if train is not None:
        told["linear"] = predict_linear(train.texts, known, test.texts, len(names))
    about = {"run": run.name, "file": str(test.path), "labels": names, "num_cut": num_cut}
    return about | _compared(labels, losses, told)


def score_images(run: "Run") -> dict[str, Any]:
    """Returns the scores of a run on the validation images of its experiment, of the majority of its training images,
    and of a linear model of their pixels.

    Args:
      run: on images, with weights.

    Returns:
      As score_labels, with the `corpus` in place of the file, and `confusion`: how many images of each label (a row)
      were told to be of each (a column).

    Raises:
      ValueError: the images are not prepared here; says how to make them.
    """
    from kleiber.train.data.images import find_images
    from kleiber.train.image_labels import label_losses as losses_of_images

    config, fingerprint = run.config, run.record["data_fingerprint"]
    train, test = (find_images(fingerprint, config.data.corpus, split) for split in ("train", "validation"))
    losses = losses_of_images(config, run.tree, test.images)
    told = {"majority": np.full(len(test.labels), np.bincount(train.labels).argmax())}
    told["linear"] = predict_linear_of_images(train.images, train.labels, test.images, test.vocab_size)
    confusion = np.zeros((test.vocab_size, test.vocab_size), int)
    np.add.at(confusion, (test.labels, losses.argmin(axis=1)), 1)
    about = {"run": run.name, "corpus": config.data.corpus, "labels": list(test.names)}
    return about | _compared(test.labels, losses, told) | {"confusion": confusion.tolist()}


def _compared(labels: np.ndarray, losses: np.ndarray, told: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the scores of a model beside those of baselines.

    Args:
      labels: int [n].
      losses: of each label by the model, but for what all labels of an example share, float64 [n, K] in nats.
      told: label of each example by each baseline, int [n].
    """
    told = {"model": losses.argmin(axis=1), **told}
    logs = -losses - np.logaddexp.reduce(-losses, axis=1, keepdims=True)
    chosen = -logs[np.arange(len(labels)), labels]
    found: dict[str, Any] = {
        "nats_per_label": float(chosen.mean()),
        "nats_per_label_standard_error": float(chosen.std(ddof=1) / len(chosen) ** 0.5),
        "scores": {name: asdict(classify(labels, predicted)) for name, predicted in told.items()},
    }
    best = max((name for name in told if name != "model"), key=lambda name: found["scores"][name]["accuracy"])
    difference, low, high = paired_difference(labels, told["model"], told[best])
    found["against"] = {"baseline": best, "difference": difference, "interval_95": [low, high]}
    return found


def label_losses(run: "Run", texts: Sequence[str], names: Sequence[str]) -> tuple[np.ndarray, int]:
    """Returns (what the weights of a run lose on each label of each text, float64 [n, K] in nats, but for what labels
    share; how many texts were longer than its context and lost their beginning)."""
    from kleiber.experiments.api.weights import check_causal
    from kleiber.train.evaluate import summed_losses

    check_causal(run.config)
    tokenizer, length, num_cut = run.tokenizer, run.config.model.seq_len, 0
    rows = np.zeros((len(texts), len(names), length + 1), np.int32)
    counted = np.zeros((len(texts), len(names), length), np.float32)
    for n, text in enumerate(texts):
        documents = tokenizer.encode([f"{text}\n{name}".encode() for name in names])
        shared = next(i for i, ids in enumerate(zip(*documents, strict=False)) if len(set(ids)) > 1)
        longest = max(map(len, documents))
        cut = max(0, longest - length)  # alike for all labels, so that each follows the same text
        num_cut += cut > 0
        if shared < cut:
            raise ValueError(f"the labels of {longest - shared} tokens fill the context of {length}; use shorter ones.")
        for k, ids in enumerate(documents):
            row = np.concatenate([ids[cut - 1 : cut] if cut else ids[-1:], ids[cut:]])
            rows[n, k, : len(row)] = row
            counted[n, k, shared - cut : len(row) - 1] = 1
    sums = summed_losses(run.config, run.tree, rows.reshape(-1, length + 1), counted.reshape(-1, length))
    return sums.reshape(len(texts), len(names)), num_cut
