"""Elastic weight consolidation: weights that mattered to the start are held near to where it left them. Needs no jax.

Source: Kirkpatrick et al. 2017, arXiv:1612.00796, equation 3.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kleiber.fields import check_fields
from kleiber.files import read_json


@dataclass(frozen=True)
class EwcConfig:
    """What is added to the training loss: weight / 2 sum F (w - w_start)^2, F the Fisher diagonal of the start."""

    weight: float = 1.0
    """How much the text of the start counts: at 1 as much as the new one, as far as its loss is a parabola."""
    num_tokens: int = 65_536
    """Of the training text of the start, from which F is measured, in rows spread evenly over it."""

    def __post_init__(self) -> None:
        check_fields(self, weight="(0, inf)", num_tokens="[1, inf)")


def check_ewc(config: Any) -> None:
    """Checks that a TrainConfig has a start whose weights can be held. Raises ValueError that says what to change."""
    if config.ewc is None:
        return
    if config.start is None:
        raise ValueError("ewc without start: it holds weights near to those that a run begins with; set start.")
    has_not = {
        "model.adapter": config.model.adapter and "an adapter, beside which they stay as they are",
        "model.compression.rank_share": config.model.compression.is_low_rank and "factors, which are other weights",
        "command": config.command and "a command, which trains as its own program does",
    }
    for name, value in has_not.items():
        if value:
            raise ValueError(f"ewc with {name}, {value}; leave one of them out.")


def begun_with(config: Any) -> Any:
    """Returns the TrainConfig of the run that one with a start begins with. Raises ValueError: it was trained
    elsewhere, so that nobody knows its text."""
    from kleiber.fields import from_data

    if config.start.train:
        return config.start.train
    folder = Path(config.start.run)
    if read_json(folder / "record.json")["status"] != "done":
        raise ValueError(f"ewc: the start {config.start.run} was trained elsewhere, and its text is not known here.")
    return from_data(type(config), read_json(folder / "config.json")["trunk"])
