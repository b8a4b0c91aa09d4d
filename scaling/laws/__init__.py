"""The registry of laws: one short file for each family of laws, each with a tuple LAWS."""

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from kleiber.scaling.law import Law
from kleiber.scaling.own_law import function


@functools.cache
def registry() -> dict[str, Law]:
    """Returns every law by its id, in the order of the files' names."""
    laws: dict[str, Law] = {}
    for module in sorted(entry.name for entry in pkgutil.iter_modules(__path__)):
        for law in importlib.import_module(f"{__name__}.{module}").LAWS:
            if law.id in laws:
                raise ValueError(f"two laws are called {law.id!r}; rename the one in {module}.py.")
            laws[law.id] = law
    return laws


def get_law(law: str | Law | Callable[..., Any]) -> Law:
    """Returns the law of an id, a law as it is, or a user's function of columns and constants (own_law/function.py).

    "product_of:num_params_total+epochs" makes the product law of these columns, "mixture_of:share_web+share_code" the
    mixture law of these shares (and +num_params_total+num_tokens adds size and tokens), and "my_laws.py:my_law" takes
    a user's own.

    Raises:
      ValueError: naming the nearest law if there is none, or what is wrong with the function.
    """
    if isinstance(law, Law):
        return law
    if callable(law):
        return _own(function.own_law(law))
    name = law
    if name.startswith("product_of:"):
        from kleiber.scaling.laws.product_factors import product_law

        return product_law(tuple(name.removeprefix("product_of:").split("+")), name)
    if name.startswith("mixture_of:"):
        from kleiber.scaling.laws.mixture import mixture_of

        return mixture_of(tuple(name.removeprefix("mixture_of:").split("+")), name)
    if ".py:" in name:
        return _own(function.load_law(name))
    laws = registry()
    if name in laws:
        return laws[name]
    near = difflib.get_close_matches(name, laws, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"there is no law {name!r}.{hint} Laws: {', '.join(laws)}.")


def law_of_fit(values: Mapping[str, Any], given: Law | None) -> Law:
    """Returns the law of a fit's JSON: the registered one, or a user's own as given or found again in its file."""
    if "own_law" in values:
        return function.kept_law(values["own_law"], given)
    return given if given and given.formula == values["formula"] else get_law(values["law"])


def _own(law: Law) -> Law:
    if law.id in registry():
        raise ValueError(f"there is a law {law.id!r} in the registry; call your function something else.")
    return law
