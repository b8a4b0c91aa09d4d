"""Fit laws to any CSV or Parquet table of runs; nobody's training code is needed.

Example: kleiber fit runs.csv --columns loss=val_loss,num_params_total=params,num_tokens=tokens --law chinchilla --law
generalised_mean --json > fit.json
"""

import json
import sys
import warnings
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Options:
    """What `kleiber fit` takes."""

    table: tyro.conf.Positional[str]
    """A .csv, .tsv or .parquet file, one row a run."""
    law: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A law of `kleiber laws`; several (repeated or joined by commas) are compared. Default: chinchilla."""
    columns: str = ""
    """Our names to the table's, as loss=val_loss,num_params_total=params,num_tokens=tokens."""
    cluster: str | None = None
    """Column whose equal values share a trunk, as trunk_id: their noise is correlated."""
    objective: Literal["gaussian", "huber", "student"] = "gaussian"
    """Summed over log residuals."""
    delta: float | None = None
    """Huber's turning point or the scale of Student's t; from the residuals if left out."""
    drop: str | None = None
    """Leave out rows, as "epochs > 1 or tokens / params < 0.4"."""
    fix: str = ""
    """Constants held at a value, as L0=3.2,E=1.7."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the whole fit as one JSON object (several laws: {"fits": ..., "comparison": ...})."""


def pairs(text: str, option: str) -> dict[str, str]:
    """Returns {"a": "b"} for "a=b,..."; ValueError naming the option otherwise."""
    out = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--{option} {text!r}: expected NAME=VALUE,NAME=VALUE, got {part!r}.")
        out[name.strip()] = value.strip()
    return out


def numbers(text: str, option: str) -> dict[str, float]:
    """Returns {"a": 1.0} for "a=1,..."; ValueError naming the option otherwise."""
    try:
        return {name: float(value) for name, value in pairs(text, option).items()}
    except ValueError:
        raise ValueError(f"--{option} {text!r}: expected NAME=NUMBER,NAME=NUMBER.") from None


def run(options: Options) -> int:
    """Prints the fits; returns 0."""
    from kleiber.scaling.fit import fit_law
    from kleiber.scaling.forecast import form_weights
    from kleiber.scaling.report import comparison_report
    from kleiber.scaling.table import TableWarning, read_table

    names = [name for each in options.law or ("chinchilla",) for name in each.split(",") if name]
    fixed = numbers(options.fix, "fix")
    table = read_table(options.table, pairs(options.columns, "columns"), options.drop)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TableWarning)
        fits = [
            fit_law(
                table,
                name,
                cluster=options.cluster,
                objective=options.objective,
                delta=options.delta,
                fixed=_own(name, fixed, len(names)),
            )
            for name in names
        ]
    messages = list(dict.fromkeys(f"{each.category.__name__}: {each.message}" for each in caught))
    for message in messages:
        print(f"kleiber fit: {message}", file=sys.stderr)
    weights = form_weights(fits)
    if options.json:
        found = [{**fit.to_json(), "warnings": messages} for fit in fits]
        if len(found) == 1:
            print(json.dumps(found[0], indent=1, allow_nan=False))
        else:
            comparison = [
                {"law": fit.law, "aicc": fit.aicc, "weight": weight} for fit, weight in zip(fits, weights, strict=True)
            ]
            print(json.dumps({"fits": found, "comparison": comparison}, indent=1, allow_nan=False))
        return 0
    print("\n".join(fit.report() for fit in fits))
    if len(fits) > 1:
        print(comparison_report(fits, weights))
    return 0


def _own(law: str, fixed: dict[str, float], num_laws: int) -> dict[str, float]:
    """Returns the fixed constants that this law has; with one law, all, so that a misspelt one is an error."""
    if num_laws == 1:
        return fixed
    from kleiber.scaling.laws import get_law

    return {name: value for name, value in fixed.items() if name in get_law(law).names}
