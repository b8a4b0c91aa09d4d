"""Tokens drawn from a model one after another: the prompt is read once into a memory of keys and values, and one
compiled loop goes on from there.

B rows, P places of a prompt, S places of the memory, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.model.decode.inference import Request, Row, as_read, inference_config, prompt_size, row_of
from kleiber.model.decode.sample import Sampling
from kleiber.model.decode.slots import advance, begin
from kleiber.model.decode.speculative import Draft, generate_drafted

PLAIN = Sampling()


@partial(jax.jit, static_argnums=(0, 1))
def answer(config: ModelConfig, num_places: int, params: Any, rows: Row) -> jax.Array:
    """Returns int32 [B, S], the tokens that follow the prompt of each row, then NO_TOKEN: reading and drawing as one
    program, in which the memory, of num_places S, is written where it lies; config is that of inference_config."""
    slots = begin(config, params, rows, num_places)
    return advance(config, params, slots, jnp.max(rows.num_tokens), num_places, ends_early=False)[1]


def generate_rows(
    config: ModelConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    sampling: Sampling = PLAIN,
    seed: int | Sequence[int] = 0,
    stops: Sequence[int] = (),
    first: int = 0,
) -> list[np.ndarray]:
    """Returns the token ids, int32, that follow each of several prompts, drawn together.

    What a row draws depends on the seed, its number and the tokens before, not on the other rows. Lengths of one bucket
    share a program.

    Args:
      config: the shape; weights are rounded as its compression says.
      params: tree of weights.
      prompts: token ids, one or more each.
      num_tokens: most to draw for each.
      sampling: how.
      seed: of the draws; or one of each row, which then draws what it would draw alone.
      stops: tokens at which a row ends; they are not part of it.
      first: number of the first draw in the stream of the seed.

    Raises:
      ValueError: an empty prompt, a token outside the vocabulary, or more tokens than the window holds.
    """
    if isinstance(seed, int):
        numbered = [(seed, row) for row in range(len(prompts))]
    else:
        numbered = [(each, 0) for each in seed]
    asked = [
        Request(tuple(prompt), num_tokens, sampling, each[0], tuple(stops), each[1], first)
        for prompt, each in zip(prompts, numbered, strict=True)
    ]
    for request in asked or [Request((), num_tokens)]:
        request.check(config)
    longest = max(map(len, prompts))
    size, num_places = (prompt_size(config, each) for each in (longest, longest + num_tokens))
    rows = jax.tree.map(lambda *each: np.stack(each), *(row_of(config, request, size) for request in asked))
    found_BS = np.asarray(answer(inference_config(config), num_places, as_read(config, params), rows))
    return [row[row >= 0] for row in found_BS]


def generate(
    config: ModelConfig,
    params: Any,
    prompt: Sequence[int],
    num_tokens: int,
    sampling: Sampling = PLAIN,
    seed: int = 0,
    stops: Sequence[int] = (),
    draft: Draft | None = None,
    at_once: int | None = None,
) -> Iterator[int]:
    """Yields token ids that follow a prompt, each given the last seq_len tokens, fewer by those of a tuned prompt.

    Until the window is full that is one loop; from there on every token sees another window, which is read anew.

    Args: as generate_rows, of one prompt and any number of tokens; and
      draft: a smaller model that guesses ahead while the window is not full; the tokens are the same.
      at_once: most tokens of one loop, for whoever may stop reading; None is all.

    Raises:
      ValueError: as generate_rows, or the draft has another vocabulary or a smaller window.
    """
    tokens, drawn, places = list(prompt), 0, config.seq_len - config.num_virtual_tokens
    config, params = inference_config(config), as_read(config, params)
    while drawn < num_tokens or drawn == 0:
        window = tokens[-places:]
        count = min(num_tokens - drawn, places - len(window) + 1, at_once or num_tokens)
        if draft and count > 1:
            request = Request(tuple(window), count, sampling, seed, tuple(stops), first=drawn)
            found = generate_drafted(config, params, draft, request)
        else:
            (found,) = generate_rows(config, params, [window], count, sampling, seed, stops, drawn)
        tokens += found.tolist()
        yield from found.tolist()
        drawn += len(found)
        if len(found) < count:
            return
