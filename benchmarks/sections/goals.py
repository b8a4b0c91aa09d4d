"""The goals of the project, as data: what these sections are held to, and where an accelerator should be.
Those of section step stand in kleiber.experiments.bench.one_model.

Source: the house's performance page; ratios are of one interleaved run, a fraction is of the matmul peak measured then.
"""

from dataclasses import dataclass

from kleiber.experiments.bench.figures import Goal, at_least, at_most

GOALS: dict[str, Goal] = {
    "sweep over PyTorch": at_least(2.0, 3.0),
    "start to first step": at_most(5.0, 3.0),
    "import over jax, flax and optax": at_most(0.5),
    "help": at_most(0.5),
    "data head-room": at_least(3.0, 10.0),
    "verified checkpoint over plain Orbax": at_most(1.15, 1.05),
    "stall of a save": at_most(0.05, 0.01),
    "4,500 starts": at_most(10.0, 2.0),
    "1,000 refits": at_most(60.0, 15.0),
    "guard": at_most(1.01),
    "memory over its estimate": at_most(1.5),
    "seals": at_most(0.01),
    "one law of 100,000 records, seconds": at_most(5.0),
    "100,000 records, seconds": at_most(60.0),
    "100,000 records, bytes": at_most(2e9),
}
"""By what is measured."""


@dataclass(frozen=True)
class AcceleratorGoal:
    """One line of what an accelerator should reach (one H200: 790 TFLOP/s measured, bfloat16, T = 1024)."""

    workload: str
    unit: str
    solid: float
    extreme: float
    how: str
    """How it is measured, or which command measures it where the bench does not."""
    is_ceiling: bool = False

    @property
    def goal(self) -> Goal:
        """The limit is what is solid, the aim what is extreme."""
        return Goal(self.solid, self.extreme, self.is_ceiling)


_FRACTION = "model FLOPs (6N + causal attention) over the matmul peak, interleaved"
ACCELERATOR_GOALS: dict[str, AcceleratorGoal] = {
    "124m": AcceleratorGoal("GPT-2 124M", "of peak", 0.45, 0.55, _FRACTION),
    "350m": AcceleratorGoal("350M", "of peak", 0.55, 0.65, _FRACTION),
    "10m": AcceleratorGoal("10M, one model", "of peak", 0.15, 0.30, _FRACTION),
    "10m x 16": AcceleratorGoal("10M, 16 models as one program", "of peak", 0.35, 0.45, _FRACTION),
    "1m x 64": AcceleratorGoal(
        "1M, 64 models as one program over one after another", "ratio", 10.0, 30.0,
        "tokens/s of the population over those of one model, interleaved; losses equal within 1e-3",
    ),
    "0.1m x 512": AcceleratorGoal(
        "0.1M, 512 models as one program over one after another", "ratio", 50.0, 150.0, "alike"
    ),
    "host overhead": AcceleratorGoal(
        "host seconds a step at 1M", "us", 100.0, 20.0,
        "host time from calling the block to its return (dispatch alone), over its steps", is_ceiling=True,
    ),
    "stall": AcceleratorGoal(
        "stall of an asynchronous save, 1.5B state", "of 100 s", 0.05, 0.01,
        "seconds that Saver.start holds the training thread", is_ceiling=True,
    ),
    "small sweep": AcceleratorGoal(
        "5 sizes of 0.1 to 10M, 4 token counts, 3 seeds, everything included", "minutes", 20.0, 6.0,
        "by hand: kleiber sweep of such a config", is_ceiling=True,
    ),
    "goodput": AcceleratorGoal(
        "goodput with a kill every 10 minutes", "of time", 0.90, 0.95,
        "by hand: python -m chaos, and `goodput` of a sweep's records",
    ),
}  # fmt: skip
"""By name. The last two take hours and belong to commands of their own; decoding has no command yet."""
