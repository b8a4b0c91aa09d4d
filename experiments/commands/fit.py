"""Fit laws to any table of runs (CSV, JSON lines, Parquet); nobody's training code is needed.

Example: kleiber fit runs.csv --columns loss=val_loss,num_params_total=params,num_tokens=tokens --law chinchilla --law
generalised_mean --json > fit.json
"""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from kleiber.experiments.arguments import numbers, pairs

if TYPE_CHECKING:
    from kleiber.scaling.fitting.result import FitResult


@dataclass(frozen=True)
class Options:
    """What `kleiber fit` takes."""

    table: tyro.conf.Positional[str]
    """A .csv, .tsv, .jsonl, .json or .parquet file, one row a run; texts may be gzipped (.csv.gz)."""
    law: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A law of `kleiber laws`, or a function of yours as my_laws.py:my_law; several (repeated or joined by commas) are
    compared. Without it chinchilla is fitted, and four rival forms with it: which is right decides a forecast, and a
    table can hardly tell."""
    columns: str = ""
    """Our names to the table's, or to formulas of its columns, as loss=log(ppl),num_params_total=`Params (B)`*1e9."""
    cluster: str | None = None
    """Column whose equal values share a trunk, as run_id: their noise is correlated."""
    objective: Literal["gaussian", "huber", "student"] = "gaussian"
    """Summed over the residuals."""
    residuals: Literal["log", "relative", "raw", "logit"] = "log"
    """What is compared: logarithms, ratios, plain differences (losses may be negative), or logits of shares."""
    weights: str | None = None
    """Column of standard errors of the losses. One mapped as loss_standard_error=COLUMN is used by itself."""
    delta: float | None = None
    """Huber's turning point or the scale of Student's t; from the residuals if left out."""
    drop: str | None = None
    """Leave out rows, as "epochs > 1 or tokens / params < 0.4"."""
    fix: str = ""
    """Constants held at a value, as L0=3.2,E=1.7, or tied to another, as beta=alpha."""
    starts: int = 16
    """Starts followed to a minimum, the best of a grid; 4500 for a search as wide as published ones."""
    in_depth: bool = True
    """Also say how well each law predicts runs larger than it was fitted to (rolling origin), the local exponent of
    each factor and what it is worth in another, and what approaches 1 and 2 would advise, with their bias."""
    protect: Literal["rolling_origin", "none"] = "rolling_origin"
    """Whether the intervals of forecasts take in how well the table's dearer runs are forecast from its cheaper ones,
    and what no fit shows of runs beyond it; none leaves them as wide as the fits themselves say."""
    past_ledger: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """ledger.jsonl of an earlier sweep of the same recipe (repeat for more): how far its forecasts were off narrows or
    widens the intervals of these."""
    bootstrap: Literal["none", "rows", "clusters", "noise"] = "none"
    """Also fit the first law again to draws of its rows, or of its clusters (--cluster), with replacement, or to new
    noise on it: intervals of its constants between percentiles, to be held against the others."""
    bootstrap_count: int = 400
    """How many draws."""
    bootstrap_seed: int = 0
    """Of the draws; equal seeds give equal ones."""
    figures: Path | None = None
    """A folder to write PNG figures to: surface, residuals, frontier, local exponents, profiles of each law."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the whole fit as one JSON object (several laws asked for: {"fits": ..., "comparison": ...})."""


def run(options: Options) -> int:
    """Prints the fits; returns 0."""
    from kleiber.experiments.api.fits import fit
    from kleiber.experiments.terminal import printable, tell
    from kleiber.files import sealed_text
    from kleiber.scaling.table.warned import TableWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", TableWarning)
        warnings.showwarning = lambda message, *_: tell(f"kleiber fit: {message}", sys.stderr)
        found = fit(
            options.table,
            [name for each in options.law for name in each.split(",") if name],
            cluster=options.cluster,
            objective=options.objective,
            delta=options.delta,
            drop=options.drop,
            fix=numbers(options.fix, "fix", or_names=True),
            residuals=options.residuals,
            weights=options.weights,
            starts=options.starts,
            in_depth=options.in_depth,
            protect=options.protect,
            **pairs(options.columns, "columns"),
        )
        found = found.learning_from(*options.past_ledger) if options.past_ledger else found
        count, seed = options.bootstrap_count, options.bootstrap_seed
        drawn = None if options.bootstrap == "none" else found.bootstrap(options.bootstrap, count=count, seed=seed)
    if options.json:
        print(sealed_text({**found.to_json(), **({"bootstrap": drawn.to_json()} if drawn else {})}))
    else:
        print(printable(found.report() + (f"\n\nbootstrap of {drawn.report()}" if drawn else "")))
    if options.figures:
        try:
            _write_figures(found.fits[: 1 if found.analysis.is_default else None], options.figures)
        except ModuleNotFoundError as missing:
            raise ValueError(f"--figures needs {missing.name}: pip install 'kleiber[notebook]'.") from None
    return 0


def _write_figures(fits: "Sequence[FitResult]", folder: Path) -> None:
    from kleiber.scaling.figures.table import write_figures

    for fit in fits:
        for name, claim in write_figures(fit, folder).items():
            print(f"{folder / name}: {claim}", file=sys.stderr)
