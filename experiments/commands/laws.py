"""The registry of laws: formula, symbols, units, source, validity, published constants and pitfalls.

Example: kleiber laws chinchilla
"""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from kleiber.scaling.law import Law


@dataclass(frozen=True)
class Options:
    """What `kleiber laws` takes."""

    law: tyro.conf.Positional[str] = ""
    """One law or plan, to see all about it; product_of:COLUMN+COLUMN and mixture_of:COLUMN+COLUMN make laws of these
    columns. All laws in a line each if left out."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""


def describe(law: "Law") -> dict[str, Any]:
    """Returns all about a law as plain JSON values."""
    return {
        "id": law.id,
        "title": law.title,
        "formula": law.formula,
        "citation": law.citation,
        "variables": {each.name: {"meaning": each.meaning, "unit": each.unit} for each in law.variables},
        "parameters": {
            each.name: {"meaning": each.meaning, "unit": each.unit, "linear": any(each.name in g for g in law.linear)}
            for each in law.parameters
        },
        "validity": law.validity,
        "limits": list(law.limits),
        "references": [
            {"constants": dict(each.constants), "source": each.source, "mark": each.mark} for each in law.references
        ],
        "sweep": law.sweep,
        "pitfalls": law.pitfalls,
    }


def run(options: Options) -> int:
    """Prints the registry or one law; returns 0."""
    from kleiber.scaling.forecasting.allocation import ALLOCATIONS
    from kleiber.scaling.laws import get_law, registry

    plans = [plan for plan in ALLOCATIONS if options.law in ("", plan.id)]
    laws = list(registry().values()) if not options.law else [] if plans else [get_law(options.law)]
    if options.json:
        found = {"laws": [describe(law) for law in laws], "plans": [asdict(plan) for plan in plans]}
        print(json.dumps(found, indent=1))
    elif options.law and laws:
        print(_text(describe(laws[0])))
    elif options.law:
        print("\n".join(f"{key:<9} {value}" for key, value in asdict(plans[0]).items()))
    else:
        width = max(len(law.id) for law in laws)
        print("\n".join(f"{law.id:<{width}}  {law.formula}\n{'':<{width}}  {law.title}" for law in laws))
        print("\nplans for one run, by any law of parameters and tokens:")
        print("\n".join(f"{plan.id:<{width}}  {plan.formula}\n{'':<{width}}  {plan.title}" for plan in plans))
        print("\nkleiber laws NAME shows symbols, units, source, validity and pitfalls.")
    return 0


def _text(about: dict[str, Any]) -> str:
    lines = [f"{about['id']}: {about['title']}", f"  {about['formula']}", f"  source     {about['citation']}"]
    for name, each in about["variables"].items():
        lines.append(f"  column     {name}: {each['meaning']} [{each['unit']}]")
    for name, each in about["parameters"].items():
        lines.append(f"  constant   {name}: {each['meaning']} [{each['unit']}]")
    lines += [f"  {key:<10} {about[key]}" for key in ("validity", "sweep", "pitfalls") if about[key]]
    lines += [f"  limit      {each}" for each in about["limits"]]
    for each in about["references"]:
        constants = ", ".join(f"{name} {value:g}" for name, value in each["constants"].items())
        lines.append(f"  published  {constants} ({each['source']})")
    return "\n".join(lines)
