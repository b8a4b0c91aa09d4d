"""Named loaders for published tables of runs: they read a file you have, or fetch one when asked and its digest agrees.

python -m kleiber.scaling.table.public_tables                                   the sets, their licences and conventions
python -m kleiber.scaling.table.public_tables chinchilla FILE --out runs.csv    a table for `kleiber fit`
... chinchilla FILE --fetch --sha256 DIGEST                               downloads FILE first

Nothing is fetched without --fetch, and nothing is kept whose SHA-256 differs from the one given. No data are shipped:
each set stays under its own licence.
"""

import argparse
import csv
import hashlib
import io
import json
import sys
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.scaling.table.public_sets import TABLES, PublicTable, get_public_table
from kleiber.scaling.table.table import RunTable, from_columns, read_table
from kleiber.scaling.table.warned import NothingDroppedWarning, TableError

LARGEST_BYTES = 1 << 28
"""More is not a table of runs."""


def load_public(name: str, path: str | Path) -> RunTable:
    """Returns a published table with our column names; theirs stay beside them.

    Args:
      name: of the set.
      path: the file (or folder of JSON records) that you have.

    Raises:
      ValueError, FileNotFoundError: as `read_table`, or for a name that is not there.
    """
    entry, path = get_public_table(name), Path(path)
    if path.suffix in (".pickle", ".pkl", ".xz"):
        raise ValueError(f"{path} is a pickle or an archive of one; {entry.note or 'convert it to CSV first'}.")
    table = read_gadre(path) if entry.reader == "records" else read_table(path)
    if entry.last_of and {entry.last_of, entry.columns.get("num_steps", "step")} <= set(table.names):
        table = _last(table, entry.last_of, entry.columns.get("num_steps", "step"))
    columns: dict[str, Any] = {**table.columns, **table.labels}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingDroppedWarning)
            mapped = read_table(columns, entry.columns, entry.drop).need(("loss",))
    except TableError as mistake:
        theirs = ", ".join([*entry.columns.values(), *["loss"] * ("loss" not in entry.columns)])
        raise TableError(
            f"{path} does not look like the set {entry.id}: {mistake} It is read from the columns {theirs}; get it "
            f"from {entry.url or entry.citation}."
        ) from None
    if 0 < entry.num_highest_dropped < len(mapped):
        dropped = np.argsort(-mapped["loss"], kind="stable")[: entry.num_highest_dropped]
        kept = ~np.isin(np.arange(len(mapped)), dropped)
        mapped = mapped.where(kept, f"the {len(dropped)} rows of highest loss left out")
    notes = (f"{entry.id}: {entry.citation}; licence {entry.licence}; counts {entry.counting}", *mapped.notes)
    return RunTable(mapped.columns, mapped.labels, str(path), notes)


def _last(table: RunTable, group: str, order: str) -> RunTable:
    names, steps = table.label(group), table[order]
    largest: dict[str, int] = {}
    for index, name in enumerate(names.tolist()):
        if name not in largest or steps[index] > steps[largest[name]]:
            largest[name] = index
    rows = np.zeros(len(table), dtype=bool)
    rows[list(largest.values())] = True
    return table.where(rows, f"the last of the evaluations of each {group} kept")


def read_gadre(folder: Path) -> RunTable:
    """Returns the models of Gadre et al. from a folder of JSON files, with their loss on C4 validation text."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"there is no folder with JSON records at {folder}.")
    rows = []
    for file in files:
        record = json.loads(file.read_text())
        try:
            rows += _record(record)
        except (KeyError, TypeError, AttributeError) as lost:
            raise TableError(
                f"{file} is no record of the set gadre: {lost} is missing; expected name, dataset_name, "
                "hyperparameters (params, params_no_embed, tokens) and results (val_data, loss, loss_tokens_lower_95, "
                "loss_tokens_upper_95)."
            ) from None
    if not rows:
        raise ValueError(f"no record in {folder} has a loss on C4 validation text.")
    return from_columns({name: [row[name] for row in rows] for name in rows[0]}, str(folder))


def _record(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the row of one model, or none: a few records hold only downstream evaluations."""
    found = [each for each in record["results"] if any("/c4_val/" in name for name in each["val_data"])]
    if not found:
        return []
    error = (found[0]["loss_tokens_upper_95"] - found[0]["loss_tokens_lower_95"]) / 3.92
    about = {name: record["hyperparameters"][name] for name in ("params", "params_no_embed", "tokens")}
    about |= {"loss": found[0]["loss"], "loss_standard_error": error, "family": record["dataset_name"]}
    return [{**about, "run_id": record["name"]}]


def fetch(
    entry: PublicTable, path: Path, sha256: str = "", opener: Callable[[str], Any] = urllib.request.urlopen
) -> None:
    """Downloads the set's file to a path if its digest is the one wanted; writes nothing otherwise.

    Args:
      entry: of `TABLES`.
      path: must not exist yet.
      sha256: the digest to insist on; that of the entry if left out.
      opener: how to open a URL.

    Raises:
      ValueError: without a URL or a digest, if the path exists, or if the digest differs.
    """
    wanted = (sha256 or entry.sha256).lower()
    if not entry.url:
        raise ValueError(f"{entry.id} is no single file to fetch: get it from {entry.citation}.")
    if len(wanted) != 64:
        raise ValueError(f"say which version you trust: --sha256 DIGEST (64 hexadecimal digits) of {entry.url}.")
    if path.exists():
        raise ValueError(f"{path} exists already; name another file, or read it without --fetch.")
    with opener(entry.url) as stream:
        data = stream.read(LARGEST_BYTES + 1)
    found = hashlib.sha256(data).hexdigest()
    if len(data) > LARGEST_BYTES or found != wanted:
        raise ValueError(f"{entry.url} has SHA-256 {found}, not {wanted}: nothing was written.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def to_csv(table: RunTable) -> str:
    """Returns a table as CSV text, our columns among theirs."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = {**table.labels, **table.columns}
    writer.writerow(columns)
    for row in zip(*(values.tolist() for values in columns.values()), strict=True):
        writer.writerow("" if each != each else each for each in row)
    return stream.getvalue()


def main(argv: list[str] | None = None) -> int:
    """Lists the sets, or writes one as a CSV for `kleiber fit`."""
    parser = argparse.ArgumentParser(
        prog="python -m kleiber.scaling.table.public_tables", description=__doc__.split("\n")[0]
    )
    parser.add_argument("name", nargs="?", help="a set; all are listed if left out")
    parser.add_argument("file", nargs="?", type=Path, help="the file you have, or where --fetch writes it")
    parser.add_argument("--fetch", action="store_true", help="download FILE first")
    parser.add_argument("--sha256", default="", help="digest the download must have")
    parser.add_argument("--out", type=Path, help="CSV to write; standard output if left out")
    options = parser.parse_args(argv)
    if options.name is None:
        for entry in TABLES:
            print(f"{entry.id}: {entry.content}\n  {entry.citation}\n  licence {entry.licence}\n  {entry.counting}")
            print("".join(f"  {each}\n" for each in (entry.url, entry.note) if each), end="")
        return 0
    try:
        entry = get_public_table(options.name)
        if options.file is None:
            raise ValueError(f"name the file of {entry.id}: get it from {entry.url or entry.citation}.")
        if options.fetch:
            fetch(entry, options.file, options.sha256)
        table = load_public(entry.id, options.file)
    except (ValueError, OSError) as mistake:
        print(f"public_tables: {mistake}", file=sys.stderr)
        return 2
    if options.out:
        options.out.write_text(to_csv(table))
    else:
        print(to_csv(table), end="")
    print("\n".join(table.notes), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
