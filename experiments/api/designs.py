"""Which runs to buy, in Python."""

from collections.abc import Mapping
from typing import Any

from kleiber.experiments.api.fits import AnyLaw, Fitted


class Design(dict[str, Any]):
    """Runs to buy, and how well they will forecast the target: the keys of `kleiber design --json` (docs/json.md)."""

    def __repr__(self) -> str:
        from kleiber.experiments.designing.report import design_text

        return design_text(self)


def design(source: Fitted | AnyLaw, *, budget: float, target: float, **options: Any) -> Design:
    """Returns which runs to buy for a budget so that a target run is forecast best.

    Args:
      source: a fit, its file or directory, or a law, then with `constants` unless it has published ones.
      budget: FLOPs of all new runs.
      target: FLOPs of the run to forecast.
      **options: as `kleiber design --help` lists them, with _ for -; constants, at and levels take dicts.

    Raises:
      ValueError: a source, option or number that makes no sense.
    """
    from kleiber.experiments.designing.design import make_design
    from kleiber.experiments.designing.options import Options

    def text(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        pairs = {name: each if isinstance(each, list | tuple) else [each] for name, each in value.items()}
        return ",".join(f"{name}={':'.join(map(repr, each))}" for name, each in pairs.items())

    given: Any = list(source.fits) if isinstance(source, Fitted) else source
    try:
        chosen = Options(given, budget, target, **{name: text(value) for name, value in options.items()})
    except TypeError as mistake:
        raise ValueError(f"kb.design: {mistake}; kleiber design --help lists the options.") from None
    return Design(make_design(chosen))
