"""Fuzzing with hypothesis: configs, tables, names, paths, manifests and logs full of nasty things.

Whatever comes in, what comes out is a result or an error of ours; nothing is written outside the root, and no code in
the data is run: a canary that any evaluation would touch must never appear.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.trial import Bench, Result, Tally, call

OURS = (ValueError, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, OSError)
"""What the command line turns into one line; anything else would be a traceback."""


def fuzz(bench: Bench) -> Result:
    """Nasty configs, tables, run names and paths."""
    tally = Tally("fuzz", "hypothesis over configs, --set, tables, names, paths, manifests, ledgers", bench.seed)
    found = call(bench, run_cases, str(bench.place("fuzz")), bench.number(12_000, 600), bench.seed, seconds=3600)
    tally.trials = found["cases"]
    tally.failures += found["problems"]
    return tally.result(
        f"{found['cases']:,} cases: no traceback that is not ours, nothing outside the root, no code run "
        f"({', '.join(f'{count:,} {name}' for name, count in found['by_kind'].items())})"
    )


def run_cases(folder: str, cases: int, seed: int) -> dict[str, Any]:
    """Returns how many cases were tried of each kind, and what went wrong."""
    import hypothesis
    from hypothesis import HealthCheck, settings

    root = Path(folder) / "root"
    root.mkdir()
    canary = Path(folder) / "canary"
    os.chdir(root)
    outside = _listing(root.parent)
    kinds, problems, by_kind = _kinds(root, canary), [], {}
    each = cases // len(kinds) + 1
    for name, (strategy, attempt) in kinds.items():
        count = [0]
        one = _counted(attempt, count)
        case = settings(
            max_examples=each, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
        )(hypothesis.seed(seed)(hypothesis.given(strategy)(one)))
        try:
            case()
        except Exception as problem:
            problems.append(f"{name}: {type(problem).__name__}: {str(problem)[:500]}")
        by_kind[name] = count[0]
    if canary.exists():
        problems.append("the canary appeared: code in data was run")
    if (now := _listing(root.parent)) != outside:
        problems.append(f"written outside the root: {sorted(now - outside)[:5]}")
    return {"cases": sum(by_kind.values()), "problems": problems, "by_kind": by_kind}


def _counted(attempt: Callable[[Any], None], count: list[int]) -> Callable[[Any], None]:
    """Returns the attempt as hypothesis takes it: counted, and with the errors that are ours as an answer."""

    def one(value: Any) -> None:
        count[0] += 1
        try:
            attempt(value)
        except OURS:
            pass

    return one


def _listing(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.relative_to(place).parts[0] != "root"}


def _kinds(root: Path, canary: Path) -> dict[str, tuple[Any, Callable[[Any], None]]]:
    """Returns, by name, a strategy and what is done with each of its values."""
    from hypothesis import strategies as st

    touch = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    nasty = st.one_of(
        st.text(max_size=40),
        st.sampled_from(
            [
                "..", "../../x", "/etc/passwd", "a/../../b", "\0", "a\nb", "CON", "~", "a" * 5000, "\x1b[2J",
                "<script>", touch, "${" + touch + "}", "{{" + touch + "}}", "!!python/object/apply:os.system ['x']",
                "_target_", "__class__", "\ud800", "nan", "inf", "-0", "1e999", "\u202egnp.exe", "%s%n",
                "'; DROP TABLE runs", "",
            ]
        ),
    )  # fmt: skip
    scalars = st.one_of(nasty, st.integers(), st.floats(), st.booleans(), st.none())
    data = st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(nasty, inner, max_size=4)),
        max_leaves=8,
    )
    return {
        "configs": (st.tuples(_field_paths(), data), _config),
        "assignments": (st.tuples(_field_paths(), nasty), _assignment),
        "tables": (st.lists(st.dictionaries(nasty, scalars, max_size=5), max_size=6), lambda v: _table(root, v)),
        "names": (nasty, _name),
        "paths": (nasty, lambda v: _path(root, v)),
        "manifests": (st.tuples(st.sampled_from(_MANIFEST_KEYS), data), lambda v: _manifest(root, v)),
        "json files": (st.one_of(st.binary(max_size=200), data.map(_dump)), lambda v: _file(root, v)),
        "ledgers": (st.lists(data.map(_dump), max_size=4), lambda v: _ledger(root, v)),
    }


_MANIFEST_KEYS = ("format", "step", "extra", "identity", "arrays", "files", "versions", "blake3", "more")


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _field_paths() -> Any:
    from hypothesis import strategies as st

    return st.sampled_from(
        [
            "model.d_model", "model.num_layers", "model.seq_len", "optimizer.name", "optimizer.learning_rate",
            "data.corpus",
            "data.tokenizer", "schedule.kind", "guard.skip_batches", "mesh.data",
            "num_tokens", "seed", "factors", "nope",
            "model", "model.d_model.x", "evaluation.num_tokens", "batch_size", "guard.spike_sigmas", "",
        ]
    )  # fmt: skip


def _base() -> Any:
    from kleiber.experiments.experiment import Experiment
    from kleiber.model.config import ModelConfig
    from kleiber.train.config import OptimizerConfig, TrainConfig

    return Experiment(
        "fuzz",
        "?",
        (TrainConfig(ModelConfig(d_model=8, num_layers=1, num_heads=1), OptimizerConfig(0.01), (1000,)),),
        laws=(),
    )


def _config(case: tuple[str, Any]) -> None:
    """Puts a value somewhere in an experiment's data and reads it back."""
    from kleiber.experiments.config_file import config_hash, from_data, to_data
    from kleiber.experiments.experiment import Experiment

    path, value = case
    whole = to_data(_base())
    place = whole["trunks"][0]
    *parents, last = path.split(".")
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            place[parent] = {}
        place = place[parent]
    place[last] = value
    config_hash(from_data(Experiment, whole))


def _assignment(case: tuple[str, str]) -> None:
    from kleiber.experiments.config_file import set_field

    set_field(_base().trunks[0], f"{case[0]}={case[1]}")


def _table(root: Path, rows: list[dict[str, Any]]) -> None:
    import csv
    import warnings

    from kleiber.scaling.table.table import read_table

    path = root / "table.csv"
    columns = list(dict.fromkeys(name for row in rows for name in row)) + ["num_params_total", "num_tokens", "loss"]
    with open(path, "w", newline="", errors="replace") as file:
        writer = csv.writer(file, escapechar="\\")
        writer.writerow(columns)
        for index, row in enumerate(rows):
            known = [1e6 * (index + 1), 1e8, 3.0 - 0.1 * index]
            writer.writerow([row.get(name, "") for name in columns[:-3]] + known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_table(path)


def _name(name: str) -> None:
    """An experiment's name is the only one that becomes a path; what passes must be a single harmless part."""
    from dataclasses import replace

    made = replace(_base(), name=name)
    assert Path(made.name).name == made.name and made.name not in (".", ".."), name
    assert all(c.isascii() and c.isprintable() for c in made.name), name


def _path(root: Path, name: str) -> None:
    """A directory that somebody names, to be looked at and to be owned."""
    from kleiber.experiments.directory.doctor import diagnose
    from kleiber.experiments.sweeping.ownership import own_directory

    place = root / "sweeps" / name.replace("/", "").replace("..", "")[:60]
    diagnose(place) if place.exists() else None
    place.mkdir(parents=True, exist_ok=True)
    own_directory(_base(), place)


def _manifest(root: Path, case: tuple[str, Any]) -> None:
    """A manifest that is sealed with its right digest and holds anything at all: a checkpoint made to deceive."""
    from kleiber.train.checkpoints import checkpoint
    from kleiber.train.checkpoints.manifest import read_manifest, seal

    key, value = case
    step = root / "checkpoints" / "step_1"
    if not step.exists():
        import numpy as np

        checkpoint.save(step.parent, 1, {"w": np.ones(3, np.float32)}, {})
        (root / "honest.json").write_bytes((step / "manifest.json").read_bytes())
    (step / "manifest.json").write_bytes((root / "honest.json").read_bytes())
    manifest = read_manifest(step)
    (step / "manifest.json").write_bytes(seal({**manifest, key: value}))
    like = _like()
    found = checkpoint.restore(step.parent, 1, like)
    assert (found.state["w"] == 1).all(), "other numbers were restored"


def _like() -> dict[str, Any]:
    import numpy as np

    return {"w": np.ones(3, np.float32)}


def _file(root: Path, content: bytes) -> None:
    """Any bytes in place of each JSON file that a sweep directory holds."""
    from kleiber.experiments.directory.doctor import diagnose
    from kleiber.experiments.directory.record import read_records
    from kleiber.experiments.sweeping.ownership import own_directory

    place = root / "files"
    (place / "runs" / "r").mkdir(parents=True, exist_ok=True)
    for name in ("sweep.json", "fit.json", "runs/r/record.json", "runs/r/metrics.jsonl", "runs/r/attempts.json"):
        (place / name).write_bytes(content)
    (place / "experiment.json").write_bytes(content)
    diagnose(place).to_json()
    for attempt in (lambda: read_records(place), lambda: own_directory(_base(), place)):
        try:
            attempt()
        except OURS:
            continue


def _ledger(root: Path, lines: list[bytes]) -> None:
    from kleiber.scaling.forecasting.ledger import Ledger

    path = root / "ledger.jsonl"
    path.write_bytes(b"\n".join(lines))
    Ledger(path).entries()
