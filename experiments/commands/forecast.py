"""The loss of a run nobody has trained yet, with its prediction interval, or the best run for a budget.

Example: kleiber forecast fit.json --num-params 1.3e8 --num-tokens 2.6e9
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


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
    """Instead: the training budget, for the compute-optimal run."""
    flops_per_param_token: float = 6.0
    """Training FLOPs per parameter and token."""
    level: float = 0.9
    """Probability of the interval."""
    rivals: tuple[str, ...] = ()
    """JSON files of other laws fitted to the same runs, to be combined with the first."""
    at: str = ""
    """Further variables of the law, as num_unique_tokens=1e9."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""


def read_fits(path: str) -> list[Any]:
    """Returns the fits of a JSON file written by `kleiber fit --json` or by a sweep."""
    from kleiber.scaling.result import FitResult

    file = Path(path)
    if file.is_dir():
        file = file / "fit.json"
    if not file.is_file():
        raise FileNotFoundError(f"there is no fit at {file}; write one with kleiber fit TABLE --json > {file}.")
    try:
        data = json.loads(file.read_text())
    except json.JSONDecodeError:
        raise ValueError(f"{file} is not JSON; write a fit with kleiber fit TABLE --json > FILE.") from None
    return [FitResult.from_json(each) for each in (data["fits"] if "fits" in data else [data, *data.get("rivals", [])])]


def run(options: Options) -> int:
    """Prints the forecast; returns 0."""
    from kleiber.experiments.commands.fit import numbers
    from kleiber.scaling.forecast import combined_forecast, optimum

    given = options.num_params is not None and options.num_tokens is not None
    if given == (options.flops is not None):
        raise ValueError("say --num-params N --num-tokens D for one run, or --flops C for the best run of a budget.")
    fit, *rivals = read_fits(options.fit)
    rivals += [each for path in options.rivals for each in read_fits(path)]
    best = None
    params, tokens = options.num_params, options.num_tokens
    if options.flops is not None:
        best = optimum(fit, options.flops, options.level, options.flops_per_param_token)
        params, tokens = best.num_params_total, best.num_tokens
    assert params is not None and tokens is not None
    found = combined_forecast([fit, *rivals], params, tokens, options.level, numbers(options.at, "at"))
    if options.json:
        print(json.dumps({**found.to_json(), "optimum": asdict(best) if best else None}, indent=1, allow_nan=False))
        return 0
    if best:
        (low, high), (few, many) = best.num_params_interval, best.num_tokens_interval
        print(f"best run of {best.flops:.4g} FLOPs ({best.flops_rule}):")
        print(f"  parameters {params:.4g}  {best.level:.0%} [{low:.4g}, {high:.4g}]")
        print(f"  tokens     {tokens:.4g}  {best.level:.0%} [{few:.4g}, {many:.4g}]")
    print(found.report())
    return 0
