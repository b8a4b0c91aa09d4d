"""An experiment: the question, the trunks that fit a law, and the targets that test it."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from kleiber.fields import check_fields
from kleiber.train.config import TrainConfig

RECORD_COLUMNS = frozenset(
    "run_id trunk_id experiment split target status reason family d_model num_layers num_params_total "
    "num_params_non_embedding num_params_active num_tokens num_unique_tokens epochs num_steps batch_size seq_len "
    "vocab_size flops flops_6nd tokens_per_parameter loss loss_standard_error bits_per_byte seed learning_rate "
    "exchanged_bytes optimizer weight_decay schedule corpus tokenizer data_fingerprint config_hash device dtype "
    "wall_seconds tokens_per_second split_overlap ledger_head final_checkpoint num_validation_tokens "
    "num_validation_bytes code_version python_version num_params_trained start_run pretrained_tokens pretrained_params "
    "pretrained_loss teacher_run teacher_params teacher_run_loss noise_scale_tokens noise_scale_standard_error "
    "program_fingerprint".split()
)
"""Columns of the run record that a factor would overwrite (docs/json.md says what they hold)."""
STATES = ("state", "runstatus", "runstate", "jobstatus", "jobstate")
"""Names under which a column of a table is taken to say which runs are done (scaling/table/checks.py)."""


@dataclass(frozen=True)
class Gate:
    """What a finished experiment must meet for exit code 0; the report shows each against its limit."""

    max_error: float = 0.015
    """Largest relative error of any target's forecast."""
    max_interval: float = 0.03
    """Largest half-width of any prediction interval, relative to the forecast."""
    max_residual_rms: float = 0.006
    """Largest root mean square residual of log loss over the fitted points."""
    requires_inside: bool = True
    """Whether every target must lie inside its prediction interval."""

    def __post_init__(self) -> None:
        check_fields(self, **dict.fromkeys(("max_error", "max_interval", "max_residual_rms"), "[0, inf)"))


@dataclass(frozen=True)
class AssumedLaw:
    """A law and a noise to plan with, L = E + A / N^alpha + B / D^beta in nats per token; never used in a fit.

    The defaults are the fit to 34 byte-level models of 20 to 246 thousand parameters on `cloud-docs`.
    """

    E: float = 1.0
    A: float = 490.0
    B: float = 750.0
    alpha: float = 0.73
    beta: float = 0.57
    trunk_noise: float = 0.004
    """Standard deviation of log loss shared by the points of one trunk."""
    point_noise: float = 0.002
    """Standard deviation of log loss of each point by itself."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            **dict.fromkeys(("A", "B", "alpha", "beta"), "(0, inf)"),
            **dict.fromkeys(("E", "trunk_noise", "point_noise"), "[0, inf)"),
        )


@dataclass(frozen=True)
class Pruning:
    """Which runs are cut early as hopeless, by a pruner of the package optuna (`kleiber[prune]`).

    A run is judged at every tenth of its tokens before the cooldown, by the training losses so far, among the runs that
    are alike in all but the searched fields and the seed. Which others have come as far depends on the workers: with
    one the same runs are cut every time, with several their speeds have a say.
    """

    over: tuple[str, ...] = ()
    """Fields that are searched, such as learning_rate; empty cuts nothing. Runs that differ in others, as in size, are
    never judged by each other."""
    pruner: str = "MedianPruner"
    """A class of optuna.pruners."""
    options: tuple[tuple[str, float | str], ...] = (("n_startup_trials", 2), ("n_warmup_steps", 20))
    """Its arguments by their names in optuna; a step there is a percent of the run's tokens."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Target:
    """A run that is forecast, with its interval written to the ledger, before it starts."""

    name: str
    train: TrainConfig

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.train.num_tokens) != 1:
            raise ValueError(f"target {self.name} has {len(self.train.num_tokens)} token counts, expected one.")


@dataclass(frozen=True)
class Experiment:
    """What `experiment()` of a config file returns."""

    name: str
    """Letters, digits, dashes and underscores; names the default output folder."""
    question: str
    """What the experiment asks, in a sentence; printed on top of the report."""
    trunks: tuple[TrainConfig, ...]
    """The runs to measure, and to fit when laws are given."""
    targets: tuple[Target, ...] = ()
    """Larger runs that test the forecast."""
    laws: tuple[str, ...] = ("chinchilla", "generalised_mean")
    """Laws to fit (`kleiber laws`). The first is the one reported in full; the registered forecast is the mean of all,
    with the spread between them in its interval. Empty: no fit."""
    level: float = 0.9
    """Probability of the prediction intervals."""
    gate: Gate = field(default_factory=Gate)
    assumed: AssumedLaw = field(default_factory=AssumedLaw)
    population_size: int = 1
    """Most trunks alike in all but seed, learning rate, weight decay and factors that train together as one compiled
    program. Worth it on accelerators, where one small model leaves the device idle; on CPU one is fastest."""

    keep_final: Literal["all", "targets", "none"] | None = None
    """Of which points the measured weights are kept (`kleiber plan` says how large they are). None: of all, while that
    takes no more than 2 GB, else of none."""
    pruning: Pruning = field(default_factory=Pruning)
    """Whether hopeless runs are cut early; they are in no fit, and count as tried and worse."""
    past_ledgers: tuple[str, ...] = ()
    """ledger.jsonl of earlier sweeps of the same recipe, as seen from where the command is typed. How far their
    forecasts were off, in standard errors, narrows or widens the intervals of these: they learn."""

    def __post_init__(self) -> None:
        check_fields(self, level="(0, 1)", population_size="[1, inf)")
        if not self.name or not all(c.isascii() and (c.isalnum() or c in "-_") for c in self.name):
            raise ValueError(f"experiment name {self.name!r}: use letters, digits, dashes and underscores.")
        if not self.trunks:
            raise ValueError(f"experiment {self.name} has no trunks: give at least one TrainConfig.")
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError(f"experiment {self.name} has targets with equal names: {names}.")
        for config in (*self.trunks, *(target.train for target in self.targets)):
            _check_factors(config.factors)
        self._score_the_same_text()
        if self.targets and not self.laws:
            raise ValueError(f"experiment {self.name} has targets but no laws to forecast them with.")

    @property
    def starts(self) -> list[TrainConfig]:
        """The trunks that others begin with (TrainConfig.start) or learn from (TrainConfig.teacher), each once."""
        found: dict[TrainConfig, None] = {}
        waiting = [*self.trunks, *(target.train for target in self.targets)]
        while waiting:  # a start may have a start itself: stages, one after the other
            sources = [source for config in waiting for source in (config.start, config.teacher) if source]
            waiting = [each for each in dict.fromkeys(s.train for s in sources if s.train) if each not in found]
            found |= dict.fromkeys(waiting)
        return list(found)

    def _score_the_same_text(self) -> None:
        """Where runs differ in tokenizer, has every one scored on the same bytes, unless its config says on which."""
        configs = [*self.trunks, *(target.train for target in self.targets)]
        if len({config.data.tokenizer for config in configs}) < 2:
            return
        num_bytes = max(config.evaluation.num_tokens for config in configs)

        def scored(config: TrainConfig) -> TrainConfig:
            own = config.evaluation.num_bytes or num_bytes
            return replace(config, evaluation=replace(config.evaluation, num_bytes=own))

        targets = tuple(replace(target, train=scored(target.train)) for target in self.targets)
        object.__setattr__(self, "trunks", tuple(map(scored, self.trunks)))
        object.__setattr__(self, "targets", targets)


def _check_factors(factors: tuple[tuple[str, float | str], ...]) -> None:
    names = [name for name, _ in factors]
    for name in names:
        plain = re.sub(r"[\W_]", "", name.lower())  # as a table's columns are recognised
        is_taken = plain in {"", *STATES, *(column.replace("_", "") for column in RECORD_COLUMNS)}
        if is_taken or name.endswith("_version") or names.count(name) > 1:
            raise ValueError(
                f"a factor is named '{name}', expected names unlike each other and unlike the columns of every run "
                f"record: call it something else, such as '{name or 'my'}_level'."
            )
