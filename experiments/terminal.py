"""Text from files and models on its way to a terminal."""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Returns text with control characters and marks of writing direction shown as codes; tab and newline stay.

    A name from a file could otherwise move the cursor, colour the screen, or hide what follows.
    """
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
