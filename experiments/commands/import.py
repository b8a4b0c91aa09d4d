"""A table of runs from what you have: TensorBoard, Weights & Biases and MLflow folders, logs and exports.

Which column is which of ours is proposed from the names, and shown before it is used. No network, no account.

Examples:
  kleiber import wandb/ --out runs.csv
  kleiber import mlruns/ --map num_tokens=step*batch_size*2048,num_params_total=n_params --out runs.csv
  kleiber import logs/ --every loss --dry-run
  kleiber fit runs.csv
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from kleiber.experiments.arguments import pairs
from kleiber.experiments.exit_codes import EXIT_DONE, EXIT_GATE, EXIT_USAGE
from kleiber.experiments.importing.exported import SCALAR
from kleiber.experiments.importing.logged import NAME, joined, table_of
from kleiber.experiments.importing.sources import Kind, read_runs

NEEDED = ("loss", "num_params_total", "num_tokens")


@dataclass(frozen=True)
class Options:
    """What `kleiber import` takes."""

    source: tyro.conf.Positional[tuple[Path, ...]]
    """Folders or files: event files, wandb/, mlruns/, a folder of logs (.csv or .jsonl, one a run), or a table."""
    out: Path = Path("runs.csv")
    """The table to write: .csv, .jsonl or .parquet."""
    map: str = ""
    """Our names to theirs, to formulas of theirs, or to a number for all: loss=val/loss,num_tokens=_step*8192. The rest
    is guessed."""
    join: Path | None = None
    """A table with what was not logged, a row a run: run_id,num_params_total."""
    every: str = ""
    """A column of the logs; the table has a row for every time that it was logged, not one for the last values."""
    kind: Kind | None = None
    """What to read where a folder holds several."""
    by_folder: bool = False
    """Call runs after where they lie, where several have one name."""
    takes_cut: bool = False
    """Take what stands before the place where a log is cut or damaged."""
    yes: bool = False
    """Write the table without asking whether the guesses are right."""
    dry_run: bool = False
    """Show what would be written, and write nothing."""
    json: bool = False
    """Print one JSON object; asks nothing, so that guesses need --yes."""


def run(options: Options) -> int:
    """Shows the mapping and writes the table; 2 when what is guessed was not agreed to, 3 when a fit needs more."""
    from kleiber.scaling.table.naming import guess_mapping
    from kleiber.scaling.table.reading import read_file
    from kleiber.scaling.table.table import RunTable, read_table

    if options.out.suffix not in (".csv", ".jsonl", ".parquet"):
        raise ValueError(f"--out {options.out}: expected a .csv, .jsonl or .parquet file.")
    found = [read_runs(path, options.kind, options.takes_cut) for path in options.source]
    columns = table_of((run for _, runs in found for run in runs), options.every, options.by_folder)
    if options.join:
        columns = joined(columns, read_file(options.join), options.join)
    told: dict[str, Any] = {"source": " and ".join(map(str, options.source)), "option": "--map {}"}
    theirs = read_table(columns, **told)
    given = pairs(options.map, "map")
    guessed = guess_mapping(NEEDED, {name: theirs.columns.get(name) for name in theirs.names if name != NAME}, given)
    if "loss" not in guessed and SCALAR[-1] in theirs.columns:
        guessed = {**guessed, "loss": SCALAR[-1]}
    mapping = {ours: guessed[ours] for ours in (*NEEDED, *given) if ours in guessed}
    table: RunTable = read_table(columns, mapping, **told)
    guesses = [name for name in mapping if name not in given]
    facts: dict[str, Any] = {
        "kinds": [kind for kind, _ in found],
        "num_runs": sum(len(runs) for _, runs in found),
        "num_rows": len(table),
        "mapping": mapping,
        "guessed": guesses,
        "missing": [name for name in NEEDED if name not in table],
        "columns": [name for name in table.names if name not in mapping],
    }
    if not options.json:
        _show(facts, table)
    is_agreed = options.yes or not guesses
    if not is_agreed and not options.dry_run and not options.json and sys.stdin.isatty():
        is_agreed = input(f"write {options.out} so? [y/N] ").strip().lower() in ("y", "yes")
    facts["written"] = str(options.out) if is_agreed and not options.dry_run else None
    if facts["written"]:
        _write(table, options.out)
    if options.json:
        print(json.dumps(facts, indent=1))
    elif facts["written"]:
        print(f"wrote {options.out}{_and_then(facts, options.out)}")
    elif not options.dry_run:
        said = ",".join(f"{ours}={mapping[ours]}" for ours in mapping)
        print(f"nothing written; if that is right: --yes, or --map '{said}'", file=sys.stderr)
    if options.dry_run:
        return EXIT_DONE
    return EXIT_USAGE if not is_agreed else EXIT_GATE if facts["missing"] else EXIT_DONE


def _and_then(facts: dict[str, Any], out: Path) -> str:
    """Returns what to type after a table was written: the fit, or what that still needs."""
    if facts["missing"]:
        first = facts["missing"][0]
        return (
            f"; a fit needs {' and '.join(facts['missing'])} too: --map {first}=COLUMN, a formula, or a number for all "
            f"runs; or --join FILE with {NAME},{','.join(facts['missing'])}, a row a run"
        )
    return f": kleiber fit {out}{f' --cluster {NAME}' if facts['num_rows'] > facts['num_runs'] else ''}"


def _show(facts: dict[str, Any], table: Any) -> None:
    from kleiber.experiments.terminal import printable

    print(f"{facts['num_runs']} runs of {', '.join(dict.fromkeys(facts['kinds']))}, {facts['num_rows']} rows")
    for ours, theirs in facts["mapping"].items():
        values = table[ours]
        how = "guessed" if ours in facts["guessed"] else "as you say"
        there = values[values == values]
        span = f"{there.min():.6g} to {there.max():.6g}" if len(there) else "no number"
        lost = f", none in {len(values) - len(there)} rows" if len(there) < len(values) else ""
        print(printable(f"  {ours:<18}= {theirs} ({how}): {span}{lost}"))
    for ours in facts["missing"]:
        print(f"  {ours:<18}= nothing like it; say which: --map {ours}=COLUMN, or a number")
    print(printable(f"  also: {', '.join(facts['columns'])}"))


def _write(table: Any, out: Path) -> None:
    """Writes a table, numbers so that reading gives the same ones back."""
    import pyarrow
    import pyarrow.parquet

    from kleiber.files import replacing, write_whole

    columns = {name: table.labels[name] if name in table.labels else table.columns[name] for name in table.names}
    columns = {NAME: columns.pop(NAME), **columns}
    if out.suffix == ".parquet":
        with replacing(out) as partial:
            pyarrow.parquet.write_table(pyarrow.table(columns), partial)
        return
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]
    rows = [{name: None if value != value else value for name, value in row.items()} for row in rows]
    if out.suffix == ".jsonl":
        write_whole(out, "".join(json.dumps(row) + "\n" for row in rows))
        return
    import csv
    import io

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(out, text.getvalue())
