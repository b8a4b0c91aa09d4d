"""Failure tests of checkpoints alone: flipped bits, damaged files, full disks, failed saves, old formats.

Each is tried on plain Orbax too, in the same run, on the same arrays.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chaos.runs import finish, undisturbed
from chaos.trial import Bench, Result, Tally, call, make_run, outcome, start, tiny, work
from kleiber.experiments.exit_codes import EXIT_CANNOT_WRITE

FIXTURES = Path(__file__).parents[2] / "tests" / "data"


def _state(seed: int = 0) -> dict[str, Any]:
    import numpy as np

    draw = np.random.default_rng(seed)
    weights = {f"block{i}": draw.standard_normal((32, 48), np.float32) for i in range(4)}
    return {"params": weights, "mu": {k: v * 0.1 for k, v in weights.items()}, "count": np.int32(7)}


def _equal(a: Any, b: Any) -> bool:
    import numpy as np

    from kleiber.train.checkpoints.checkpoint import named_leaves

    left, right = named_leaves(a), named_leaves(b)
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


def _flip(path: Path, draw: random.Random) -> bytes:
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(damaged)
    return content


def _try(files: list[Path], trials: int, seed: str, restore: Callable[[], Any], expected: Any) -> dict[str, int]:
    """Flips one bit after another in files drawn by their size, and counts what restoring does."""
    draw = random.Random(seed)
    counts = {"detected": 0, "harmless": 0, "silent": 0}
    sizes = [path.stat().st_size for path in files]
    for trial in range(trials):
        # Every other flip in any file, every other where most bits are.
        path = draw.choice(files) if trial % 2 else draw.choices(files, sizes)[0]
        content = _flip(path, draw)
        try:
            found = restore()
        except Exception:
            counts["detected"] += 1
        else:
            counts["harmless" if _equal(found, expected) else "silent"] += 1
        path.write_bytes(content)
    return counts


def _flips(folder: str, trials: int, seed: int) -> dict[str, Any]:
    """Returns the counts of flips for kleiber's checkpoint and for plain Orbax."""
    import orbax.checkpoint as ocp

    from kleiber.train.checkpoints import checkpoint

    state, place = _state(), Path(folder)
    step = checkpoint.save(place / "ours", 1, state, {"note": 1})
    # Whatever is restored must be the arrays, the step and the extra.
    ours = _try(
        [path for path in sorted(step.rglob("*")) if path.is_file() and path.stat().st_size],
        trials,
        f"{seed} flips",
        lambda: _ours(checkpoint.restore(place / "ours", 1, state)),
        {"state": state, "step": 1, "note": 1},
    )
    handler = ocp.PyTreeCheckpointHandler
    ocp.Checkpointer(handler()).save(place / "orbax", state)
    files = [path for path in sorted((place / "orbax").rglob("*")) if path.is_file() and path.stat().st_size]
    theirs = _try(
        files, trials // 4, f"{seed} orbax", lambda: ocp.Checkpointer(handler()).restore(place / "orbax"), state
    )
    return {"ours": ours, "orbax": theirs}


def _ours(restored: Any) -> dict[str, Any]:
    return {"state": restored.state, "step": restored.step, **restored.extra}


def bit_flips(bench: Bench) -> Result:
    """R8: single-bit flips over all files of a checkpoint."""
    tally = Tally("R8", "one bit flipped in any file of a checkpoint, arrays included", bench.seed)
    trials = bench.number(1000, 120)
    found = call(bench, _flips, str(bench.place("R8")), trials, bench.seed)
    ours, theirs = found["ours"], found["orbax"]
    tally.trials = trials
    tally.failures += ["silent wrong restore"] * ours["silent"]
    return tally.result(
        f"{ours['silent']} silent wrong restores, {ours['detected']} named errors, {ours['harmless']} harmless",
        f"{theirs['silent']} silent wrong restores of {sum(theirs.values())}, {theirs['detected']} detected",
    )


def _damages(folder: str) -> dict[str, Any]:
    """Damages each file of the newest of two checkpoints in three ways; returns what restoring did."""
    import logging

    import orbax.checkpoint as ocp

    from kleiber.train.checkpoints import checkpoint

    logging.disable(logging.CRITICAL)
    place, old, new = Path(folder), _state(1), _state(2)
    checkpoint.save(place / "ours", 1, old, {}, keep=2)
    checkpoint.save(place / "ours", 2, new, {}, keep=2)
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(place / "orbax", new)
    shutil.copytree(place / "ours", place / "kept")
    wrong, trials, silent = [], 0, 0
    names = [
        path.relative_to(place / "kept") for path in sorted((place / "kept" / "step_2").rglob("*")) if path.is_file()
    ]
    for name in names:
        for kind in ("truncate", "zero", "delete"):
            shutil.rmtree(place / "ours")
            shutil.copytree(place / "kept", place / "ours")
            _damage(place / "ours" / name, kind)
            trials += 1
            restored = checkpoint.restore_newest(place / "ours", old)
            # A manifest that is gone means the newest never was; every other damage is seen and the older step used.
            if restored is None or restored.step != 1 or not _equal(restored.state, old):
                wrong.append(f"{kind} {name}: step {restored and restored.step}")
    for path in [path for path in sorted((place / "orbax").rglob("*")) if path.is_file()]:
        for kind in ("truncate", "zero"):
            content = path.read_bytes()
            _damage(path, kind)
            with contextlib.suppress(Exception):
                found = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(place / "orbax")
                silent += not _equal(found, new)
            path.write_bytes(content)
    return {"trials": trials, "wrong": wrong, "orbax_silent": silent}


def _damage(path: Path, kind: str) -> None:
    if kind == "delete":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if kind == "truncate" else b"\0" * len(content))


def damaged_files(bench: Bench) -> Result:
    """R7: each file of a step cut to half, zeroed, deleted."""
    tally = Tally("R7", "each file of the newest checkpoint cut to half, zeroed, deleted", bench.seed)
    found = call(bench, _damages, str(bench.place("R7")))
    tally.trials, tally.failures = found["trials"], found["wrong"]
    return tally.result(
        "each time the older healthy step was restored, with a warning that names the file",
        f"{found['orbax_silent']} silent wrong restores; no older step to fall back on by itself",
    )


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[bool]:
    """Makes place a file system of a few megabytes; yields False where only root may do that."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], capture_output=True)


def full_disk(bench: Bench) -> Result:
    """R6: no space left, while a checkpoint, a log or the data cache is written."""
    tally = Tally(
        "R6", "disk full in a checkpoint, a log, the data cache; space freed; training on without saving", bench.seed
    )
    expected, how = undisturbed(bench), "a file system of 3 MB"
    place = bench.folder / "small"
    with small_disk(place, 3) as mounted:
        if mounted:
            directory = make_run(place / "run", tiny(bench))
            filler = place / "filler"
            with open(filler, "wb") as file, contextlib.suppress(OSError):
                while file.write(b"\0" * 4096):
                    file.flush()
                    if shutil.disk_usage(place).free < 200_000:
                        break
            child = start(bench, work, directory)
            code, text = child.wait(), child.text()
            tally.check(code == EXIT_CANNOT_WRITE, f"full disk: code {code}, {text[-500:]}")
            tally.check(str(place) in text and "MB free" in text, f"message: {text[-500:]}")
            tally.check(not call(bench, _listed, str(directory)), "a half-written checkpoint is believed")
            filler.unlink()
            tally.check(finish(bench, directory) == expected, "after space was freed the end differs")
        else:
            how = "a limit on the size of files (no right to mount)"
    directory = make_run(bench.place("R6"), tiny(bench))
    child = start(bench, work, directory, limits={resource.RLIMIT_FSIZE: 3000})
    code, text = child.wait(), child.text()
    tally.check(code == EXIT_CANNOT_WRITE, f"limit: code {code}, {text[-300:]}")
    tally.check(finish(bench, directory) == expected, "after the limit was lifted the end differs")
    going_on = make_run(bench.place("R6"), tiny(bench, stops_when_saving_fails=False))
    child = start(bench, _no_space_for_checkpoints, going_on)
    code = child.wait()
    losses = [record["loss"] for record in outcome(going_on)["records"]]
    tally.check(code == 0 and losses == [r["loss"] for r in expected["records"]], f"without saving: code {code}")
    told = start(bench, _no_space_for_data, str(bench.folder), bench.corpus.read_text()[:40_000])
    told.wait()
    tally.check("No space left" in told.text() and "cache" in told.text(), f"data cache: {told.text()[-300:]}")
    return tally.result(
        f"{how}: exit code 74, path and free space named, older steps whole, equal after space was freed"
    )


def _listed(directory: str) -> list[str]:
    from chaos.runs import listed_and_damaged

    return listed_and_damaged(directory)


def _no_space_for_checkpoints(directory: Path) -> int:
    from kleiber.train.checkpoints import checkpoint

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    checkpoint._write = full  # type: ignore[assignment]
    return work(directory)


def _no_space_for_data(folder: str, text: str) -> int:
    from kleiber.train.config import DataConfig
    from kleiber.train.data.windows import open_tokens

    path = Path(folder) / "unprepared.txt"
    path.write_text(text)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        open_tokens(DataConfig(str(path)), "train", 16)
    except Exception as problem:
        os.write(1, f"{type(problem).__name__}: {problem}".encode()[:1500])
        return 74
    return 0


def failed_save(bench: Bench) -> Result:
    """R9: the commit fails in the background, at each save in turn, the last included."""
    tally = Tally("R9", "a save fails in its background thread, the last one included", bench.seed)
    expected = undisturbed(bench, checkpoint_seconds=0.0)
    draw = bench.draw("R9")
    for trial in range(bench.number(10, 2)):
        save = 20 if trial == 0 else draw.randrange(1, 19)  # 60 steps by 3: the 20th, if made, is the last
        directory = make_run(bench.place("R9"), tiny(bench))
        child = start(bench, _failing_commit, save, directory)
        code = child.wait()
        steps = [int(p.name[5:]) for p in directory.glob("runs/*/checkpoints/*/step_*")]
        stopped = code == EXIT_CANNOT_WRITE or (code == 0 and save >= 19)
        good = stopped and all(step <= 3 * save for step in steps) and finish(bench, directory) == expected
        tally.check(good, f"save {save}: code {code}, steps {steps}")
    return tally.result("the run stopped within one save with code 74; that step is never listed; the end was equal")


def _failing_commit(save: int, directory: Path) -> int:
    from kleiber.train.checkpoints import checkpoint

    count = 0

    def on_stage(stage: str) -> None:
        nonlocal count
        count += stage == "commit"
        if stage == "commit" and count >= save:
            raise OSError(5, "Input/output error")

    checkpoint.on_stage = on_stage
    return work(directory)


def old_formats(bench: Bench) -> Result:
    """R22: checkpoints written by earlier releases, and by a later one."""
    tally = Tally("R22", "checkpoints of each earlier format; one of a format yet to come", bench.seed)
    for name, good in call(bench, _read_fixtures, str(bench.place("R22"))).items():
        tally.check(good, name)
    return tally.result("read as they were written; a newer format is refused with the way out")


def _read_fixtures(folder: str) -> dict[str, bool]:
    import numpy as np

    from kleiber.train.checkpoints import checkpoint
    from kleiber.train.checkpoints.manifest import CheckpointError, read_manifest, seal

    found = {}
    for place in sorted(FIXTURES.glob("checkpoint_format_*")):
        arrays, manifest = checkpoint.load_arrays(place / "step_12")
        expected = np.arange(12, dtype=np.float32).reshape(3, 4)
        found[place.name] = bool(np.array_equal(arrays["params/embedding"], expected)) and manifest["step"] == 12
    path = checkpoint.save(Path(folder), 1, _state(), {})
    manifest = read_manifest(path)
    (path / "manifest.json").write_bytes(seal({**manifest, "format": 99}))
    try:
        checkpoint.restore(Path(folder), 1, _state())
    except CheckpointError as problem:
        found["format 99"] = "format 99" in str(problem) and "reads 1 to" in str(problem)
    return found


def saving_speed(bench: Bench) -> Result:
    """Verified saving next to plain Orbax, interleaved."""
    tally = Tally(
        "save", "seconds of a verified, durable save over plain Orbax, 50 MB, interleaved medians", bench.seed
    )
    found = call(bench, time_saves, str(bench.place("save")), bench.number(15, 3))
    ratio = found["ours"] / found["orbax"]
    tally.check(ratio <= 1.15 or bench.scale < 1, f"ratio {ratio:.3f}")
    return tally.result(f"{found['ours']:.3f} s, ratio {ratio:.2f} (limit 1.15)", f"{found['orbax']:.3f} s")


def time_saves(folder: str, rounds: int) -> dict[str, float]:
    """Returns the median seconds of our save and of Orbax's, in turns; every figure goes to folder/seconds.json."""
    import statistics

    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from kleiber.train.checkpoints import checkpoint

    draw, place = np.random.default_rng(0), Path(folder)
    state = {f"w{i}": jax.numpy.asarray(draw.standard_normal((512, 1024), np.float32)) for i in range(24)}
    seconds: dict[str, list[float]] = {"ours": [], "orbax": []}
    for index in range(rounds + 1):
        begun = time.perf_counter()
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(place / "orbax" / str(index), state)
        if index:
            shutil.rmtree(place / "orbax" / str(index - 1))
        between = time.perf_counter()
        checkpoint.save(place / "ours", index, state, {})
        if index:
            seconds["orbax"].append(between - begun)
            seconds["ours"].append(time.perf_counter() - between)
    (place / "seconds.json").write_text(json.dumps(seconds))
    return {name: statistics.median(values) for name, values in seconds.items()}
