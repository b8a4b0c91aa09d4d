"""Writes docs/hundredfold.md and its figure from what the repetitions of `kleiber sweep hundredfold` left behind.

Command: python tests/hundredfold_page.py [DIR ...]      (publishes each sweep DIR first, as the next repetition)

Of each repetition docs/hundredfold/N/ holds table.csv (every run) and ledger.jsonl (forecasts as registered, outcomes).
"""

import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import kleiber as kb
from kleiber.experiments.config_file import load_experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.scaling.forecasting.ledger import Ledger
from kleiber.scaling.forecasting.scoreboard import standing
from kleiber.scaling.table.reading import read_file

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FOLDER, FIGURE = DOCS / "hundredfold.md", DOCS / "hundredfold", "hundredfold.svg"
COLUMNS = ("run_id", "trunk_id", "split", "d_model", "num_layers", "num_params_total", "num_tokens", "flops",
           "learning_rate", "seed", "loss", "loss_standard_error")  # fmt: skip
"""Of the table that are published: what was trained, and what it came to."""
HEAD = """# A hundred times further

{answer}

![forecasts and outcomes](hundredfold/hundredfold.svg)

**Question.** A law is fitted to byte models that train for seconds. What does it say of runs of 10, 30 and 100 times
their compute, and is its interval true there?

**Design.** {num_points} points of five widths (16 to 64, two layers) with five seeds of each trunk, none dearer than
{largest:.1e} FLOPs; {fit_flops:.1e} FLOPs in all, {share:.0%} of the largest target. Three targets near the frontier of
compute and one far off it, {tokens_per_parameter:.0f} tokens per parameter. Every forecast stood in the ledger before
its run began.

**Recipe.** The quickstart's: batches of 512 tokens, a learning rate that goes as one over the width, and, measured in
earlier sweeps at widths 32 and 96, as the tenth root of one over the horizon. Nothing was tuned for this study.

| | target | parameters | tokens | times | forecast | 90 % interval | measured | error | of reducible | inside |
|---|---|---|---|---|---|---|---|---|---|---|
"""
TAIL = """
Times: compute over the largest fitted run's. Errors are of the loss; those of the reducible part are of the loss above
the floor E of the registered fit's first law.
Intervals are those of the ledger, registered by the commands below.

| what was asked | measured |
|---|---|
| outcomes inside their 90 % intervals | {inside} of {count} |
| largest error at a hundred times | {error:.2%} |
| of the reducible part, at most | {reducible:.1%} |
| half-width at a hundred times | {halves} |

**Why.** With the outcomes known, the same laws were fitted without the smallest widths; their errors:

| widths fitted | {targets} |
{after}

**Again.** `kleiber sweep hundredfold --out out/hundredfold` trains it all; `--seed 1` is an independent repetition. The
runs and the ledgers of the repetitions are in `docs/hundredfold/`; `kleiber ledger docs/hundredfold/1/ledger.jsonl`
scores one, `kleiber fit docs/hundredfold/1/table.csv --cluster trunk_id --drop "split == 'target'" --law chinchilla
--law generalised_mean` fits it again. This page is written by `python tests/hundredfold_page.py` from these files.

{limits}
"""
LIMITS = """The losses of widths 16 and 24 fall less with width than those of 32 and more, so that a law of all of them
takes the wider ones for better than they are. The registered fit warned of it by one line: its own dearer runs had been
missed by more than their standard errors. Its residuals are small all the same, and the interval, which rests on them
and on what public tables say, was too narrow. Nothing was changed in the intervals after this: fits that leave out the
smallest or the largest sizes were tried as further warnings on the public tables of [truth.md](truth.md), and tell no
more there than the intervals do.

**What it does not show.** One repetition is four outcomes of one fit, which err together. The next repetitions take a
ladder from width 32 on, registered anew; the table above was written after the outcomes and proves nothing. Accuracy at
a task is in no forecast here, and the same study with the learning rate by width only has not been run."""


@dataclass(frozen=True)
class Repetition:
    """What one sweep left behind."""

    folder: Path

    @property
    def name(self) -> str:
        """Its number."""
        return self.folder.name

    @cached_property
    def table(self) -> Any:
        """Its runs."""
        return read_file(self.folder / "table.csv")

    @cached_property
    def outcomes(self) -> list[tuple[dict, dict]]:
        """(forecast, outcome) by compute."""
        found = standing(Ledger(self.folder / "ledger.jsonl").entries()).values()
        return sorted(((f, o) for f, o in found if o and not f.get("late")), key=lambda pair: pair[0]["flops"])

    @cached_property
    def floor(self) -> float:
        """E of the first law, as registered."""
        return float(self.fitted().constants["E"].estimate)

    def fitted(self, least: int = 0) -> Any:
        """Returns the registered laws, fitted again to the published runs of a width and more."""
        rows = (np.array(self.table["split"]) == "fit") & (np.array(self.table["d_model"], float) >= least)
        names = ("num_params_total", "num_tokens", "loss", "flops")
        columns = {name: np.array(self.table[name], float)[rows] for name in names}
        laws = load_experiment("hundredfold").laws
        return kb.fit({**columns, "trunk_id": np.array(self.table["trunk_id"])[rows]}, law=laws, cluster="trunk_id")


def repetitions() -> list[Repetition]:
    """Returns those that are published."""
    return [Repetition(path) for path in sorted(FOLDER.glob("[0-9]*"))]


def publish(directory: Path) -> None:
    """Copies a sweep's table and ledger into the next folder."""
    folder = FOLDER / str(len(repetitions()) + 1)
    folder.mkdir(parents=True)
    table = read_file(directory / "table.parquet")
    rows = zip(*(table[name] for name in COLUMNS), strict=True)
    lines = [",".join(COLUMNS), *(",".join(map(_cell, row)) for row in rows)]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    shutil.copyfile(directory / "ledger.jsonl", folder / "ledger.jsonl")


def _cell(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)


def page() -> str:
    """Returns the page."""
    found = repetitions()
    experiment = load_experiment("hundredfold")
    fit_flops = sum(cell.trained_flops for cell in trunk_cells(experiment, "fit"))
    rows, scored = [], []
    for each in found:
        for said, came in each.outcomes:
            low, high = said["interval"]
            error = said["predicted_loss"] / came["observed_loss"] - 1
            reducible = (said["predicted_loss"] - came["observed_loss"]) / (came["observed_loss"] - each.floor)
            half = (high - low) / 2 / said["predicted_loss"]
            scored.append((said["compute_ratio"], error, reducible, half, came["inside"]))
            rows.append(
                f"| {each.name} | {said['target']} | {said['num_params_total']:,.0f} | {said['num_tokens']:,.0f} | "
                f"{said['compute_ratio']:.0f} | {said['predicted_loss']:.4f} | {low:.4f} to {high:.4f} (±{half:.1%}) "
                f"| {came['observed_loss']:.4f} | {error:+.2%} | {reducible:+.1%} | "
                f"{'yes' if came['inside'] else '**no**'} |"
            )
    far = [each for each in scored if each[0] > 90]
    fits = np.array(found[0].table["split"]) == "fit"
    dearest = max((said for said, _ in found[0].outcomes), key=lambda said: said["flops"])
    longest = max((said for said, _ in found[0].outcomes), key=lambda said: said["num_tokens"])
    head = HEAD.format(
        answer=answer(scored),
        num_points=int(fits.sum()),
        largest=float(np.array(found[0].table["flops"], float)[fits].max()),
        fit_flops=fit_flops,
        share=fit_flops / dearest["flops"],
        tokens_per_parameter=longest["num_tokens"] / longest["num_params_total"],
    )
    tail = TAIL.format(
        inside=sum(each[4] for each in scored),
        count=len(scored),
        error=max(abs(each[1]) for each in far),
        reducible=max(abs(each[2]) for each in far),
        halves=", ".join(f"{each[3]:.1%}" for each in far),
        targets=" | ".join(said["target"] for said, _ in found[0].outcomes),
        after="\n".join(
            ["|---" * (1 + len(found[0].outcomes)) + "|", *(after(found[0], least) for least in (16, 24, 32))]
        ),
        limits=LIMITS,
    )
    return head + "\n".join(rows) + "\n" + tail


def after(repetition: Repetition, least: int) -> str:
    """Returns the errors of the laws fitted to a width and more, a row of the table."""
    law, cells = repetition.fitted(least), [f"{least} and more"]
    for said, came in repetition.outcomes:
        found = law.forecast(num_params_total=said["num_params_total"], num_tokens=said["num_tokens"])
        error = found.predicted_loss / came["observed_loss"] - 1
        cells.append(f"{error:+.1%}")
    return f"| {' | '.join(cells)} |"


def answer(scored: list[tuple]) -> str:
    """Returns what came out, in one sentence."""
    far = [each for each in scored if each[0] > 90]
    inside = sum(each[4] for each in scored)
    errors = ", ".join(f"{each[1]:+.1%}" for each in far)
    return (
        f"At a hundred times the compute of the largest fitted run the forecast was off by {errors}; {inside} of "
        f"{len(scored)} outcomes at 10 to 100 times lay inside their 90 % intervals."
    )


def draw() -> None:
    """Writes the figure: loss against compute, what was fitted, forecast and measured."""
    import matplotlib

    from kleiber.scaling.figures import style

    found = repetitions()
    scored = [(said["compute_ratio"], said["predicted_loss"] / came["observed_loss"] - 1, 0, 0, came["inside"])
              for each in found for said, came in each.outcomes]  # fmt: skip
    with (
        matplotlib.rc_context({"svg.hashsalt": "kleiber"}),
        style.claimed_figure(
            8.4, 4.6, answer(scored).partition(";")[0], "bars: 90 % intervals, registered first"
        ) as figure,
    ):
        axis = figure.subplots()
        fits = np.array(found[0].table["split"]) == "fit"
        flops, loss = (np.array(found[0].table[name], float) for name in ("flops", "loss"))
        largest = flops[fits].max()
        axis.axvspan(1, 200, color=style.UNTRAINED, zorder=0)
        style.draw_dots(axis, flops[fits] / largest, loss[fits], style.QUIET, label="fitted")
        for number, each in enumerate(found):
            last = 0.0
            for said, came in each.outcomes:
                place = max(said["compute_ratio"] * 1.06**number, 1.3 * last)  # beside the one before, not upon it
                last, (low, high) = place, said["interval"]
                style.draw_forecast(axis, place, low, said["predicted_loss"], high)
                style.draw_measured(axis, place, came["observed_loss"], style.INK)
                if number == 0:
                    below = {"textcoords": "offset points", "ha": "center", "va": "top"}
                    axis.annotate(said["target"], (place, low), (0, -6), **below)
        axis.plot([], [], "D", color=style.FORECAST, markerfacecolor="white", label="forecast, written down first")
        axis.plot([], [], "o", color=style.INK, label="measured")
        axis.set(
            xscale="log", xlabel="compute over the largest fitted run", ylabel="loss, nats a byte", xlim=(0.08, 200)
        )
        axis.margins(y=0.12)
        axis.set_xticks([0.1, 1, 10, 30, 100], ["0.1", "1", "10", "30", "100"])
        axis.legend(loc="upper right")
        figure.savefig(FOLDER / FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    for given in sys.argv[1:]:
        publish(Path(given))
    PAGE.write_text(page())
    draw()
