"""The loss of a run nobody has trained yet, with its prediction interval, or the best run for a budget.

Example: kleiber forecast fit.json --num-params 1.3e8 --num-tokens 2.6e9
"""

import csv
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from kleiber.experiments.arguments import Count, numbers, pairs

if TYPE_CHECKING:
    from kleiber.experiments.api.fits import Fitted
    from kleiber.scaling.fitting.result import FitResult
    from kleiber.scaling.forecasting.forecast import Forecast


@dataclass(frozen=True)
class Options:
    """What `kleiber forecast` takes."""

    fit: tyro.conf.Positional[str]
    """The JSON of `kleiber fit --json`, or a sweep directory. With several laws the forecast is their mean, and the
    spread between them widens the interval."""
    points: tyro.conf.Positional[Path | None] = None
    """Instead of one run, a table of runs, one a row; the forecasts come as CSV, or as JSON."""
    columns: str = ""
    """Our names to those of that table, as for `kleiber fit`."""
    num_params: Count | None = None
    """Parameters of the run, as counted in the fitted table; 7B is a number too."""
    num_tokens: Count | None = None
    """Tokens of the run."""
    flops: Count | None = None
    """Instead: a budget, for the best run of it."""
    reach: float | None = None
    """Instead: a loss, for the run that reaches it with the fewest FLOPs."""
    inference_tokens: Count = 0.0
    """Tokens that the run of a budget, or to reach a loss, will serve over its life; they cost FLOPs too."""
    unique_tokens: Count | None = None
    """Distinct training tokens there are for it (laws that know repeated data)."""
    flops_per_param_token: float | Literal["counted"] = 6.0
    """Training FLOPs per parameter and token: a number, or `counted` for what the flops column of the fitted table
    says at each size."""
    level: float = 0.9
    """Probability of the interval."""
    rivals: tuple[str, ...] = ()
    """JSON files of other laws fitted to the same runs, to be combined with the first."""
    protect: Literal["rolling_origin", "none"] = "rolling_origin"
    """Whether the interval takes in how well the fitted table forecast its own dearer runs; none for the fits' own."""
    past_ledger: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """ledger.jsonl of an earlier sweep of the same recipe (repeat for more): how far its forecasts were off narrows or
    widens the intervals of these."""
    at: str = ""
    """Further variables of the law, as num_unique_tokens=1e9."""
    best: str = ""
    """Variables of the law to be set at their best, as learning_rate or learning_rate,batch_size, for a law that has a
    minimum in them (basin, basin_scaled, basin_batch): the levels are printed with their intervals."""
    law: tuple[str, ...] = ()
    """Your own law, as my_laws.py:my_law, where the fit was of one whose file has moved."""
    register: Path | None = None
    """A ledger (.jsonl) to write this forecast down in before the run is trained; `kleiber ledger` scores it later."""
    name: str = ""
    """What the run is called there."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints the forecast; returns 0."""
    from kleiber.experiments.terminal import printable
    from kleiber.scaling.fitting.result import without_nan

    if options.points:
        return run_table(options)
    at, counts = numbers(options.at, "at"), {"num_params_total": options.num_params, "num_tokens": options.num_tokens}
    run_given = at | {name: count for name, count in counts.items() if count is not None}
    budget = [each for each in (options.flops, options.reach) if each is not None]
    if len(budget) > 1 or (budget and run_given != at) or not (budget or run_given or options.best):
        raise ValueError(
            "say --num-params N --num-tokens D for one run, --flops C for the best run of a budget, or --reach L for "
            "the cheapest run to a loss."
        )
    fitted = read(options)
    best = None
    if budget:
        best = fitted.optimum(
            flops=options.flops,
            reach=options.reach,
            inference_tokens=options.inference_tokens,
            unique_tokens=options.unique_tokens,
            flops_per_param_token=options.flops_per_param_token,
            level=options.level,
        )
    columns = {**(best.columns if best else {}), **run_given}
    names = [name.strip() for name in options.best.split(",") if name.strip()]
    settings = fitted.best(*names, level=options.level, **columns) if names else ()
    columns |= {each.name: each.value for each in settings}
    found = fitted.forecast(**columns, level=options.level, protect=options.protect)
    if options.register:
        register(options, fitted.fits[0], found)
    if options.json:
        whole = {**found.to_json(), "optimum": asdict(best) if best else None}
        whole["best"] = [asdict(each) for each in settings]
        print(json.dumps(without_nan(whole), indent=1, allow_nan=False))
        return 0
    if best:
        print(printable(best.report()))
    for each in settings:
        print(printable(each.report()))
    print(printable(found.report()))
    return 0


def read(options: Options) -> "Fitted":
    """Returns the fits asked for as one, with what past ledgers tell."""
    from kleiber.experiments.api.fits import read_fit, together

    fitted = together([read_fit(path, options.law) for path in (options.fit, *options.rivals)])
    return fitted.learning_from(*options.past_ledger) if options.past_ledger else fitted


def run_table(options: Options) -> int:
    """Prints the forecasts of a table of runs; returns 0."""
    from kleiber.scaling.fitting.result import without_nan

    one = (options.num_params, options.num_tokens, options.flops, options.reach, options.register)
    if any(each is not None for each in one) or options.best:
        raise ValueError(f"the runs stand in {options.points}: leave --num-params, --flops, --best and --register out.")
    fitted = read(options)
    mapping = pairs(options.columns, "columns")
    found = fitted.forecast_table(options.points, level=options.level, protect=options.protect, **mapping)
    rows = [dict(zip(found, row, strict=True)) for row in zip(*(each.tolist() for each in found.values()), strict=True)]
    if options.json:
        print(json.dumps(without_nan({"level": options.level, "forecasts": rows}), indent=1, allow_nan=False))
        return 0
    out = csv.DictWriter(sys.stdout, found, lineterminator="\n")
    out.writeheader()
    out.writerows(rows)
    return 0


def register(options: Options, fit: "FitResult", found: "Forecast") -> None:
    """Writes a forecast down in a ledger, with what simple rules say of the same run."""
    from kleiber.experiments.api.fits import flops_rule
    from kleiber.scaling.forecasting.forecast import baseline_losses
    from kleiber.scaling.forecasting.ledger import Ledger

    assert options.register
    if not options.name:
        raise ValueError("--register needs --name, by which the outcome is written down later.")
    size, tokens = found.num_params_total, found.num_tokens
    if size is None or tokens is None:
        raise ValueError("--register needs --num-params and --num-tokens, by which a run is known in the ledger.")
    entry = Ledger(options.register).register(
        target=options.name,
        num_params_total=size,
        num_tokens=tokens,
        flops=flops_rule(fit, options.flops_per_param_token).flops(size, tokens),
        compute_ratio=found.compute_ratio,
        law=found.law,
        predicted_loss=found.predicted_loss,
        interval=found.interval,
        level=found.level,
        baselines=baseline_losses(fit, size, tokens),
        **found.basis,
    )
    print(f"registered {options.name} in {options.register}, hash {entry['hash'][:12]}", file=sys.stderr)
