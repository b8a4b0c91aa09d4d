"""A design as JSON and as text: the runs to buy, what they will say, and what a grid would have said."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from kleiber.scaling.designing.design import BoughtRuns, ExpectedErrors
from kleiber.scaling.designing.rectangle import Grid


def design_json(
    head: Mapping[str, Any],
    bought: BoughtRuns,
    grid: Grid | None,
    names: tuple[str, ...],
    flops_per_param_token: float,
    cooldown: float,
) -> dict[str, Any]:
    """Returns the head (what the command already knows) with spent_flops, runs, expected, before, grid (the best of
    equal cost, if there is one) and gain_over_grid; infinite numbers as None. `cooldown` is the share of a run that a
    branch trains by itself, 1 for runs by themselves."""
    error = float(bought.expected.forecast[0])
    rival = float(grid.expected.forecast[0]) if grid else None
    found = {
        **head,
        "spent_flops": bought.flops,
        "runs": _runs(bought, names, flops_per_param_token, cooldown),
        "expected": _errors(bought.expected),
        "before": _errors(bought.before) if bought.before else None,
        "grid": None,
        "gain_over_grid": 1 - error / rival if rival else None,
    }
    if grid:
        sides = {"num_params": grid.num_params.tolist(), "num_tokens": grid.num_tokens.tolist()}
        found["grid"] = {**sides, "flops": grid.flops, "forecast": rival}
    return _finite(found)


def _runs(bought: BoughtRuns, names: tuple[str, ...], per: float, cooldown: float) -> list[dict[str, Any]]:
    rows = []
    longest: dict[str, float] = {}
    for index, trunk in enumerate(bought.trunk.tolist()):
        row: dict[str, Any] = {name: float(bought.columns[name][index]) for name in names}
        flops = per * row["num_params_total"] * row["num_tokens"]
        before = longest.get(trunk, 0.0)
        row["tokens_per_parameter"] = row["num_tokens"] / row["num_params_total"]
        row["flops"] = flops
        row["added_flops"] = cooldown * flops + (1 - cooldown) * max(flops - before, 0.0)
        longest[trunk] = max(before, flops)
        rows.append({**row, "trunk": trunk, "forecast_error": bought.path[index]})
    return rows


def _errors(expected: ExpectedErrors) -> dict[str, Any]:
    return {
        "forecast": float(expected.forecast[0]),
        "new_run": float(expected.new_run[0]),
        "constants": expected.standard_errors,
        "a": expected.a,
        "condition": expected.condition,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _share(value: float | None) -> str:
    return "not identified" if value is None else f"{value:.2%}"


def design_text(found: Mapping[str, Any]) -> str:
    """Returns what `kleiber design` prints for people, from its JSON."""
    target, expected, noise = found["target"], found["expected"], found["noise"]
    lines = [
        f"{found['law']}, designed for the constants of a {found['source']}; noise {noise['sigma']:.2%} a point, "
        f"{noise['tau']:.2%} shared along a trunk",
        f"  target       {target['kind']}, {target['flops']:.3g} FLOPs: parameters {target['num_params_total']:.4g}"
        f"{_range(target['num_params_interval'])}, tokens {target['num_tokens']:.4g}"
        f"{_range(target['num_tokens_interval'])}, loss {target['predicted_loss']:.4g}",
        f"  to buy       {len(found['runs'])} runs on {len({run['trunk'] for run in found['runs']})} trunks for "
        f"{found['spent_flops']:.3g} of {found['budget_flops']:.3g} FLOPs, none above {found['max_run_flops']:.3g}",
        "",
        *_table(found["runs"]),
        "",
        f"  forecast     good to {_share(expected['forecast'])} (a new run to {_share(expected['new_run'])})",
    ]
    if found["before"]:
        lines.append(f"  before       {_share(found['before']['forecast'])} from the runs already there")
    if found["grid"]:
        grid = found["grid"]
        sides = f"{len(grid['num_params'])} sizes x {len(grid['num_tokens'])} token counts"
        gain = f" ({found['gain_over_grid']:.0%} less error)" if found["gain_over_grid"] is not None else ""
        lines.append(f"  best grid    {_share(grid['forecast'])} with {sides} for {grid['flops']:.3g} FLOPs{gain}")
    errors = ", ".join(f"{name} {_plain(value)}" for name, value in expected["constants"].items())
    lines.append(f"  errors of    {errors}" + (f", a {_plain(expected['a'])}" if expected["a"] is not None else ""))
    if found["rehearsal"]:
        rehearsal = found["rehearsal"]
        rate = rehearsal["coverage"]["new run"]
        lines.append(
            f"  rehearsed    {rehearsal['count']} times: forecast error {_share(rehearsal['forecast_error'])}, "
            f"{rate['rate']:.0%} of {rate['level']:.0%} intervals held"
        )
    lines += [f"  rival        {each['law']} (weight {each['weight']:.2g})" for each in found["rivals"]]
    return "\n".join(lines + [f"  note         {note}" for note in found["notes"]])


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _range(interval: list[float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]"


def _table(runs: list[dict[str, Any]]) -> list[str]:
    """Returns a line for each size: its token counts, with how many seeds; further variables in brackets."""
    cells: dict[tuple, Counter] = {}
    for run in runs:
        own = ("num_params_total", "num_tokens", "tokens_per_parameter", "flops", "added_flops", "trunk")
        extra = {name: value for name, value in run.items() if name not in (*own, "forecast_error")}
        unique = extra.pop("num_unique_tokens", None)
        if unique:
            extra["epochs"] = run["num_tokens"] / unique
        key = (run["num_params_total"], *(f"{name} {value:.3g}" for name, value in extra.items()))
        cells.setdefault(key, Counter())[run["num_tokens"]] += 1
    lines = [f"  {'parameters':>12}  tokens (x seeds)"]
    for (params, *labels), tokens in sorted(cells.items()):
        row = ", ".join(f"{count:.3g}" + (f" x{seeds}" if seeds > 1 else "") for count, seeds in sorted(tokens.items()))
        lines.append(f"  {params:>12.4g}  {row}" + (f"   [{', '.join(labels)}]" if labels else ""))
    return lines
