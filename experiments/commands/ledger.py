"""Check that a ledger of forecasts is intact and show its scoreboard; write down what a forecast run came to.

Example: kleiber ledger out/quickstart/ledger.jsonl

`kleiber forecast ... --register ledger.jsonl --name big` writes a forecast down, `kleiber ledger ledger.jsonl --outcome
big=2.31` its outcome. Every line holds the hash of the one before; `--anchor FILE` or `--anchor git` notes the last one
elsewhere, so that whoever computes them all anew is found out by `--check-anchor FILE`.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from kleiber.experiments.arguments import numbers


@dataclass(frozen=True)
class Options:
    """What `kleiber ledger` takes."""

    ledger: tyro.conf.Positional[str]
    """A ledger.jsonl, or the folder of a sweep that holds one."""
    outcome: str = ""
    """What runs that were forecast came to, as NAME=LOSS,NAME=LOSS."""
    anchor: str = ""
    """Add the last hash and the time to this file, or, with the word git, to the notes of the commit checked out here:
    `git notes --ref=kleiber show > FILE` brings them back."""
    check_anchor: Path | None = None
    """A file that --anchor wrote: each line it notes must still stand in the ledger."""
    figure: Path | None = None
    """Write a PNG of every scored forecast against its outcome and its baselines."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints the scoreboard of an intact ledger; returns 0. A ledger that was tampered with is an error."""
    from kleiber.experiments.terminal import printable
    from kleiber.scaling.forecasting.anchor import check_heads, check_notes, head_note, note_head
    from kleiber.scaling.forecasting.ledger import Ledger

    path = Path(options.ledger)
    path = path / "ledger.jsonl" if path.is_dir() else path
    ledger = Ledger(path)
    if not path.is_file() and not ledger.head_path.exists():  # where only the ledger went, its head says what was there
        raise FileNotFoundError(f"there is no ledger at {path}; kleiber forecast ... --register {path} begins one.")
    for name, loss in numbers(options.outcome, "outcome").items():
        ledger.outcome(name, name, loss)
    count = len(check_heads(ledger))
    noted = check_notes(ledger, options.check_anchor) if options.check_anchor else 0
    if options.anchor == "git":
        _note_in_git(json.dumps(head_note(ledger)))
    elif options.anchor:
        note_head(ledger, Path(options.anchor))
    if options.figure:
        from kleiber.scaling.figures.table import ledger_figure

        ledger_figure(ledger).savefig(options.figure, dpi=130)
    board = ledger.scoreboard()
    if options.json:
        print(
            json.dumps({"intact": True, "num_entries": count, "num_anchors": noted, **board}, indent=1, allow_nan=False)
        )
    else:
        print(printable(_text(count, board)))
        if noted:
            print(f"  {noted} of its lines stand as they were noted in {options.check_anchor}")
    return 0


def _note_in_git(text: str) -> None:
    """Adds a line to the notes `kleiber` of the commit that is checked out."""
    line = ["git", "notes", "--ref=kleiber", "append", "-m", text]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git takes no note here ({done.stderr.strip()[:200]}); use --anchor FILE.")


def _text(count: int, board: dict[str, Any]) -> str:
    lines = [f"intact: {count} entries, {board['num_forecasts']} forecasts, {board['num_scored']} with an outcome"]
    for row in board["targets"]:
        low, high = row["interval"]
        line = f"  {row['target']:<20} {row['law']:<18} {row['compute_ratio']:>6.3g}x  {row['predicted_loss']:.4f} "
        line += f"[{low:.4f}, {high:.4f}]"
        if row["observed_loss"] is not None:
            inside = "inside" if row["inside"] else "OUTSIDE"
            line += f"  observed {row['observed_loss']:.4f}  {row['signed_error']:+.2%}  {inside}"
        line += "  LATE: its run had begun" if row["late"] else ""
        lines.append(line + (f"  WITHDRAWN: {row['withdrawn']}" if row["withdrawn"] is not None else ""))
    if late := board["late"]["num_forecasts"]:
        lines.append(f"  {late} late, made after the run had begun: not counted below, for it proves nothing")
    if board["num_scored"]:
        lines.append(
            f"  mean absolute error {board['mean_absolute_error']:.2%}, coverage {board['coverage']:.0%} "
            f"(expected {board['expected_coverage']:.0%})"
        )
    lines += [f"  skill against {name}: {skill:+.2f}" for name, skill in board["skill"].items() if skill is not None]
    return "\n".join(lines)
