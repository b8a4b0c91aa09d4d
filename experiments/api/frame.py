"""Rows as the table of whatever is installed."""

from collections.abc import Sequence
from typing import Any


def frame(rows: Sequence[dict[str, Any]]) -> Any:
    """Returns rows as a DataFrame, or as a dict of arrays [rows] where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        import numpy as np

        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name) for row in rows]) for name in names}
    return pandas.DataFrame(list(rows))
