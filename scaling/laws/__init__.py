"""The registry of laws: one short file for each family of laws, each with a tuple LAWS."""

import difflib
import functools
import importlib
import pkgutil

from kleiber.scaling.law import Law


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


def get_law(name: str | Law) -> Law:
    """Returns the law of that id; a law is returned as it is.

    "product_of:num_params_total+epochs" makes the product law of these columns, "mixture_of:share_web+share_code" the
    mixture law of these shares.

    Raises:
      ValueError: naming the nearest law if there is none.
    """
    if isinstance(name, Law):
        return name
    if name.startswith("product_of:"):
        from kleiber.scaling.laws.product_factors import product_law

        return product_law(tuple(name.removeprefix("product_of:").split("+")), name)
    if name.startswith("mixture_of:"):
        from kleiber.scaling.laws.mixture import mixture_of

        return mixture_of(tuple(name.removeprefix("mixture_of:").split("+")), name)
    laws = registry()
    if name in laws:
        return laws[name]
    near = difflib.get_close_matches(name, laws, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"there is no law {name!r}.{hint} Laws: {', '.join(laws)}.")
