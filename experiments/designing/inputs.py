"""What the options of `kleiber design` mean: the law and noise to start from, the target, and what may be bought."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kleiber.experiments.arguments import numbers, pairs
from kleiber.experiments.designing.options import Options

if TYPE_CHECKING:
    from kleiber.scaling.fitting.known import Known
    from kleiber.scaling.fitting.result import FitResult


def starting_point(options: Options) -> tuple["FitResult | Known", "Known"]:
    """Returns the fit or law given, and what the designer knows from it."""
    from dataclasses import replace

    import numpy as np

    from kleiber.scaling.fitting.known import known_from_fit, known_from_law
    from kleiber.scaling.fitting.noise import RunNoise
    from kleiber.scaling.laws import get_law

    if fits := given_fits(options.source):
        if options.constants:
            raise ValueError("--constants belong to a law; a fit has its own.")
        fit = fits[0]
        known = known_from_fit(fit)
        noise = RunNoise(options.sigma or known.noise.sigma, known.noise.tau if options.tau is None else options.tau)
        return fit, replace(known, noise=noise)
    law = get_law(options.source)
    constants = numbers(options.constants, "constants")
    if not constants and not law.references:
        raise ValueError(f"law {law.id} has no published constants here: give --constants {'=..,'.join(law.names)}=..")
    constants = {**(law.references[0].constants if law.references else {}), **constants}
    noise = RunNoise(options.sigma or 0.005, options.tau or 0.0)
    scale = {name: np.array([1e6, 1e8]) for name in law.variable_names}
    known = known_from_law(law, constants, noise, scale)
    return known, known


def given_fits(source: "str | list[FitResult]") -> "list[FitResult]":
    """Returns the fits at hand, or of a file or directory; none for a law."""
    from kleiber.scaling.fitting.result import read_fits
    from kleiber.scaling.laws import registry

    if isinstance(source, list):
        return source
    is_place = isinstance(source, str) and source not in registry()
    return list(read_fits(source)[0]) if is_place and (source.endswith(".json") or Path(source).exists()) else []


def guesses(source: "FitResult | Known", known: "Known") -> list[str]:
    """Returns a note where a fit withholds the exponents that shape the target, which are then taken for guesses."""
    from kleiber.scaling.fitting.known import Known
    from kleiber.scaling.forecasting.remedies import withheld_exponents

    if isinstance(source, Known) or not (lost := withheld_exponents(source)):
        return []
    values = known.scaled.reported(known.z)
    told = ", ".join(f"{name} {float(values[name]):.2g}" for name in lost)
    return [
        f"the fit withholds {', '.join(lost)}: its best values, {told}, are taken for guesses, and so the shape of the "
        "target and of these runs is one; fit again once some are trained, and ask again"
    ]


def target_run(options: Options, source: "FitResult | Known") -> dict[str, Any]:
    """Returns the run to forecast: as given, or the best of its budget."""
    import numpy as np

    from kleiber.scaling.forecasting.allocation import Demand, allocate
    from kleiber.scaling.forecasting.flops_rule import plain_rule

    params, tokens, unique = options.target_params, options.target_tokens, options.unique_tokens
    if (params is None) != (tokens is None):
        raise ValueError("--target-params and --target-tokens go together.")
    if params is not None and tokens is not None:
        found: dict[str, Any] = {"kind": "given", "num_params_total": params, "num_tokens": tokens}
        found |= {"num_params_interval": None, "num_tokens_interval": None, "inference_flops": 0.0}
        found["epochs"] = max(1.0, tokens / unique) if unique else 1.0
        found["flops"] = options.flops_per_param_token * params * tokens
    else:
        rule = plain_rule(options.flops_per_param_token)
        demand = Demand(options.target, None, options.inference_tokens, unique, rule)
        found = asdict(allocate(source, demand, options.level))
        found["flops"] = found.pop("training_flops")
        del found["level"]
    found |= numbers(options.at, "at")
    names = source.scaled.law.variable_names
    if "num_unique_tokens" in names:
        found["num_unique_tokens"] = found["num_tokens"] / found["epochs"]
    lost = [name for name in names if name not in found]
    if lost:
        raise ValueError(f"law {source.scaled.law.id} needs {', '.join(lost)} at the target: --at {lost[0]}=VALUE.")
    columns = {name: np.array([float(found[name])]) for name in names}
    found["predicted_loss"] = float(source.scaled.measure.back(source.scaled.log_loss(source.z[None], columns)[0, 0]))
    return found


def search_ranges(
    options: Options, known: "Known", max_run: float
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Returns the limits of sizes, token counts and tokens per parameter, around the best of runs of these budgets."""
    from kleiber.scaling.forecasting.allocation import Demand, allocate
    from kleiber.scaling.forecasting.flops_rule import plain_rule

    params, tokens, ratio = options.num_params, options.num_tokens, options.ratio
    if params and tokens:
        return params, tokens, ratio or (0.0, float("inf"))
    rule = plain_rule(options.flops_per_param_token)
    try:
        small, large = (allocate(known, Demand(flops=flops, rule=rule)) for flops in (max_run / 300, max_run))
    except ValueError as reason:
        raise ValueError(f"{reason} Say --num-params LOW HIGH --num-tokens LOW HIGH to choose from.") from None
    best = large.num_tokens / large.num_params_total
    return (
        params or (small.num_params_total / 4, 8 * large.num_params_total),
        tokens or (small.num_tokens / 4, 8 * large.num_tokens),
        ratio or (best / 64, best * 64),
    )


def factor_levels(options: Options, names: tuple[str, ...]) -> dict[str, list[float]]:
    """Returns the values of each further variable to choose from."""
    levels = {}
    for name, text in pairs(options.levels, "levels").items():
        try:
            levels[name] = [float(each) for each in text.split(":")]
        except ValueError:
            raise ValueError(f"--levels {options.levels!r}: expected NAME=NUMBER:NUMBER, got {text!r}.") from None
    allowed = [name for name in names if not name.startswith("num_")] + ["epochs"] * ("num_unique_tokens" in names)
    unknown = [name for name in levels if name not in allowed]
    if unknown:
        raise ValueError(f"--levels: this law has no {unknown[0]!r} to choose; it has {', '.join(allowed) or 'none'}.")
    if "num_unique_tokens" in names:
        levels.setdefault("epochs", [1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    known = {*levels, "num_params_total", "num_tokens"} | ({"num_unique_tokens"} if "epochs" in levels else set())
    lost = [name for name in names if name not in known]
    if lost:
        raise ValueError(f"say which values of {', '.join(lost)} to choose from: --levels {lost[0]}=A:B:C.")
    return levels


def rival_laws(
    options: Options, source: "FitResult | Known", known: "Known", columns: Any
) -> tuple["Known", list["Known"]]:
    """Returns what is known, scaled to the candidates if it is a law, and the rivals to tell it from."""
    from kleiber.scaling.designing.rivals import rivals_from_fits, rivals_from_laws
    from kleiber.scaling.fitting.known import Known, known_from_law

    if isinstance(source, Known):
        constants = {name: float(value) for name, value in known.scaled.reported(known.z).items()}
        known = known_from_law(known.scaled.law, constants, known.noise, columns)
        return known, rivals_from_laws(known, options.rivals, columns)
    files = [each for each in options.rivals if Path(each).exists()]
    laws = [each for each in options.rivals if each not in files]
    if laws:
        raise ValueError(f"--rivals {laws[0]}: with a fit, give the JSON of a rival fitted to the same runs.")
    fits = [fit for each in (options.source, *files) for fit in given_fits(each)]
    return known, rivals_from_fits(fits) if len(fits) > 1 else []
