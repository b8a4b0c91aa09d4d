"""Tokens drawn from a model one after another: the prompt is read once into a memory of keys and values, and one
compiled loop goes on from there.

B rows, P places of a prompt, S places of the memory, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.model.decode.inference import (
    as_read,
    bucket,
    check_request,
    inference_config,
    is_stop,
    known,
    last_two,
    stream,
)
from kleiber.model.decode.sample import Sampling
from kleiber.model.decode.slots import Slots, advance, prefill, widen
from kleiber.model.decode.speculative import Draft, generate_drafted

PLAIN = Sampling()


@partial(jax.jit, static_argnums=(0, 1))
def answer(config: ModelConfig, num_places: int, params: Any, tokens_BP: jax.Array, rows: Slots) -> jax.Array:
    """Returns int32 [B, S], the tokens that follow each prompt, then NO_TOKEN: reading and drawing as one program, in
    which the memory is written where it lies.

    Args:
      config: of inference_config.
      num_places: S.
      params: tree of weights.
      tokens_BP: int32, of each prompt all but its last token, ending at the last place.
      rows: with no memory yet.
    """
    memory = widen(prefill(config, params, tokens_BP, rows.starts_B), num_places)
    rows = replace(rows, memory=memory, place=rows.place % num_places)
    return advance(config, params, rows, jnp.max(rows.num_left_B), num_places, ends_early=False)[1]


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
    for prompt in prompts or [[]]:
        check_request(config, prompt, num_tokens, stops)
    lengths_B, num_rows = np.array([len(prompt) for prompt in prompts], np.int32), len(prompts)
    size = bucket(int(max(lengths_B)) - 1, config.seq_len)
    num_places = bucket(int(max(lengths_B)) + num_tokens - 1, config.seq_len)
    tokens_BP = np.stack([known(prompt, size) for prompt in prompts])
    is_one = isinstance(seed, int)
    keys_B = jnp.stack([stream(*((seed, row) if is_one else (seed[row], 0))) for row in range(num_rows)])
    rows = Slots(
        place=jnp.int32(size),
        memory=None,
        last_two_B2=jnp.stack([last_two(prompt) for prompt in prompts]),
        starts_B=jnp.asarray(size - lengths_B + 1),
        num_left_B=jnp.full(num_rows, num_tokens, jnp.int32),
        num_drawn_B=jnp.full(num_rows, first, jnp.int32),
        keys_B=keys_B,
        numbers_B3=jnp.tile(sampling.numbers(config.vocab_size), (num_rows, 1)),
        is_stop_BV=jnp.tile(is_stop(config, stops), (num_rows, 1)),
    )
    config, params = inference_config(config), as_read(config, params)
    found_BS = np.asarray(answer(config, num_places, params, jnp.asarray(tokens_BP), rows))
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
    """Yields token ids that follow a prompt, each given the last seq_len tokens.

    Until the window is full that is one loop; from there on every token sees another window, which is read anew.

    Args: as generate_rows, of one prompt and any number of tokens; and
      draft: a smaller model that guesses ahead while the window is not full; the tokens are the same.
      at_once: most tokens of one loop, for whoever may stop reading; None is all.

    Raises:
      ValueError: as generate_rows, or the draft has another vocabulary or a smaller window.
    """
    tokens, drawn = list(prompt), 0
    config, params = inference_config(config), as_read(config, params)
    while drawn < num_tokens or drawn == 0:
        window = tokens[-config.seq_len :]
        count = min(num_tokens - drawn, config.seq_len - len(window) + 1, at_once or num_tokens)
        how = (sampling, seed, stops, drawn)
        if draft and count > 1:
            found = generate_drafted(config, params, draft, window, count, *how)
        else:
            (found,) = generate_rows(config, params, [window], count, *how)
        tokens += found.tolist()
        yield from found.tolist()
        drawn += len(found)
        if len(found) < count:
            return
