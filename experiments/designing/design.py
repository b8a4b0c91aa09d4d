"""A design from the options of `kleiber design`: inputs, search, and a rehearsal of what was found."""

from typing import TYPE_CHECKING, Any

from kleiber.experiments.designing.inputs import (
    factor_levels,
    guesses,
    rival_laws,
    search_ranges,
    starting_point,
    target_run,
)
from kleiber.experiments.designing.options import Options
from kleiber.experiments.designing.report import design_json

if TYPE_CHECKING:
    from kleiber.scaling.designing.design import BoughtRuns
    from kleiber.scaling.fitting.known import Known


def make_design(options: Options) -> dict[str, Any]:
    """Returns everything that `--json` prints."""
    import numpy as np

    from kleiber.scaling.designing.design import design_runs, make_pool
    from kleiber.scaling.designing.rectangle import best_grid

    source, known = starting_point(options)
    names = known.scaled.law.variable_names
    guessed = guesses(source, known)
    target = target_run(options, known if guessed else source)
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
        "notes": [*guessed, *_notes(options, bought)],
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
