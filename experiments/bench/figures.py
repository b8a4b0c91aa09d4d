"""One measured figure, its spread, and the goal it is held to."""

from dataclasses import dataclass
from typing import Any

from kleiber.experiments.bench.interleave import Spread


@dataclass(frozen=True)
class Goal:
    """What a figure should reach, and what would be better still."""

    limit: float
    aim: float | None = None
    is_ceiling: bool = False
    """Whether the figure must stay at or under the limit; False: at or over it."""

    def is_met(self, value: float) -> bool:
        """Returns whether a value meets the limit."""
        return value <= self.limit if self.is_ceiling else value >= self.limit

    def is_aim_met(self, value: float) -> bool:
        """Returns whether a value meets the aim too; False without one."""
        return self.aim is not None and (value <= self.aim if self.is_ceiling else value >= self.aim)


def at_least(limit: float, aim: float | None = None) -> Goal:
    """Returns a goal to reach or pass."""
    return Goal(limit, aim)


def at_most(limit: float, aim: float | None = None) -> Goal:
    """Returns a goal to stay under."""
    return Goal(limit, aim, is_ceiling=True)


@dataclass(frozen=True)
class Figure:
    """One line of the table and one entry of the JSON."""

    name: str
    value: float
    unit: str
    """Such as s, tokens/s, GFLOP/s, MB; `ratio` for a quotient of two measurements."""
    low: float | None = None
    high: float | None = None
    rounds: int | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        return None if self.goal is None else self.goal.is_met(self.value)

    def as_dict(self) -> dict[str, Any]:
        """Returns the figure as results keep it; without a goal, goal, aim and is_met are null."""
        goal = self.goal
        held_to = (goal.limit, goal.aim, "at most" if goal.is_ceiling else "at least") if goal else (None,) * 3
        return {**vars(self), **dict(zip(("goal", "aim", "goal_is"), held_to, strict=True)), "is_met": self.is_met}


def figure_of_data(data: dict[str, Any]) -> Figure:
    """Returns the figure that as_dict wrote."""
    goal = None if data["goal"] is None else Goal(data["goal"], data["aim"], data["goal_is"] == "at most")
    return Figure(
        data["name"], data["value"], data["unit"], data["low"], data["high"], data["rounds"], goal, data["note"]
    )


def spread_figure(name: str, spread: Spread, unit: str, goal: Goal | None = None, note: str = "") -> Figure:
    """Returns the figure of a spread: its median, between its quartiles."""
    return Figure(name, spread.median, unit, spread.low, spread.high, spread.rounds, goal, note)
