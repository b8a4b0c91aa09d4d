"""Accuracy, precision, recall and F1 of labels, with the interval of the accuracy."""

from dataclasses import dataclass

import numpy as np

NORMAL_95 = 1.959963984540054
"""The .975 quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Classification:
    """What predicted labels are worth."""

    accuracy: float
    interval_95: tuple[float, float]
    """Of the accuracy, as a draw of examples (Wilson 1927)."""
    precision_macro: float
    """Mean over the classes that occur or are predicted; 0 for one that is never predicted."""
    recall_macro: float
    f1_macro: float
    f1_weighted: float
    """Mean over the examples' classes."""
    num_examples: int


def classify(labels: np.ndarray, predicted: np.ndarray) -> Classification:
    """Returns the scores of predicted classes, int [n], against labels, int [n]."""
    classes = np.unique(np.concatenate([labels, predicted]))
    hits = np.array([np.sum((labels == c) & (predicted == c)) for c in classes], float)
    are, said = (np.array([np.sum(each == c) for c in classes], float) for each in (labels, predicted))
    precision, recall = hits / np.maximum(said, 1), hits / np.maximum(are, 1)
    f1 = 2 * hits / (are + said)
    accuracy = float(np.mean(labels == predicted))
    return Classification(
        accuracy,
        wilson_interval(accuracy, len(labels)),
        float(precision.mean()),
        float(recall.mean()),
        float(f1.mean()),
        float(np.sum(are * f1) / len(labels)),
        len(labels),
    )


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a probability of which a share was seen in count draws.

    Source: Wilson 1927, Journal of the American Statistical Association 22, p. 209.
    """
    width = NORMAL_95**2 / count
    middle = (share + width / 2) / (1 + width)
    half = np.sqrt(share * (1 - share) * width + width**2 / 4) / (1 + width)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def paired_difference(labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Returns (difference of the accuracies of two predictions, and its 95 % interval), by the examples they share."""
    gains = (labels == one).astype(float) - (labels == other)
    half = NORMAL_95 * float(gains.std(ddof=1)) / len(gains) ** 0.5
    return float(gains.mean()), float(gains.mean()) - half, float(gains.mean()) + half
