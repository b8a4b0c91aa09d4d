"""What a body of POST /v1/completions asks for, or why it is refused."""

import difflib
import json
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kleiber.model.decode.inference import Request
from kleiber.model.decode.sample import Sampling

MOST_CHOICES = 64
"""Prompts times n of one request."""
MOST_STOPS, LONGEST_STOP = 4, 256
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None,),
    "presence_penalty": (None, 0),
    "suffix": (None,),
}
"""Fields of the interface that are taken with these values only."""
TAKEN = ("model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "n", "seed", "stop", "stream")
FIELDS = (*TAKEN, "stream_options", "ignore_eos", "user", *NEUTRAL)


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """Returns the JSON object that a client gets."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """One body, understood."""

    requests: tuple[Request, ...]
    """One a choice."""
    stops: tuple[str, ...]
    """Texts at which a choice ends."""
    is_stream: bool
    has_usage: bool
    """Whether a stream ends with the tokens used."""

    @property
    def num_prompt_tokens(self) -> int:
        """Of all choices."""
        return sum(len(request.prompt) for request in self.requests)


def read_asked(body: bytes, name: str, window: int, separator: int, encode: Callable[[str], list[int]]) -> Asked:
    """Returns what a body asks for.

    Args:
      body: as it came.
      name: of the model that is served.
      window: places that a prompt and its answer share.
      separator: the token that ends a document.
      encode: turns a prompt into tokens.

    Raises:
      RefusedError: with the status, what was wrong, and with which field.
    """
    data = _object(body)
    for field in data:
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; expected some of {', '.join(sorted(FIELDS))}."
            raise RefusedError(400, f"unknown field '{field[:60]}'{hint}", field[:60], "unknown_field")
    if data.get("model") not in (None, name):
        told = f"the model {str(data['model'])[:80]!r} is not served here; '{name}' is."
        raise RefusedError(404, told, "model", "model_not_found")
    for field, values in NEUTRAL.items():
        if field in data and data[field] not in values:
            raise RefusedError(400, f"'{field}' is not supported; leave it out.", field, "unsupported_field")
    prompts = [encode(prompt) if isinstance(prompt, str) else prompt for prompt in _prompts(data)]
    num_each, seed = _whole(data, "n", 1, 1, MOST_CHOICES), _whole(data, "seed", None, 0, 2**31 - 1)
    if len(prompts) * num_each > MOST_CHOICES:
        told = f"{len(prompts)} prompts with {num_each} choices each, expected at most {MOST_CHOICES} in all."
        raise RefusedError(400, told, "n")
    seed = secrets.randbits(31) if seed is None else seed
    sampling = _sampling(data)
    stops = () if _truth(data, "ignore_eos") else (separator,)
    requests: list[Request] = []
    for prompt in prompts:
        room = window - len(prompt) + 1
        most = _whole(data, "max_tokens", max(1, min(16, room)), 1, 2**31 - 1)
        if most > room:
            told = f"a prompt of {len(prompt):,} tokens and {most:,} more, but the window holds {window:,}"
            least = f": ask for at most {room:,}" if room > 0 else ": shorten the prompt"
            field = "max_tokens" if room > 0 else "prompt"
            raise RefusedError(400, f"{told}{least}.", field, "context_length_exceeded")
        for _ in range(num_each):
            number = (seed + len(requests)) % 2**31
            requests.append(Request(tuple(prompt), most, sampling, number, stops))
    options = data.get("stream_options") or {}
    if not isinstance(options, dict) or set(options) - {"include_usage"}:
        raise RefusedError(400, "stream_options: expected an object with include_usage.", "stream_options")
    return Asked(tuple(requests), _stops(data), _truth(data, "stream"), _truth(options, "include_usage"))


def _object(body: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        data = json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as problem:  # not UTF-8, not JSON, or too deep
        raise RefusedError(400, f"the body is no JSON object: {str(problem)[:100]}.", None, "invalid_json") from None
    if not isinstance(data, dict):
        raise RefusedError(400, f"the body is a JSON {type(data).__name__}, expected an object.", None, "invalid_json")
    return data


def _prompts(data: dict[str, Any]) -> list[Any]:
    """Returns prompts, each a text or a list of tokens."""
    prompt = data.get("prompt")
    many = prompt if isinstance(prompt, list) and prompt and not _is_whole(prompt[0]) else [prompt]
    for each in many:
        if isinstance(each, str):
            if not each.isascii() and any("\ud800" <= letter <= "\udfff" for letter in each):
                raise RefusedError(400, "the prompt holds half a surrogate pair, which is no text.", "prompt")
        elif not (isinstance(each, list) and each and all(map(_is_whole, each))):
            told = "prompt: expected a text, a list of tokens (one or more), or a list of such"
            raise RefusedError(400, f"{told}; got {json.dumps(each)[:60]}.", "prompt")
    if len(many) > MOST_CHOICES:
        raise RefusedError(400, f"{len(many)} prompts, expected at most {MOST_CHOICES}.", "prompt")
    return many


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(data: dict[str, Any], field: str, default: Any, low: int, high: int) -> Any:
    value = data.get(field)
    if value is None:
        return default
    if not _is_whole(value) or not low <= value <= high:
        told = f"{field} is {json.dumps(value)[:60]}, expected a whole number from {low:,} to {high:,}."
        raise RefusedError(400, told, field)
    return value


def _truth(data: dict[str, Any], field: str) -> bool:
    value = data.get(field)
    if value not in (None, True, False) or isinstance(value, (int, float)) and not isinstance(value, bool):
        raise RefusedError(400, f"{field} is {json.dumps(value)[:60]}, expected true or false.", field)
    return bool(value)


def _sampling(data: dict[str, Any]) -> Sampling:
    values = {"top_k": _whole(data, "top_k", None, 1, 2**31 - 1)}
    for field in ("temperature", "top_p"):
        value = data.get(field)
        value = 1.0 if value is None else value
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        low = 0 <= value if is_number and field == "temperature" else is_number and 0 < value
        if not low or not value <= (2 if field == "temperature" else 1) or not math.isfinite(value):
            told = "0 to 2" if field == "temperature" else "above 0, to 1"
            raise RefusedError(400, f"{field} is {json.dumps(value)[:60]}, expected a number {told}.", field)
        values[field] = value
    return Sampling(**values)


def _stops(data: dict[str, Any]) -> tuple[str, ...]:
    stop = data.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    is_fine = isinstance(stops, list) and len(stops) <= MOST_STOPS
    if not is_fine or not all(isinstance(each, str) and 0 < len(each) <= LONGEST_STOP for each in stops):
        told = f"stop: expected a text or a list of up to {MOST_STOPS}, each of 1 to {LONGEST_STOP} characters."
        raise RefusedError(400, told, "stop")
    return tuple(stops)
