"""Small weights beside those of a model: of which kind, how large, and where. Needs no jax."""

from dataclasses import dataclass
from typing import Literal, get_args

from kleiber.fields import check_fields

AdapterTarget = Literal["query", "key", "value", "output", "up", "gate", "down"]
"""The matrices of a layer."""
LOW_RANK = ("lora", "dora", "adalora")
"""Kinds of adapters that are a change of their weight, and can be merged into it."""


@dataclass(frozen=True)
class AdapterConfig:
    """Small weights beside matrices of the layers (model/adapters/): in fine-tuning they move, the matrices stay."""

    kind: Literal["lora", "dora", "bottleneck", "adalora", "prompt"] = "lora"
    """lora: a product of two narrow matrices is added to a matrix; dora: and the length of each of its outputs is a
    weight; bottleneck: what a matrix gives passes a narrow feed-forward besides; adalora: singular vectors and values
    are added, and ranks go where they count most; prompt: virtual tokens stand in front of every row, beside no
    matrix."""
    rank: int = 8
    """The narrow width; of adalora what it begins with."""
    alpha: float = 8.0
    """The product of lora, dora and adalora is multiplied by alpha / rank."""
    targets: tuple[AdapterTarget, ...] | None = None
    """Which matrices; None is all of them, for bottleneck the two that write to the residual stream."""
    num_virtual_tokens: int = 16
    """Of prompt: vectors in front of a row. Each costs what a token costs, in every row."""
    target_rank: float | None = None
    """Of adalora: the rank that is left in the end, a mean over the matrices; None is half of rank."""
    budget_steps: tuple[int, int] = (100, 400)
    """Of adalora: the optimizer steps from which on the mean rank falls, and at which it is target_rank."""
    orthogonality: float = 0.1
    """Of adalora: weight of the distance of its singular vectors from orthonormal ones in the training loss; never part
    of the reported loss."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            rank="[1, inf)",
            alpha="(0, inf)",
            num_virtual_tokens="[1, inf)",
            target_rank="(0, inf); None is half of rank",
            budget_steps="[0, inf)",
            orthogonality="[0, inf)",
        )
        if self.targets == ():
            raise ValueError("adapter.targets is empty, expected matrices such as query,value, or None for the usual.")
        if self.kind == "prompt" and self.targets:
            raise ValueError(f"adapter.targets {self.targets} with kind prompt, which has no matrices: leave it out.")
        if self.kind == "adalora":
            if (self.target_rank or 0) > self.rank:
                raise ValueError(
                    f"adapter.target_rank {self.target_rank:g} is above adapter.rank {self.rank}: lower it."
                )
            if self.budget_steps[0] >= self.budget_steps[1]:
                raise ValueError(f"adapter.budget_steps {self.budget_steps}, expected (first, last) with first < last.")

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of the matrices that have an adapter, where a layer has them."""
        if self.targets is not None:
            return self.targets
        usual = {"bottleneck": ("output", "down"), "prompt": ()}
        return usual.get(self.kind, get_args(AdapterTarget))

    @property
    def final_rank(self) -> float:
        """The mean rank that adalora leaves, resolved."""
        return self.target_rank or self.rank / 2
