"""Which runs to buy next for a budget, so that a target run is forecast best.

Example: kleiber design chinchilla --budget 2e14 --target 2e14 --max-run 2e13 --sigma 0.005

From a fit (`kleiber fit ... --json > fit.json`) its runs and its noise count; from a law of `kleiber laws` its
published constants, or --constants, are taken to be true and --sigma, --tau are assumed. --json prints:
law, source (fit or law), constants, noise {sigma, tau}, aim, level, budget_flops, spent_flops, max_run_flops,
target {flops, the law's variables, predicted_loss, kind, num_params_interval, num_tokens_interval, inference_flops,
epochs}, runs [{the law's variables, flops (by itself), added_flops (what it adds to the bill), tokens_per_parameter,
trunk, forecast_error (once bought)}], expected {forecast, new_run, constants, a, condition} (standard errors; of log
loss for the first two), before (the same from the runs already there, or null), grid {num_params, num_tokens, flops,
forecast} or null (the best rectangular grid for the same money), gain_over_grid, rivals, rehearsal {count,
forecast_error, coverage} or null, notes. What is infinite is null.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from kleiber.scaling.design import BoughtRuns
    from kleiber.scaling.known import Known
    from kleiber.scaling.result import FitResult


@dataclass(frozen=True)
class Options:
    """What `kleiber design` takes."""

    source: tyro.conf.Positional[str]
    """A fit's JSON, a folder with fit.json, or a law of `kleiber laws`."""
    budget: float
    """FLOPs for all new runs."""
    target: float
    """FLOPs of the run to forecast: the best allocation of it, unless --target-params and --target-tokens say more."""
    max_run: float | None = None
    """FLOPs of the largest single run; the smaller of a tenth of the budget and a quarter of the target."""
    max_runs: int = 48
    """Runs at most."""
    num_params: tuple[float, float] | None = None
    """Smallest and largest size; around the best sizes for runs down to 1/300 of the largest if left out."""
    num_tokens: tuple[float, float] | None = None
    """Fewest and most tokens; likewise."""
    ratio: tuple[float, float] | None = None
    """Fewest and most tokens per parameter; 64 times either side of the best for the largest run if left out."""
    max_seeds: int = 3
    """Runs of one cell at most; more would say nothing about whether the law is right."""
    ladder: int = 20
    """Sizes, and token counts, to choose from."""
    trunks: int = 0
    """Long runs (seeds) a size, whose cooldown branches share a stable part and its noise; 0: runs by themselves."""
    cooldown: float = 0.2
    """Share of a run that a branch trains by itself."""
    aim: Literal["prediction", "constants"] = "prediction"
    """Least error of the forecast (I-optimal) or of all constants together (D-optimal)."""
    stop_at: float = 0.0
    """Stop buying when the standard error of the forecast (relative) is this small."""
    sigma: float | None = None
    """Standard deviation of one log loss; from the fit, or 0.005."""
    tau: float | None = None
    """The part of it that a trunk shares; from the fit, or 0."""
    constants: str = ""
    """Of a law, as E=0.8,A=25.1,B=100,alpha=0.35,beta=0.34; the published ones if left out."""
    rivals: tuple[str, ...] = ()
    """Other laws, or JSON files of fits to the same runs: runs that tell them apart are worth more."""
    levels: str = ""
    """Further variables to choose from, as epochs=1:4:16 or weight_bits=3:4:8:16."""
    at: str = ""
    """Their values at the target, as weight_bits=16."""
    target_params: float | None = None
    """Parameters of the target."""
    target_tokens: float | None = None
    """Tokens of the target."""
    inference_tokens: float = 0.0
    """Tokens the target will serve over its life; its budget pays for them too."""
    unique_tokens: float | None = None
    """Distinct training tokens there are for the target (laws that know repeated data)."""
    flops_per_param_token: float = 6.0
    """Training FLOPs per parameter and token."""
    level: float = 0.9
    """Probability of the intervals."""
    rehearse: int = 0
    """Simulated sweeps of the design, fitted and counted."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints the design; returns 0."""
    from kleiber.experiments.design_report import design_text

    if not (options.budget > 0 and options.target > 0):
        raise ValueError(f"--budget and --target are FLOPs above 0, got {options.budget:g} and {options.target:g}.")
    found = make_design(options)
    print(json.dumps(found, indent=1, allow_nan=False) if options.json else design_text(found))
    return 0


def make_design(options: Options) -> dict[str, Any]:
    """Returns everything that `--json` prints."""
    import numpy as np

    from kleiber.experiments.design_report import design_json
    from kleiber.scaling.design import design_runs, make_pool
    from kleiber.scaling.rectangle import best_grid

    source, known = _source(options)
    names = known.model.law.variable_names
    target = _target(options, source)
    targets = {name: np.array([float(target[name])]) for name in names}
    max_run = options.max_run or min(options.budget / 10, options.target / 4)
    params, tokens, ratio = _ranges(options, known, max_run)
    pool = make_pool(
        np.geomspace(*params, options.ladder),
        np.geomspace(*tokens, options.ladder),
        max_run,
        ratio=ratio,
        num_trunks=options.trunks,
        cooldown=options.cooldown,
        flops_per_param_token=options.flops_per_param_token,
        levels=_levels(options, names),
    )
    known, rivals = _rivals(options, source, known, pool.columns)
    limits: dict[str, Any] = {"max_runs": options.max_runs, "aim": options.aim, "stop_at": options.stop_at}
    limits["max_repeats"] = options.max_seeds
    bought = design_runs(known, pool, targets, options.budget, rivals=rivals, **limits)
    grid = None
    if set(names) == {"num_params_total", "num_tokens"}:
        per = options.flops_per_param_token
        grid = best_grid(
            known, targets, bought.flops, options.max_runs, params, tokens, max_run, flops_per_param_token=per
        )
    rehearsal = None
    if options.rehearse:
        point = {name: float(target[name]) for name in names}
        rehearsal = rehearse_design(known, bought, point, options.rehearse)
    head = {
        "law": known.model.law.id,
        "source": "fit" if known.has_runs else "law",
        "constants": {name: float(value) for name, value in known.model.reported(known.z).items()},
        "noise": {"sigma": known.noise.sigma, "tau": known.noise.tau},
        "aim": options.aim,
        "level": options.level,
        "budget_flops": options.budget,
        "max_run_flops": max_run,
        "target": target,
        "rivals": [{"law": each.model.law.id, "weight": each.weight} for each in rivals],
        "rehearsal": rehearsal,
        "notes": _notes(options, bought),
    }
    cooldown = options.cooldown if options.trunks else 1.0
    return design_json(head, bought, grid, names, options.flops_per_param_token, cooldown)


def _notes(options: Options, bought: "BoughtRuns") -> list[str]:
    notes = []
    if options.stop_at and bought.path[-1] > options.stop_at:
        notes.append(f"the budget ends before the forecast is good to {options.stop_at:.2%}")
    if len(bought) == options.max_runs and bought.flops < 0.9 * options.budget:
        notes.append(f"--max-runs {options.max_runs} ends it with {options.budget - bought.flops:.2g} FLOPs left")
    return notes


def rehearse_design(known: "Known", bought: "BoughtRuns", target: dict[str, float], count: int) -> dict[str, Any]:
    """Returns how the new runs by themselves would forecast, over simulated sweeps."""
    from kleiber.scaling.simulate import rehearse

    constants = {name: float(value) for name, value in known.model.reported(known.z).items()}
    law, columns = known.model.law, dict(bought.columns)
    found = rehearse(law, constants, columns, known.noise, target, trunk=bought.trunk, count=count)
    rates = {name: {"level": each.level, "rate": each.rate} for name, each in found.coverage.items()}
    return {"count": count, "forecast_error": found.forecast_error, "coverage": rates}


def _source(options: Options) -> tuple["FitResult | Known", "Known"]:
    """Returns the fit or law given, and what the designer knows from it."""
    from dataclasses import replace

    import numpy as np

    from kleiber.experiments.commands.fit import numbers
    from kleiber.experiments.commands.forecast import read_fits
    from kleiber.scaling.known import known_from_fit, known_from_law
    from kleiber.scaling.laws import get_law, registry
    from kleiber.scaling.simulate import RunNoise

    looks_like_file = options.source.endswith(".json") or Path(options.source).exists()
    if looks_like_file and options.source not in registry():
        if options.constants:
            raise ValueError("--constants belong to a law; a fit has its own.")
        fit = read_fits(options.source)[0]
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


def _target(options: Options, source: "FitResult | Known") -> dict[str, Any]:
    """Returns the run to forecast: as given, or the best of its budget."""
    import numpy as np

    from kleiber.experiments.commands.fit import numbers
    from kleiber.scaling.allocation import Demand, allocate
    from kleiber.scaling.optimum import plain_rule

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
    names = source.model.law.variable_names
    if "num_unique_tokens" in names:
        found["num_unique_tokens"] = found["num_tokens"] / found["epochs"]
    lost = [name for name in names if name not in found]
    if lost:
        raise ValueError(f"law {source.model.law.id} needs {', '.join(lost)} at the target: --at {lost[0]}=VALUE.")
    columns = {name: np.array([float(found[name])]) for name in names}
    found["predicted_loss"] = float(np.exp(source.model.log_loss(source.z[None], columns)[0, 0]))
    return found


def _ranges(
    options: Options, known: "Known", max_run: float
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Returns the limits of sizes, token counts and tokens per parameter, around the best of runs of these budgets."""
    from kleiber.scaling.allocation import Demand, allocate
    from kleiber.scaling.optimum import plain_rule

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


def _levels(options: Options, names: tuple[str, ...]) -> dict[str, list[float]]:
    from kleiber.experiments.commands.fit import pairs

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


def _rivals(
    options: Options, source: "FitResult | Known", known: "Known", columns: Any
) -> tuple["Known", list["Known"]]:
    from kleiber.experiments.commands.forecast import read_fits
    from kleiber.scaling.known import Known, known_from_law, rivals_from_fits, rivals_from_laws

    if isinstance(source, Known):
        constants = {name: float(value) for name, value in known.model.reported(known.z).items()}
        known = known_from_law(known.model.law, constants, known.noise, columns)
        return known, rivals_from_laws(known, options.rivals, columns)
    files = [each for each in options.rivals if Path(each).exists()]
    laws = [each for each in options.rivals if each not in files]
    if laws:
        raise ValueError(f"--rivals {laws[0]}: with a fit, give the JSON of a rival fitted to the same runs.")
    fits = read_fits(options.source) + [fit for path in files for fit in read_fits(path)]
    return known, rivals_from_fits(fits) if len(fits) > 1 else []
