"""How an optimizer's numbers follow batch, token horizon and shape: powers relative to a tuned reference.

The model's parametrization says how they follow width and depth by theory (model/parametrization.py); a recipe says
what is left to measure. It is applied where an experiment is written, so that every config, record and report holds
the numbers in force:

    recipe = Recipe.read("recipe.json")                     # of `kleiber tune`
    trunks = [recipe(TrainConfig(..., num_tokens=(n,))) for n in sizes]
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from kleiber.fields import check_fields
from kleiber.files import read_json, write_json
from kleiber.train.config import OptimizerConfig, TrainConfig

Quantity = Literal["learning_rate", "weight_decay", "epsilon", "beta2"]
Cause = Literal["batch_tokens", "num_tokens", "d_model", "num_layers"]

_OF: dict[Cause, Callable[[TrainConfig], int]] = {
    "batch_tokens": lambda config: config.tokens_per_step,
    "num_tokens": lambda config: max(config.num_tokens),
    "d_model": lambda config: config.model.d_model,
    "num_layers": lambda config: config.model.num_layers,
}

RULES: Mapping[str, tuple["Power", ...]]
"""Published rules by name."""


@dataclass(frozen=True)
class Power:
    """One number goes as a power of another: quantity / its reference = (cause / its reference) ** exponent."""

    quantity: Quantity
    """Of beta2 it is its logarithm that goes so: with exponent 1 its half-life in tokens is constant over batches."""
    cause: Cause
    """batch_tokens: tokens of a step; num_tokens: the longest count a trunk is trained to."""
    exponent: float
    standard_error: float | None = None
    """Where it was measured."""

    def __post_init__(self) -> None:
        check_fields(self, exponent="(-inf, inf)", standard_error="[0, inf); None is not measured")


@dataclass(frozen=True)
class Recipe:
    """An optimizer tuned at one batch, length and shape, and how its numbers follow them elsewhere."""

    optimizer: OptimizerConfig
    batch_tokens: int
    num_tokens: int
    d_model: int
    num_layers: int
    powers: tuple[Power, ...] = ()
    source: str = ""
    """Where the powers come from."""

    def __post_init__(self) -> None:
        check_fields(self, **dict.fromkeys(get_args(Cause), "[1, inf)"))
        pairs = [(each.quantity, each.cause) for each in self.powers]
        twice = {pair for pair in pairs if pairs.count(pair) > 1}
        if twice:
            quantity, cause = min(twice)
            raise ValueError(f"powers has {quantity} by {cause} twice; give one exponent for each pair.")

    @classmethod
    def tuned_at(cls, config: TrainConfig, powers: "str | tuple[Power, ...]", source: str = "") -> "Recipe":
        """Returns the recipe whose reference is a tuned config.

        Args:
          config: with the optimizer that was found best.
          powers: of Power, or the name of a published rule: one of RULES.
          source: of the powers; a published rule names itself.

        Raises:
          ValueError: no rule of this name.
        """
        if isinstance(powers, str):
            if powers not in RULES:
                raise ValueError(f"no recipe {powers!r}, expected one of {', '.join(RULES)}.")
            source, powers = powers, RULES[powers]
        return cls(config.optimizer, **{cause: of(config) for cause, of in _OF.items()}, powers=powers, source=source)

    def __call__(self, config: TrainConfig) -> TrainConfig:
        """Returns the config with the optimizer that the recipe has for its batch, length and shape.

        Of the config's own optimizer nothing is kept: what it says is the recipe's to say.
        """
        numbers = {quantity: getattr(self.optimizer, quantity) for quantity in get_args(Quantity)}
        for power in self.powers:
            ratio = (_OF[power.cause](config) / getattr(self, power.cause)) ** power.exponent
            value = numbers[power.quantity]
            numbers[power.quantity] = value**ratio if power.quantity == "beta2" else value * ratio
        return replace(config, optimizer=replace(self.optimizer, **numbers))

    def write(self, path: str | Path) -> None:
        """Writes the recipe as JSON that `read` takes; people may edit a copy without its seal."""
        write_json(Path(path), asdict(self))

    @classmethod
    def read(cls, path: str | Path) -> "Recipe":
        """Returns the recipe of a file.

        Raises:
          ValueError: it is no recipe; what was found and expected is said.
        """
        try:
            data: dict[str, Any] = read_json(Path(path))
            powers = tuple(Power(**each) for each in data["powers"])
            return cls(**{**data, "optimizer": OptimizerConfig(**data["optimizer"]), "powers": powers})
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise ValueError(f"{path} is no recipe: {problem} `kleiber tune OUT --to {path}` writes one.") from None


RULES = {
    # Horizon and batch of "Delphi" (Marin, 2026), for its matrices; r = batch / tokens for epsilon.
    "delphi": (
        Power("learning_rate", "batch_tokens", 0.5),
        Power("learning_rate", "num_tokens", -0.3),
        Power("epsilon", "batch_tokens", -0.5),
        Power("epsilon", "num_tokens", 0.5),
        Power("beta2", "batch_tokens", 1.0),
    ),
    # Malladi et al. 2022, arXiv:2205.10287: Adam as a stochastic differential equation, batch alone.
    "square_root": (
        Power("learning_rate", "batch_tokens", 0.5),
        Power("epsilon", "batch_tokens", -0.5),
        Power("beta2", "batch_tokens", 1.0),
    ),
    # Wang and Aitchison 2024, arXiv:2405.13698: the time scale batch / (rate * decay * tokens) of AdamW stays.
    "time_scale": (Power("weight_decay", "batch_tokens", 1.0), Power("weight_decay", "num_tokens", -1.0)),
}
