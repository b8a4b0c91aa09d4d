"""Fit laws to any CSV or Parquet table of runs; nobody's training code is needed.

Example: kleiber fit runs.csv --columns loss=val_loss,num_params_total=params,num_tokens=tokens --law chinchilla --law
generalised_mean --json > fit.json
"""

import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kleiber.experiments.arguments import numbers, pairs


@dataclass(frozen=True)
class Options:
    """What `kleiber fit` takes."""

    table: tyro.conf.Positional[str]
    """A .csv, .tsv, .jsonl or .parquet file, one row a run; texts may be gzipped."""
    law: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A law of `kleiber laws`, or a function of yours as my_laws.py:my_law; several (repeated or joined by commas) are
    compared. Default: chinchilla."""
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
    figures: Path | None = None
    """A folder to write PNG figures to: surface, residuals, frontier, local exponents, profiles of each law."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the whole fit as one JSON object (several laws: {"fits": ..., "comparison": ...})."""


def run(options: Options) -> int:
    """Prints the fits; returns 0."""
    from kleiber.experiments.api.fits import fit
    from kleiber.scaling.table.warned import TableWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", TableWarning)
        warnings.showwarning = lambda message, *_: print(f"kleiber fit: {message}", file=sys.stderr)
        found = fit(
            options.table,
            [name for each in options.law or ("chinchilla",) for name in each.split(",") if name],
            cluster=options.cluster,
            objective=options.objective,
            delta=options.delta,
            drop=options.drop,
            fix=numbers(options.fix, "fix", or_names=True),
            residuals=options.residuals,
            weights=options.weights,
            starts=options.starts,
            in_depth=options.in_depth,
            **pairs(options.columns, "columns"),
        )
    print(json.dumps(found.to_json(), indent=1, allow_nan=False) if options.json else found.report())
    if options.figures:
        from kleiber.scaling.figures.table import write_figures

        for each in found.fits:
            for name, claim in write_figures(each, options.figures).items():
                print(f"{options.figures / name}: {claim}", file=sys.stderr)
    return 0
