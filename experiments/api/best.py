"""The best run of a budget, or the cheapest to a loss."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Best:
    """The best run of a budget, or the cheapest to a loss. Counts are plain numbers, intervals (low, high)."""

    kind: str
    num_params_total: float
    num_params_interval: tuple[float, float]
    num_tokens: float
    num_tokens_interval: tuple[float, float]
    level: float
    flops: float
    """Of training, and of serving if that was asked for."""
    inference_flops: float
    epochs: float
    flops_rule: str

    @property
    def columns(self) -> dict[str, float]:
        """The run as columns of a law."""
        unique = self.num_tokens / self.epochs
        return {"num_params_total": self.num_params_total, "num_tokens": self.num_tokens, "num_unique_tokens": unique}

    def report(self) -> str:
        """Returns the run as text."""
        served = f", {self.inference_flops:.4g} of them to serve" if self.inference_flops else ""
        (low, high), (few, many) = self.num_params_interval, self.num_tokens_interval
        return (
            f"best run of {self.flops:.4g} FLOPs{served} ({self.kind}; {self.flops_rule}):\n"
            f"  parameters {self.num_params_total:.4g}  {self.level:.0%} [{low:.4g}, {high:.4g}]\n"
            f"  tokens     {self.num_tokens:.4g}  {self.level:.0%} [{few:.4g}, {many:.4g}]"
        )

    __repr__ = report
