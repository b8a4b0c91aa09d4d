"""The linear baselines of classification: logistic regression of TF-IDF weighted words, or of pixels.

Words, weights and the penalty are those that scikit-learn's TfidfVectorizer and LogisticRegression have by default.

n texts, V words, K classes.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

WORD = re.compile(r"\b\w\w+\b")


def predict_linear(texts: Sequence[str], labels: np.ndarray, others: Sequence[str], num_classes: int) -> np.ndarray:
    """Returns the class of each of the other texts, int64, by a model fitted to texts and their labels, int [n]."""
    words = sorted({word for text in texts for word in _words(text)})
    if not words:
        return np.full(len(others), np.bincount(labels).argmax())
    index = {word: place for place, word in enumerate(words)}
    counts = _counts(texts, index)
    present = np.bincount(counts.indices, minlength=len(words))
    idf = np.log((1 + len(texts)) / (1 + present)) + 1
    weights = _fit(_weighted(counts, idf), labels, num_classes)
    return np.asarray(_weighted(_counts(others, index), idf) @ weights[:-1] + weights[-1]).argmax(axis=1)


def predict_linear_of_images(
    images: np.ndarray, labels: np.ndarray, others: np.ndarray, num_classes: int
) -> np.ndarray:
    """Returns the class of each of the other images, int64, by a model of the pixels, from 0 to 1, fitted to images,
    uint8 [n, ...], and their labels, int [n]."""
    features, asked = (each.reshape(len(each), -1) / 255 for each in (images, others))
    weights = _fit(features, labels, num_classes)
    return np.asarray(asked @ weights[:-1] + weights[-1]).argmax(axis=1)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _counts(texts: Sequence[str], index: dict[str, int]) -> Any:
    """Returns how often each word stands in each text, sparse float64 [n, V]."""
    from scipy.sparse import csr_matrix

    rows = [[index[word] for word in _words(text) if word in index] for text in texts]
    place = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    column = np.array([each for row in rows for each in row], np.int64)
    counts = csr_matrix((np.ones(len(column)), (place, column)), shape=(len(texts), len(index)))
    counts.sum_duplicates()
    return counts


def _weighted(counts: Any, idf: np.ndarray) -> Any:
    """Returns counts times idf, each text of length one."""
    weighted = counts.multiply(idf).tocsr()
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1))).reshape(-1, 1)
    return weighted.multiply(1 / np.where(length > 0, length, 1)).tocsr()


def _fit(features: Any, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns weights float64 [V + 1, K], the last row the intercepts, of least summed loss + |weights|^2 / 2."""
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    one_hot = np.eye(num_classes)[labels]
    shape = (features.shape[1] + 1, num_classes)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        logits = np.asarray(features @ weights[:-1]) + weights[-1]
        logs = logits - logsumexp(logits, axis=1, keepdims=True)
        slope = np.exp(logs) - one_hot
        gradient = np.vstack([features.T @ slope + weights[:-1], slope.sum(axis=0)])
        return float(-np.sum(one_hot * logs) + np.sum(weights[:-1] ** 2) / 2), gradient.reshape(-1)

    found = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return found.x.reshape(shape)
