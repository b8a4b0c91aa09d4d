"""kleiber tells you what a bigger model will do, and how sure it is, before you pay for it.

import kleiber as kb

Everything public stands in `__all__` below and in docs/python.md; whatever else can be imported may change. Nothing is
loaded before it is used.
"""

import sys
from typing import TYPE_CHECKING, Any

from kleiber.moved import Moved

if TYPE_CHECKING:
    from kleiber.experiments.api.catalogue import laws
    from kleiber.experiments.api.designs import Design, design
    from kleiber.experiments.api.fits import Fitted, fit, read_fit
    from kleiber.experiments.api.runs import Results, Run, load, open_run, plan, results, sweep
    from kleiber.experiments.api.tuning import Recipe, tune

    __version__: str

__all__ = [
    "fit",  # (table, law=...) -> Fitted: laws fitted to anybody's runs
    "read_fit",  # (path) -> Fitted: a fit again, from its JSON or from a sweep's directory
    "Fitted",  # .forecast, .optimum, .best, .bootstrap, .plot, .report, .to_json, .save, .constants
    "laws",  # the registry: laws by id
    "design",  # (fit or law, budget=..., target=...) -> Design: which runs to buy next
    "Design",  # a dict that prints as text: ["runs"] and all that `kleiber design --json` says
    "plan",  # (experiment) -> what it would do and cost; starts nothing
    "sweep",  # (experiment, out=...) -> how it ended: trains, fits, forecasts, tests, reports
    "results",  # (directory) -> Results: what a sweep has found so far
    "Results",  # .table, .records, .fit, .ledger, .result, .gaps, .answers, .ask(factor)
    "tune",  # (directory, ...) -> Tuning: how the best learning rate goes, .recipe for the next experiment
    "Recipe",  # .read(path), .tuned_at(config, "delphi"); recipe(config) -> config with the numbers in force
    "open_run",  # (directory, name) -> Run
    "load",  # (folder of a run) -> Run
    "Run",  # .config, .record, .records, .metrics, .params, .model, .evaluate, .generate, .export
]
_PLACES = {
    **dict.fromkeys(("fit", "read_fit", "Fitted"), "fits"),
    **{"laws": "catalogue", "design": "designs", "Design": "designs", "tune": "tuning", "Recipe": "tuning"},
}
"""Modules of experiments/api; what is not named is in its runs."""

sys.meta_path.append(Moved())


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("kleiber")
    if name in __all__:
        return getattr(importlib.import_module(f"kleiber.experiments.api.{_PLACES.get(name, 'runs')}"), name)
    import difflib

    near = difflib.get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(__all__)}."
    raise AttributeError(f"kleiber has no {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
