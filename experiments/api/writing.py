"""Text of tokens as they come: whole characters only, and nothing from a stop on."""

from collections.abc import Iterable, Sequence

import numpy as np

from kleiber.train.data.tokenizers import Tokenizer

UNFINISHED = "\ufffd"
"""What a character is decoded to whose last bytes are still to come; or one that is none."""


class Writing:
    """One text that grows."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()):
        """Begins with nothing.

        Args:
          tokenizer: of the tokens.
          stops: texts at which it ends; they are not part of it.

        Raises:
          ValueError: one of them is empty.
        """
        if "" in stops:
            raise ValueError("a text to stop at is empty, expected one character or more.")
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self.is_over = False
        self._ids: list[int] = []
        self._told = 0

    def add(self, ids: Iterable[int]) -> str:
        """Returns the text that is settled by further tokens: what a later one can still change is kept back."""
        if self.is_over:
            return ""
        self._ids += ids
        text = self._text()
        for stop in self.stops:
            if (found := text.find(stop)) >= 0:
                text, self.is_over = text[:found], True
        return self._tell(text if self.is_over else text[: self._settled(text)])

    def end(self) -> str:
        """Returns what was kept back, as nothing comes any more."""
        return "" if self.is_over else self._tell(self._text())

    def _text(self) -> str:
        return self.tokenizer.decode(np.array(self._ids, np.int64)).decode(errors="replace") if self._ids else ""

    def _settled(self, text: str) -> int:
        """Returns how much of a text no further token changes, and no stop begins in."""
        whole = text.rstrip(UNFINISHED)
        begun = [n for stop in self.stops for n in range(1, len(stop)) if whole.endswith(stop[:n])]
        return max(len(whole) - max(begun, default=0), self._told)

    def _tell(self, text: str) -> str:
        told, self._told = text[self._told :], max(self._told, len(text))
        return told
