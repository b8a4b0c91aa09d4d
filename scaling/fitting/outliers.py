"""Rows that lie far from what the others say, by name, and what they do to the constants."""

import warnings

import numpy as np

from kleiber.scaling.fitting.objective import robust_scale
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import ScaledLaw
from kleiber.scaling.fitting.search import FitFailedError, residual_function, search_minima
from kleiber.scaling.table.table import RunTable
from kleiber.scaling.table.warned import OutlierWarning

SUSPECT = 4.5
"""Largest residual over the median size of all from which on rows are looked at; normal errors of 60 runs give 4."""
FAR = 8.0
"""Residuals of the robust fit, in standard deviations of their bulk, from which on a row is an outlier."""
LARGEST_SHARE = 0.2
"""With more of the rows far off it is the law that is wrong, not they."""


def warn_outliers(table: RunTable, fit: FitResult) -> None:
    """Warns of rows far from a robust fit of the law, with the --drop that leaves them out and the constants then."""
    size = np.abs(fit.residuals)
    if not 0 < SUSPECT * float(np.median(size)) / 0.6745 < size.max():
        return
    scaled, loss, num_free = fit.scaled, table["loss"], len(fit.z)
    try:
        z = search_minima(scaled, loss, 16, "student", None)[2]
        found = _residual(scaled, loss, z)
        rows = np.flatnonzero(np.abs(found) > FAR * robust_scale(found, num_free))
        above = int((found[rows] < 0).sum())
        if min(above, len(rows) - above) > 1:
            return  # on either side: noise that differs from run to run, which the intervals take in
        if not 0 < len(rows) <= LARGEST_SHARE * len(loss) or len(loss) - len(rows) <= num_free:
            return
        kept = np.setdiff1d(np.arange(len(loss)), rows)
        without = search_minima(scaled.on(kept), loss[kept], 16, "gaussian", None)[2]
    except FitFailedError:
        return
    before, after = scaled.reported(fit.z), scaled.reported(without)
    moved = ", ".join(f"{name} {float(before[name]):.4g} -> {float(after[name]):.4g}" for name in scaled.free)
    is_one = len(rows) == 1
    warnings.warn(
        f"{table.source}: row{'' if is_one else 's'} {_ranges(table.rows[rows])} after the header (loss "
        f"{', '.join(f'{each:.4g}' for each in loss[rows[:5]])}{', ...' if len(rows) > 5 else ''}) lie"
        f"{'s' if is_one else ''} more than {FAR:g} standard deviations from what the others say. Without "
        f"{'it' if is_one else 'them'}: {moved}. If {'that run' if is_one else 'those runs'} failed, leave "
        f"{'it' if is_one else 'them'} out with {table.drop_too(_expression(loss, rows))}; or fit with "
        "--objective huber.",
        OutlierWarning,
        stacklevel=4,
    )


def _residual(scaled: ScaledLaw, loss: np.ndarray, z: np.ndarray) -> np.ndarray:
    return residual_function(scaled, scaled.measure.of(loss))(z[None], np.zeros(1, int))[0][0]


def _ranges(numbers: np.ndarray) -> str:
    """Returns "3, 51 to 53" for ascending row numbers."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)


def _expression(loss: np.ndarray, rows: np.ndarray) -> str:
    """Returns the expression that these rows alone satisfy, by their losses."""
    rest = np.delete(loss, rows)
    if loss[rows].min() > rest.max():
        return f"loss >= {float(loss[rows].min())!r}"
    if loss[rows].max() < rest.min():
        return f"loss <= {float(loss[rows].max())!r}"
    return " or ".join(f"loss == {each!r}" for each in loss[rows].tolist())
