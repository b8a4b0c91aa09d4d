"""The loss of a run nobody has trained yet, with its prediction interval, or the best run for a budget.

Example: kleiber forecast fit.json --num-params 1.3e8 --num-tokens 2.6e9
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from kleiber.experiments.arguments import Count, numbers

if TYPE_CHECKING:
    from kleiber.scaling.fitting.result import FitResult
    from kleiber.scaling.forecasting.forecast import Forecast


@dataclass(frozen=True)
class Options:
    """What `kleiber forecast` takes."""

    fit: tyro.conf.Positional[str]
    """The JSON of `kleiber fit --json`, or a sweep directory. With several laws the forecast is their mean, and the
    spread between them widens the interval."""
    num_params: Count | None = None
    """Parameters of the run, as counted in the fitted table."""
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
    at: str = ""
    """Further variables of the law, as num_unique_tokens=1e9."""
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
    from kleiber.experiments.api.fits import read_fit, together
    from kleiber.experiments.terminal import printable

    at, counts = numbers(options.at, "at"), {"num_params_total": options.num_params, "num_tokens": options.num_tokens}
    run_given = at | {name: count for name, count in counts.items() if count is not None}
    budget = [each for each in (options.flops, options.reach) if each is not None]
    if len(budget) > 1 or (budget and run_given != at) or not (budget or run_given):
        raise ValueError(
            "say --num-params N --num-tokens D for one run, --flops C for the best run of a budget, or --reach L for "
            "the cheapest run to a loss."
        )
    fitted = together([read_fit(path, options.law) for path in (options.fit, *options.rivals)])
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
    found = fitted.forecast(**columns, level=options.level, protect=options.protect)
    if options.register:
        register(options, fitted.fits[0], found)
    if options.json:
        print(json.dumps({**found.to_json(), "optimum": asdict(best) if best else None}, indent=1, allow_nan=False))
        return 0
    if best:
        print(printable(best.report()))
    print(printable(found.report()))
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
    )
    print(f"registered {options.name} in {options.register}, hash {entry['hash'][:12]}", file=sys.stderr)
