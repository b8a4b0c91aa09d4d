"""What the weights of a run make of texts that go on from others: how likely each is, and whether it is the likeliest.

A text begins behind the end of a document, as when it is generated; where a run has seen no document behind another
(document_attention) a context that is not empty begins by itself. Tokens in front of what a window holds are left out.

B rows, T positions of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.config import ModelConfig

if TYPE_CHECKING:
    from kleiber.experiments.api.runs import Run


@dataclass(frozen=True)
class Told:
    """What a run makes of one text after another."""

    log_likelihood: float
    """Nats, the sum over its tokens."""
    is_likeliest: bool
    """Whether each of its tokens is the likeliest, given those before."""
    was_cut: bool
    """Whether the context lost its beginning."""


@dataclass(frozen=True)
class Row:
    """Tokens to read, the last `counted` of which are scored."""

    tokens: np.ndarray
    counted: int
    was_cut: bool = False


def continuations(run: "Run", pairs: Sequence[tuple[str, str]]) -> list[Told]:
    """Returns what a run makes of each text behind its context.

    Args:
      run: a decoder.
      pairs: (context, text); the tokens that count are those behind what both share with the context alone.

    Raises:
      ValueError: the run says nothing of what comes next, a text is empty or fills more than the window.
    """
    from kleiber.experiments.api.weights import check_causal

    check_causal(run.config)
    rows = []
    for context, text in pairs:
        alone, whole = (run.tokenizer.encode([each.encode()])[0] for each in (context, context + text))
        separator, alone, whole = whole[-1:], alone[:-1], whole[:-1]
        differs = np.flatnonzero(alone != whole[: len(alone)]) if len(alone) <= len(whole) else [len(whole)]
        shared = int(differs[0]) if len(differs) else len(alone)
        counted = len(whole) - shared
        if counted < 1:
            raise ValueError(f"the text {text[:60]!r} behind a context adds no token; expected some to score.")
        begins = not (run.config.data.document_attention and shared)
        rows.append(_row(run, np.concatenate([separator, whole]) if begins else whole, counted))
    return _scored(run, rows)


def rolling(run: "Run", texts: Sequence[str]) -> list[float]:
    """Returns the log-likelihood of each text in nats, however long: every token counts once, and reads as much before
    it as its window holds, the last window a whole one."""
    from kleiber.experiments.api.weights import check_causal

    check_causal(run.config)
    length, rows, owners = run.config.model.seq_len, [], []
    for number, text in enumerate(texts):
        ids = run.tokenizer.encode([text.encode()])[0]
        ids = np.concatenate([ids[-1:], ids[:-1]])
        for start in range(0, len(ids) - 1, length):
            end = min(start + length, len(ids) - 1)
            rows.append(Row(ids[max(0, end - length) : end + 1], end - start))
            owners.append(number)
    sums = np.zeros(len(texts))
    for number, told in zip(owners, _scored(run, rows), strict=True):
        sums[number] += told.log_likelihood
    return sums.tolist()


def _row(run: "Run", tokens: np.ndarray, counted: int) -> Row:
    """Returns a row no longer than a window and the token behind it."""
    length = run.config.model.seq_len
    if counted > length:
        raise ValueError(f"a text of {counted} tokens to score, but the window of this run holds {length}; shorten it.")
    return Row(tokens[-length - 1 :], counted, len(tokens) > length + 1)


def _scored(run: "Run", rows: Sequence[Row]) -> list[Told]:
    """Returns what a run makes of rows; those of about one length go through together."""
    from kleiber.model.compress.tree import compress
    from kleiber.model.decode.inference import inference_config

    size = run.config.evaluation.batch_size
    params = compress(run.config.model, run.tree)
    config = inference_config(run.config.model)
    found: list[Told | None] = [None] * len(rows)
    by_length: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        by_length.setdefault(_room(len(row.tokens) - 1, config.seq_len), []).append(number)
    for room, numbers in by_length.items():
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            tokens = np.zeros((size, room + 1), np.int32)
            for place, number in enumerate(batch):
                tokens[place, : len(rows[number].tokens)] = rows[number].tokens
            logs, is_likeliest = map(np.asarray, _told(config, params, tokens))
            for place, number in enumerate(batch):
                end = len(rows[number].tokens) - 1
                counted = slice(end - rows[number].counted, end)
                total = float(np.float64(logs[place, counted]).sum())
                found[number] = Told(total, bool(is_likeliest[place, counted].all()), rows[number].was_cut)
    return [told for told in found if told is not None]


def _room(length: int, most: int) -> int:
    """Returns the positions that a row of a length is given: few lengths, so that few programs are compiled."""
    return min(most, max(16, 1 << (length - 1).bit_length()))


@partial(jax.jit, static_argnums=0)
def _told(config: ModelConfig, params: Any, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (log-probability, whether it is the likeliest) of each token [B, T] but the first."""
    from kleiber.model.functional import apply

    logits_BTV = apply(config, params, tokens[:, :-1])
    targets_BT = tokens[:, 1:]
    chosen_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return chosen_BT - jax.nn.logsumexp(logits_BTV, axis=-1), jnp.argmax(logits_BTV, axis=-1) == targets_BT
