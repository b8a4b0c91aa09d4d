"""A design as an experiment file that `kleiber plan` and `kleiber sweep` take."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kleiber.files import write_whole
from kleiber.model.config import ModelConfig
from kleiber.model.counts import num_params_total
from kleiber.model.ladder import shape_of_depth, shape_of_width

WIDEST = 512
"""Width up to which the sizes are those of the width family, two layers; larger ones grow in depth too."""
KNOWN = ("num_params_total", "num_tokens", "num_unique_tokens")

FILE = '''"""{count} runs for {flops:.3g} FLOPs, chosen by `kleiber design` for law {law}, and the run they forecast.

kleiber plan {name}
kleiber sweep {name}
"""

from kleiber.experiments.experiment import {imported}
from kleiber.model.ladder import {family}
from kleiber.train.config import DataConfig, OptimizerConfig, TrainConfig

CORPUS, TOKENIZER = "cloud-docs", "bytes"
LEARNING_RATE, BATCH_SIZE = 0.008, 4
RUNS = (  # {dial}, tokens, seed, and unique tokens where text is repeated
{runs}
)


def train(dial: int, num_tokens: tuple[int, ...], seed: int, unique: int | None = None) -> TrainConfig:
    """Returns one trunk; the sizes are the nearest of the family to those of the design."""
    epochs = max(1.0, 1.01 * num_tokens[-1] / unique) if unique else 1.0
    data = DataConfig(CORPUS, TOKENIZER, num_unique_tokens=unique, max_epochs=epochs)
    optimizer = OptimizerConfig(LEARNING_RATE)
    return TrainConfig({family}(dial), optimizer, num_tokens, batch_size=BATCH_SIZE, seed=seed, data=data)


def experiment() -> Experiment:
    """Returns the design's runs and its target."""
    return Experiment(
        name="{stem}",
        question="What does law {law} forecast for {target_params:.3g} parameters on {target_tokens:.3g} tokens?",
        trunks=tuple(train(*run) for run in RUNS),
        targets=(Target("target", train({target})),),
        laws=("{law}",),{assumed}
    )
'''


def write_experiment(found: Mapping[str, Any], path: Path) -> None:
    """Writes a design, as `--json` prints it, as an experiment file.

    Raises:
      ValueError: the file is there already, is no .py, or the design chose what no config says, such as weight bits.
    """
    if path.suffix != ".py" or path.exists():
        raise ValueError(f"--write {path}: expected the name of a new file that ends in .py.")
    known = (*KNOWN, "tokens_per_parameter", "flops", "added_flops", "trunk", "forecast_error")
    further = [name for name in found["runs"][0] if name not in known]
    if further:
        raise ValueError(f"--write: no config follows from {further[0]}; write the experiment by hand (--json).")
    target = found["target"]
    largest = max(run["num_params_total"] for run in (*found["runs"], target))
    family = shape_of_width if largest <= num_params_total(shape_of_width(WIDEST)) else shape_of_depth
    trunks: dict[str, list[Mapping[str, Any]]] = {}
    for run in found["runs"]:
        trunks.setdefault(run["trunk"], []).append(run)
    rows, seeds = [], dict[int, int]()
    for runs in trunks.values():
        dial = nearest_dial(family, runs[0]["num_params_total"])
        seeds[dial] = seeds.get(dial, -1) + 1
        tokens = tuple(sorted({round(run["num_tokens"]) for run in runs}))
        unique = runs[0].get("num_unique_tokens")
        rows.append((dial, tokens, seeds[dial], *([round(unique)] if unique and unique < 0.999 * tokens[-1] else [])))
    goal = (nearest_dial(family, target["num_params_total"]), (round(target["num_tokens"]),), 1000)
    constants = ", ".join(f"{name}={value:.4g}" for name, value in found["constants"].items())
    noise = f"trunk_noise={found['noise']['tau']:.4g}, point_noise={found['noise']['sigma']:.4g}"
    is_plain = found["law"] == "chinchilla"
    text = FILE.format(
        law=found["law"],
        count=len(found["runs"]),
        flops=found["spent_flops"],
        name=path.name,
        stem="".join(c if c.isascii() and c.isalnum() else "_" for c in path.stem),
        imported="AssumedLaw, Experiment, Target" if is_plain else "Experiment, Target",
        family=family.__name__,
        dial="width" if family is shape_of_width else "layers",
        runs="\n".join(f"    {row}," for row in sorted(rows)),
        target=f"*{goal}",
        target_params=target["num_params_total"],
        target_tokens=target["num_tokens"],
        assumed=f"\n        assumed=AssumedLaw({constants}, {noise})," if is_plain else "",
    )
    write_whole(path, text)


def nearest_dial(family: Callable[[int], ModelConfig], num_params: float) -> int:
    """Returns the width (a multiple of 8) or depth whose parameters are nearest, by ratio."""
    step, best = (8, 8) if family is shape_of_width else (1, 1)
    while num_params_total(family(best + step)) < num_params:
        best += step
    low, high = num_params_total(family(best)), num_params_total(family(best + step))
    return best + step if num_params / low > high / num_params else best
