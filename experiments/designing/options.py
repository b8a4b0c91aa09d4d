"""What `kleiber design` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kleiber.experiments.arguments import Count


@dataclass(frozen=True)
class Options:
    """What `kleiber design` takes."""

    source: tyro.conf.Positional[str]
    """A fit's JSON, a folder with fit.json, or a law of `kleiber laws`."""
    budget: Count
    """FLOPs for all new runs."""
    target: Count
    """FLOPs of the run to forecast: the best allocation of it, unless --target-params and --target-tokens say more."""
    max_run: Count | None = None
    """FLOPs of the largest single run; the smaller of a tenth of the budget and a quarter of the target."""
    max_runs: int = 48
    """Runs at most."""
    num_params: tuple[Count, Count] | None = None
    """Smallest and largest size; around the best sizes for runs down to 1/300 of the largest if left out."""
    num_tokens: tuple[Count, Count] | None = None
    """Fewest and most tokens; likewise."""
    ratio: tuple[float, float] | None = None
    """Fewest and most tokens per parameter; 64 times either side of the best for the largest run if left out."""
    max_seeds: int = 3
    """Runs of one cell at most; more would say nothing about whether the law is right."""
    ladder: int = 20
    """Sizes, and token counts, to choose from."""
    trunks: int = 0
    """Long runs (seeds) a size, whose cooldown branches share a stable part and its noise; 0: runs by themselves."""
    cooldown: float = 0.2
    """Share of a run that a branch trains by itself."""
    aim: Literal["prediction", "constants"] = "prediction"
    """Least error of the forecast (I-optimal) or of all constants together (D-optimal)."""
    stop_at: float = 0.0
    """Stop buying when the standard error of the forecast (relative) is this small."""
    sigma: float | None = None
    """Standard deviation of one log loss; from the fit, or 0.005."""
    tau: float | None = None
    """The part of it that a trunk shares; from the fit, or 0."""
    constants: str = ""
    """Of a law, as E=0.8,A=25.1,B=100,alpha=0.35,beta=0.34; the published ones if left out."""
    rivals: tuple[str, ...] = ()
    """Other laws, or JSON files of fits to the same runs: runs that tell them apart are worth more."""
    levels: str = ""
    """Further variables to choose from, as epochs=1:4:16 or weight_bits=3:4:8:16."""
    at: str = ""
    """Their values at the target, as weight_bits=16."""
    target_params: Count | None = None
    """Parameters of the target."""
    target_tokens: Count | None = None
    """Tokens of the target."""
    inference_tokens: Count = 0.0
    """Tokens the target will serve over its life; its budget pays for them too."""
    unique_tokens: Count | None = None
    """Distinct training tokens there are for the target (laws that know repeated data)."""
    flops_per_param_token: float = 6.0
    """Training FLOPs per parameter and token."""
    level: float = 0.9
    """Probability of the intervals."""
    rehearse: int = 0
    """Simulated sweeps of the design, fitted and counted."""
    write: Path | None = None
    """A new .py file: the design as an experiment for `kleiber plan` and `kleiber sweep`, sizes rounded to a ladder."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""
