"""What can be wrong with a table: errors that stop a fit, warnings that come with one, each with a name."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class TableError(ValueError):
    """A table that no law can be fitted to, and what to do about it."""


class MissingColumnError(TableError):
    """A column that a law or the user asked for is not in the table."""


class NotANumberError(TableError):
    """A value that should be a number is missing, not finite or a text."""


class NotPositiveError(TableError):
    """A loss or a count is zero or negative."""


class TooFewPointsError(TableError):
    """Fewer points than the law has parameters."""


class OneSizeError(TableError):
    """A variable of the law has the same value in every row, so its exponent cannot be seen."""


class MixedTokenizersError(TableError):
    """Losses per token of different tokenisers are not comparable."""


class BelowFloorError(TableError):
    """Measured losses lie below a floor that was fixed."""


class NothingLeftError(TableError):
    """An expression leaves out every row."""


class TableWarning(UserWarning):
    """Something in the table that makes the result weaker than it looks."""


class DuplicateRowsWarning(TableWarning):
    """Rows that repeat an earlier row in every column were left out."""


class ConstantRatioWarning(TableWarning):
    """Every run has nearly the same tokens per parameter, so exponents cannot be told apart."""


class SharedTrunkWarning(TableWarning):
    """Points that share a trunk are treated as independent, so intervals come out too short."""


class OutlierWarning(TableWarning):
    """Rows lie far from what the others say."""


class RunsAwayWarning(TableWarning):
    """The effects that rows share cannot be told from the law."""


class NothingDroppedWarning(TableWarning):
    """An expression leaves out no row."""


class ReadAsNumberWarning(TableWarning):
    """Texts such as 1,300 or 7B or 12% were read as numbers."""


class UnitWarning(TableWarning):
    """Counts are so small that they seem to be in millions or billions."""


class BelowFloorWarning(TableWarning):
    """Measured losses lie below the fitted floor."""


class RowsLeftOutWarning(TableWarning):
    """A column that looks like a state of runs, or a split, leaves rows out."""


class UnknownValuesWarning(TableWarning):
    """A column that chooses rows has values of its own, so it chooses none."""


@contextmanager
def noted_warnings() -> Iterator[list[str]]:
    """Yields a list that holds, once the block is left, each distinct table warning as `Kind: message`."""
    noted: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TableWarning)
        try:
            yield noted
        finally:
            noted += dict.fromkeys(f"{each.category.__name__}: {each.message}" for each in caught)
