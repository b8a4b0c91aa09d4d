"""The registry of laws: formula, symbols, units, source, validity, published constants and pitfalls.

Example: kleiber laws chinchilla
"""

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Options:
    """What `kleiber laws` takes."""

    law: tyro.conf.Positional[str] = ""
    """One law or plan, to see all about it; product_of:COLUMN+COLUMN and mixture_of:COLUMN+COLUMN make laws of these
    columns, and my_laws.py:my_law shows one of yours. All laws in a line each if left out."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints the registry or one law; returns 0."""
    from kleiber.experiments.api import catalogue
    from kleiber.scaling.forecasting.allocation import ALLOCATIONS

    plans = [plan for plan in ALLOCATIONS if options.law in ("", plan.id)]
    laws = list(catalogue.laws.values()) if not options.law else []
    if options.law and (not plans or options.law in catalogue.laws):  # a plan and a law may share a name: both
        laws = [catalogue.laws[options.law]]
    if options.json:
        found = {"laws": [law.to_json() for law in laws], "plans": [asdict(plan) for plan in plans]}
        print(json.dumps(found, indent=1))
    elif options.law:
        shown = [str(law) for law in laws]
        shown += ["\n".join(f"{key:<9} {value}" for key, value in asdict(plan).items()) for plan in plans]
        print("\n\n".join(shown))
    else:
        width = max(len(law.id) for law in laws)
        print(catalogue.laws)
        print("\nplans for one run, by any law of parameters and tokens:")
        print("\n".join(f"{plan.id:<{width}}  {plan.formula}\n{'':<{width}}  {plan.title}" for plan in plans))
        print("\nkleiber laws NAME shows symbols, units, source, validity and pitfalls.")
    return 0
