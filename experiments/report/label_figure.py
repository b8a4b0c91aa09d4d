"""What the best run of a sweep on images makes of those held out: which labels it takes for which, and some to look at.

K labels, n images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.scaling.figures.style import INK, QUIET, claimed_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, COLUMNS = 4, 8
WRONG_INK = "#D55E00"
MOST_NAMED = 20
"""Labels that fit beside a matrix."""


@dataclass(frozen=True, eq=False)
class Told:
    """Held-out images and what a run said they are."""

    run_id: str
    images: np.ndarray
    """uint8 [n, H, W, C]."""
    labels: np.ndarray
    """int [n]."""
    losses: np.ndarray
    """float64 [n, K], nats that each label would cost."""
    names: tuple[str, ...]

    @property
    def guesses(self) -> np.ndarray:
        """int [n]."""
        return self.losses.argmin(axis=1)


def told_images(directory: Path, records: Any) -> Told | None:
    """Returns what the run of least loss that kept its weights says of its validation images; None if none did.

    Args:
      directory: of the sweep.
      records: of its points, as dictionaries.
    """
    kept = [r for r in records if r.get("final_checkpoint") and r.get("loss") is not None]
    if not kept:
        return None
    from kleiber.experiments.config_file import from_data
    from kleiber.files import read_json
    from kleiber.train.checkpoints.checkpoint import load_arrays, tree_of
    from kleiber.train.config import TrainConfig
    from kleiber.train.data.images import find_images
    from kleiber.train.image_labels import label_losses

    best = min(kept, key=lambda r: r["loss"])
    folder = directory / "runs" / best["run_id"]
    config = from_data(TrainConfig, read_json(folder / "config.json")["trunk"])
    arrays, _ = load_arrays(folder / best["final_checkpoint"])
    params = tree_of({name.removeprefix("params/"): array for name, array in arrays.items()})
    found = find_images(best["data_fingerprint"], config.data.corpus, "validation")
    losses = label_losses(config, params, found.images)
    return Told(best["run_id"], np.asarray(found.images), np.asarray(found.labels), losses, found.names)


def label_figure(told: Told) -> "Figure":
    """Returns the figure: the matrix of labels and guesses, and images, the costliest first."""
    count, num_labels = len(told.labels), len(told.names)
    right = int((told.guesses == told.labels).sum())
    confusion = np.zeros((num_labels, num_labels), int)
    np.add.at(confusion, (told.labels, told.guesses), 1)
    cost = told.losses[np.arange(count), told.labels]
    shown = np.argsort(-cost, kind="stable")[: ROWS * COLUMNS]
    claim = f"{right} of {count} held-out images are told right"
    detail = (
        f"{told.run_id}, {cost.mean():.3f} nats an image; beside the matrix what it says of those that cost it most"
    )
    with claimed_figure(10.4, 4.6, claim, detail) as figure:
        places: Any = figure.subfigures(1, 2, width_ratios=(1, 1.35))
        matrix_place, images_place = places
        _draw_matrix(matrix_place.add_subplot(), confusion, told.names)
        for axis, index in zip(images_place.subplots(ROWS, COLUMNS).flat, shown, strict=False):
            image = told.images[index]
            axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray_r", vmin=0, vmax=255)
            guess, label = told.names[told.guesses[index]], told.names[told.labels[index]]
            is_right = guess == label
            words = plain(guess if is_right else f"{guess}, is {label}")
            axis.set_title(words[:14], fontsize=7, color=INK if is_right else WRONG_INK, pad=2)
        for axis in images_place.axes:
            axis.axis("off")
    return figure


def _draw_matrix(axis: Any, confusion: np.ndarray, names: tuple[str, ...]) -> None:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="said", ylabel="is")
    axis.grid(visible=False)
    if len(names) > MOST_NAMED:
        return
    axis.set_xticks(range(len(names)), [plain(name) for name in names])
    axis.set_yticks(range(len(names)), [plain(name) for name in names])
    for row, column in zip(*np.nonzero(confusion), strict=True):
        color = "white" if shares[row, column] > 0.5 else WRONG_INK if row != column else QUIET
        axis.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=7, color=color)
