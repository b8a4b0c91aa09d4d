"""Prints what docs/fine_tuning.md says of size against fine-tuning text, from the published runs of `finetune_laws`.

Command: python tests/finetune_laws.py [TABLE]     (docs/fine_tuning/finetune_laws.csv)
"""

import sys
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import t

from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.table.reading import read_file
from kleiber.scaling.table.table import RunTable, from_columns

PUBLISHED = Path(__file__).parents[1] / "docs" / "fine_tuning" / "finetune_laws.csv"
NAMES = ("num_params_total", "finetune_tokens", "loss")
SUM, PRODUCT = "finetune_sum", "finetune_product"


def cells(path: Path, epochs: int) -> RunTable:
    """Returns the runs of so many passes over their text."""
    table = read_file(path)
    rows = np.array(table["epochs"], float).round() == epochs
    columns = dict(zip(NAMES, ("num_params_total", "num_unique_tokens", "loss"), strict=True))
    return from_columns({name: np.array(table[column], float)[rows] for name, column in columns.items()})


def interaction(table: RunTable) -> tuple[float, float]:
    """Returns the coefficient of ln N ln D in ln loss, beside both and the square of ln D, and half of its interval."""
    size, data = (np.log(table[name]) - np.log(table[name]).mean() for name in NAMES[:2])
    known = np.column_stack([np.ones(len(size)), size, data, data**2, size * data])
    slope, residual, _, _ = np.linalg.lstsq(known, np.log(table["loss"]), rcond=None)
    degrees = len(size) - known.shape[1]
    error = np.sqrt(residual[0] / degrees * np.linalg.inv(known.T @ known)[-1, -1])
    return float(slope[-1]), float(t.ppf(0.975, degrees) * error)


def left_out(table: RunTable, law: str) -> np.ndarray:
    """Returns by how much each cell is missed, |error| of ln loss [runs], by a law of the others."""
    found = []
    for row in range(len(table)):
        fit = _fitted(table.where(np.arange(len(table)) != row), law)
        one = {name: table[name][[row]] for name in NAMES[:2]}
        found.append(abs(float(np.log(fit.predict(one)[0] / table["loss"][row]))))
    return np.array(found)


def _fitted(table: RunTable, law: str) -> FitResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit_law(table, law)


def main(path: Path = PUBLISHED) -> None:
    """Prints a line for each number of passes."""
    for epochs in (1, 2, 4):
        table = cells(path, epochs)
        slope, half = interaction(table)
        errors = {law: left_out(table, law) for law in (SUM, PRODUCT)}
        more = errors[PRODUCT] - errors[SUM]
        reach = t.ppf(0.975, len(more) - 1) * more.std(ddof=1) / len(more) ** 0.5
        largest = max(each[np.argmax(table[NAMES[0]] * table[NAMES[1]])] for each in errors.values())
        print(
            f"passes {epochs}: interaction {slope:+.4f} ± {half:.4f}; left out in turn, sum {errors[SUM].mean():.2%}",
            f"product {errors[PRODUCT].mean():.2%}, difference {more.mean():.2%} ± {reach:.2%}; largest {largest:.2%}",
            sep=", ",
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
