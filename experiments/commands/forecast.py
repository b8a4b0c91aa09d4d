"""The loss of a run nobody has trained yet, with its prediction interval, or the best run for a budget.

Example: kleiber forecast fit.json --num-params 1.3e8 --num-tokens 2.6e9
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from kleiber.experiments.arguments import numbers, read_fits

if TYPE_CHECKING:
    from kleiber.scaling.fitting.result import FitResult
    from kleiber.scaling.forecasting.flops_rule import FlopsRule
    from kleiber.scaling.forecasting.forecast import Forecast


@dataclass(frozen=True)
class Options:
    """What `kleiber forecast` takes."""

    fit: tyro.conf.Positional[str]
    """The JSON of `kleiber fit --json`, or a sweep directory. With several laws the forecast is the mean of those that
    the runs do not dismiss, and the spread between them widens the interval."""
    num_params: float | None = None
    """Parameters of the run, as counted in the fitted table."""
    num_tokens: float | None = None
    """Tokens of the run."""
    flops: float | None = None
    """Instead: a budget, for the best run of it."""
    reach: float | None = None
    """Instead: a loss, for the run that reaches it with the fewest FLOPs."""
    inference_tokens: float = 0.0
    """Tokens that the run of a budget, or to reach a loss, will serve over its life; they cost FLOPs too."""
    unique_tokens: float | None = None
    """Distinct training tokens there are for it (laws that know repeated data)."""
    flops_per_param_token: float | Literal["counted"] = 6.0
    """Training FLOPs per parameter and token: a number, or `counted` for what the flops column of the fitted table
    says at each size."""
    level: float = 0.9
    """Probability of the interval."""
    rivals: tuple[str, ...] = ()
    """JSON files of other laws fitted to the same runs, to be combined with the first."""
    at: str = ""
    """Further variables of the law, as num_unique_tokens=1e9."""
    register: Path | None = None
    """A ledger (.jsonl) to write this forecast down in before the run is trained; `kleiber ledger` scores it later."""
    name: str = ""
    """What the run is called there."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints the forecast; returns 0."""
    from kleiber.scaling.forecasting.forecast import combined_forecast

    given = options.num_params is not None and options.num_tokens is not None
    if [given, options.flops is not None, options.reach is not None].count(True) != 1:
        raise ValueError(
            "say --num-params N --num-tokens D for one run, --flops C for the best run of a budget, or --reach L for "
            "the cheapest run to a loss."
        )
    fit, *rivals = read_fits(options.fit)
    rivals += [each for path in options.rivals for each in read_fits(path)]
    at = numbers(options.at, "at")
    params, tokens, best = options.num_params, options.num_tokens, None
    if not given:
        best = best_run(options, fit)
        params, tokens = best["num_params_total"], best["num_tokens"]
        if "num_unique_tokens" in fit.scaled.law.variable_names:
            at.setdefault("num_unique_tokens", tokens / best["epochs"])
    assert params is not None and tokens is not None
    found = combined_forecast([fit, *rivals], params, tokens, options.level, at)
    if options.register:
        register(options, fit, found)
    if options.json:
        print(json.dumps({**found.to_json(), "optimum": best}, indent=1, allow_nan=False))
        return 0
    if best:
        (low, high), (few, many) = best["num_params_interval"], best["num_tokens_interval"]
        served = f", {best['inference_flops']:.4g} of them to serve" if best["inference_flops"] else ""
        print(f"best run of {best['flops']:.4g} FLOPs{served} ({best['kind']}; {best['flops_rule']}):")
        print(f"  parameters {params:.4g}  {best['level']:.0%} [{low:.4g}, {high:.4g}]")
        print(f"  tokens     {tokens:.4g}  {best['level']:.0%} [{few:.4g}, {many:.4g}]")
    print(found.report())
    return 0


def register(options: Options, fit: "FitResult", found: "Forecast") -> None:
    """Writes a forecast down in a ledger, with what simple rules say of the same run."""
    from kleiber.scaling.forecasting.forecast import baseline_losses
    from kleiber.scaling.forecasting.ledger import Ledger

    assert options.register
    if not options.name:
        raise ValueError("--register needs --name, by which the outcome is written down later.")
    size, tokens = found.num_params_total, found.num_tokens
    entry = Ledger(options.register).register(
        target=options.name,
        num_params_total=size,
        num_tokens=tokens,
        flops=flops_rule(options, fit).flops(size, tokens),
        compute_ratio=found.compute_ratio,
        law=found.law,
        predicted_loss=found.predicted_loss,
        interval=found.interval,
        level=found.level,
        baselines=baseline_losses(fit, size, tokens),
    )
    print(f"registered {options.name} in {options.register}, hash {entry['hash'][:12]}", file=sys.stderr)


def flops_rule(options: Options, fit: "FitResult") -> "FlopsRule":
    """Returns what training costs, as the options say."""
    from kleiber.scaling.forecasting.flops_rule import counted_rule, plain_rule

    per = options.flops_per_param_token
    return counted_rule(fit) if per == "counted" else plain_rule(per)


def best_run(options: Options, fit: "FitResult") -> dict[str, Any]:
    """Returns the best run of a budget, or the cheapest to a loss, with intervals."""
    from kleiber.scaling.forecasting.allocation import Demand, allocate

    rule = flops_rule(options, fit)
    demand = Demand(options.flops, options.reach, options.inference_tokens, options.unique_tokens, rule)
    found = asdict(allocate(fit, demand, options.level))
    flops = options.flops or found["training_flops"] + found["inference_flops"]
    names = ("num_params_total", "num_params_interval", "num_tokens", "num_tokens_interval", "level")
    out = {"flops": flops, **{name: found[name] for name in names}, "flops_rule": rule.text}
    return out | {name: found[name] for name in ("kind", "inference_flops", "epochs")}
