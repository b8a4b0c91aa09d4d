"""Bodies of no sense: each is refused with a status of the client's, or understood."""

import json
import random
from typing import Any

from kleiber.experiments.serving.asked import FIELDS, Asked, RefusedError, read_asked

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 65, 2**31, 2**70, 0.5, -0.0, 1e308, "", "a", "é€", "\ud800", "x" * 300, [], [[]],
    {}, [1, 2], [1, "a"], ["a", "b"], [["a"]], [True], [300], {"include_usage": 1}, {"a": 1}, [None], "\x00", [2**70],
    [-1],
]  # fmt: skip


def body(draw: random.Random) -> bytes:
    """Returns the JSON of an object with some fields of any value; now and then damaged."""
    fields = draw.sample([*FIELDS, "", "n " * 40, "Prompt"], draw.randint(0, 6))
    data: dict[str, Any] = {"prompt": "a"} | {field: draw.choice(VALUES) for field in fields}
    text = json.dumps(draw.choice([data] * 20 + VALUES)).encode()
    if draw.random() < 0.2:
        place = draw.randrange(len(text))
        text = text[:place] + bytes([draw.randrange(256)]) * draw.randint(0, 3) + text[place + 1 :]
    return text


def test_two_thousand_bodies_are_understood_or_refused():
    draw, understood = random.Random(0), 0
    for _ in range(2000):
        text = body(draw)
        try:
            asked = read_asked(text, "a", 40, 10, lambda prompt: [10, *prompt.encode()])
        except RefusedError as problem:
            assert 400 <= problem.status < 500 and problem.message and json.dumps(problem.body())
        else:
            understood += 1
            assert isinstance(asked, Asked) and 1 <= len(asked.requests) <= 64
            assert all(len(each.prompt) + each.num_tokens - 1 <= 40 for each in asked.requests)
    assert 100 < understood < 1900
