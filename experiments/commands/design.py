"""Which runs to buy next for a budget, so that a target run is forecast best.

Example: kleiber design chinchilla --budget 2e14 --target 2e14 --max-run 2e13 --sigma 0.005

From a fit (`kleiber fit ... --json > fit.json`) its runs and its noise count; from a law of `kleiber laws` its
published constants, or --constants, are taken to be true and --sigma, --tau are assumed. docs/json.md says what --json
prints.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from kleiber.scaling.designing.design import BoughtRuns
    from kleiber.scaling.fitting.known import Known


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
    from kleiber.experiments.designing.report import design_text

    if not (options.budget > 0 and options.target > 0):
        raise ValueError(f"--budget and --target are FLOPs above 0, got {options.budget:g} and {options.target:g}.")
    found = make_design(options)
    print(json.dumps(found, indent=1, allow_nan=False) if options.json else design_text(found))
    return 0


def make_design(options: Options) -> dict[str, Any]:
    """Returns everything that `--json` prints."""
    import numpy as np

    from kleiber.experiments.designing.inputs import (
        factor_levels,
        rival_laws,
        search_ranges,
        starting_point,
        target_run,
    )
    from kleiber.experiments.designing.report import design_json
    from kleiber.scaling.designing.design import design_runs, make_pool
    from kleiber.scaling.designing.rectangle import best_grid

    source, known = starting_point(options)
    names = known.scaled.law.variable_names
    target = target_run(options, source)
    targets = {name: np.array([float(target[name])]) for name in names}
    max_run = options.max_run or min(options.budget / 10, options.target / 4)
    params, tokens, ratio = search_ranges(options, known, max_run)
    pool = make_pool(
        np.geomspace(*params, options.ladder),
        np.geomspace(*tokens, options.ladder),
        max_run,
        ratio=ratio,
        num_trunks=options.trunks,
        cooldown=options.cooldown,
        flops_per_param_token=options.flops_per_param_token,
        levels=factor_levels(options, names),
    )
    known, rivals = rival_laws(options, source, known, pool.columns)
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
        "law": known.scaled.law.id,
        "source": "fit" if known.has_runs else "law",
        "constants": {name: float(value) for name, value in known.scaled.reported(known.z).items()},
        "noise": {"sigma": known.noise.sigma, "tau": known.noise.tau},
        "aim": options.aim,
        "level": options.level,
        "budget_flops": options.budget,
        "max_run_flops": max_run,
        "target": target,
        "rivals": [{"law": each.scaled.law.id, "weight": each.weight} for each in rivals],
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
    from kleiber.scaling.designing.simulate import rehearse

    constants = {name: float(value) for name, value in known.scaled.reported(known.z).items()}
    law, columns = known.scaled.law, dict(bought.columns)
    found = rehearse(law, constants, columns, known.noise, target, trunk=bought.trunk, count=count)
    rates = {name: {"level": each.level, "rate": each.rate} for name, each in found.coverage.items()}
    return {"count": count, "forecast_error": found.forecast_error, "coverage": rates}
