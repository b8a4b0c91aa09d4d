"""Failure tests of one run: kills, stages of a save, signals, bad numbers, another mesh, another clock."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaos.trial import (
    Bench,
    Result,
    Tally,
    call,
    logged_steps,
    make_run,
    outcome,
    repeated_steps,
    start,
    tiny,
    work,
)
from kleiber.experiments.exit_codes import EXIT_DONE, EXIT_RESUMABLE
from kleiber.train.config import GuardConfig

STAGES = ("arrays", "digests", "manifest", "commit", "clean")


def undisturbed(bench: Bench, **changes: Any) -> dict[str, Any]:
    """Returns the outcome of the tiny run left alone."""
    key = f"run {changes}"
    if key not in bench.known:
        directory = make_run(bench.place("alone"), tiny(bench, **changes))
        code = start(bench, work, directory).wait()
        assert code == EXIT_DONE, code
        bench.known[key] = outcome(directory)
    return bench.known[key]


def finish(bench: Bench, directory: Path) -> dict[str, Any]:
    """Returns the outcome of a run after working on it to its end; one that cannot be finished has none."""
    child = start(bench, work, directory, f"finish {time.monotonic_ns()}")
    code = child.wait()
    return outcome(directory) if code == EXIT_DONE else {"code": code, "text": child.text()[-2000:]}


def random_kill(bench: Bench) -> Result:
    """R1: SIGKILL at a random moment, then resumed to the end."""
    tally, draw = Tally("R1", "SIGKILL of a run at a random moment", bench.seed), bench.draw("R1")
    expected, repeated = undisturbed(bench), []
    for trial in range(bench.number(100, 2)):
        directory = make_run(bench.place("R1"), tiny(bench))
        child = start(bench, work, directory)
        wanted = draw.randrange(60)
        while child.is_alive() and logged_steps(directory) < wanted:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.08))
        child.send(signal.SIGKILL)
        child.wait()
        reached = logged_steps(directory)
        repeated.append(max(repeated_steps(directory), default=0))
        found = finish(bench, directory)
        what = f"trial {trial}: killed after step {reached}, {repeated[-1]} steps repeated"
        tally.check(found == expected and repeated[-1] <= 3, what)
    return tally.result(
        f"records, every logged loss and norm equal bit for bit; at most {max(repeated)} steps repeated (save every 3)"
    )


def _die_at(stage: str, save: int, directory: Path) -> int:
    from kleiber.train.checkpoints import checkpoint

    seen = 0

    def on_stage(reached: str) -> None:
        nonlocal seen
        if reached == stage:
            seen += 1
            if seen == save:
                os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.on_stage = on_stage  # type: ignore[assignment]
    return work(directory)


def kill_in_save(bench: Bench) -> Result:
    """R2: SIGKILL at each stage of a save."""
    tally, draw = Tally("R2", "SIGKILL inside a save, at each stage", bench.seed), bench.draw("R2")
    expected = undisturbed(bench)
    for _ in range(bench.number(10)):
        for stage in STAGES if bench.scale >= 1 else STAGES[::2]:
            directory, save = make_run(bench.place("R2"), tiny(bench)), draw.randrange(1, 10)
            code = start(bench, _die_at, stage, save, directory).wait()
            whole = not call(bench, listed_and_damaged, str(directory))
            found = finish(bench, directory)
            left = list(directory.glob("runs/*/checkpoints/*/partial_*"))
            good = code == -signal.SIGKILL and whole and found == expected and not left
            tally.check(good, f"{stage} of save {save}: code {code}, whole {whole}, left {len(left)}")
    return tally.result("the listed steps were whole, leftovers went, the same step was saved again, the end was equal")


def listed_and_damaged(directory: str) -> list[str]:
    """Returns the checkpoints that would be listed and cannot be trusted. For a child: the digests start threads, and
    a process with threads must not fork."""
    from kleiber.train.checkpoints import checkpoint
    from kleiber.train.checkpoints.manifest import CheckpointError, check_files, read_manifest

    problems = []
    for folder in Path(directory).glob("runs/*/checkpoints/*"):
        for step in checkpoint.steps(folder):
            try:
                check_files(folder / f"step_{step}", read_manifest(folder / f"step_{step}"))
            except CheckpointError as problem:
                problems.append(str(problem))
    return problems


def _slow(where: str, directory: Path) -> int:
    """Works with one phase made slow: a C call that no Python signal handler can interrupt looks the same."""
    import kleiber.train.data.run_data as run_data
    import kleiber.train.trunk as trunk

    def slowed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def slow(*args: Any, **named: Any) -> Any:
            print(f"in {where}", flush=True)
            time.sleep(seconds)
            return function(*args, **named)

        return slow

    if where == "data":
        run_data.open_run_data = slowed(run_data.open_run_data, 120)
    elif where == "evaluation":
        trunk.evaluate = slowed(trunk.evaluate, 2)
    else:
        make = trunk.compile_steps

        def compile_steps(*args: Any) -> Any:
            steps = make(*args)
            calls = iter([120 if where == "compile" else 0])
            if where == "step":
                return slowed(steps, 0.2)
            return lambda *a, **named: slowed(steps, next(calls, 0))(*a, **named)

        trunk.compile_steps = compile_steps  # type: ignore[assignment]
    return work(directory)


def stop_signal(bench: Bench) -> Result:
    """R3: a stop signal in each phase."""
    tally = Tally(
        "R3", "SIGTERM, SIGINT, SIGUSR1 in a step, an evaluation, a compilation, in data building", bench.seed
    )
    expected, slowest = undisturbed(bench, checkpoint_seconds=1e9), 0.0
    names = ("SIGTERM", "SIGINT", "SIGUSR1")
    cases = [(where, name) for where in ("step", "evaluation", "compile", "data") for name in names]
    for where, name in cases if bench.scale >= 1 else [(w, names[i % 3]) for i, (w, _) in enumerate(cases[::3])]:
        directory = make_run(bench.place("R3"), tiny(bench, checkpoint_seconds=1e9))
        child = start(bench, _slow, where, directory)
        while child.is_alive() and (
            f"in {where}" not in child.text() or (where == "step" and logged_steps(directory) < 9)
        ):
            time.sleep(0.01)
        sent = time.monotonic()
        child.send(getattr(signal, name))
        code = child.wait(60)
        took = time.monotonic() - sent
        slowest = max(slowest, took)
        saved = [int(p.name[5:]) for p in directory.glob("runs/*/checkpoints/*/step_*")]
        is_kept = bool(saved) and max(saved) >= logged_steps(directory) if where == "step" else True
        expected_code = EXIT_RESUMABLE if where != "evaluation" else (EXIT_DONE, EXIT_RESUMABLE)
        is_code = code in expected_code if isinstance(expected_code, tuple) else code == expected_code
        good = is_code and took < 20 and is_kept and finish(bench, directory) == expected
        tally.check(good, f"{name} in {where}: code {code} after {took:.1f} s, saved {saved}")
    return tally.result(f"left within {slowest:.1f} s with code 75; a step that was done was saved; the end was equal")


def _poisoned(what: str, batches: list[int], directory: Path) -> int:
    """Works with some batches of the data order turned bad: gradients NaN, or the loss times 100 or infinite."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import kleiber.train.step as step
    import kleiber.train.trunk as trunk

    next_batches, gradients = trunk.Trunk._next_batches, step.gradients

    def marked(self: Any, run: Any, count: int) -> Any:
        numbers = [self.config.guard.batch_number(run.step + index) for index in range(count)]
        drawn = next_batches(self, run, count)
        tokens = np.array(drawn.inputs)
        for index, number in enumerate(numbers):
            if number in batches:
                tokens[index] = 255  # no text holds this byte
        return replace(drawn, inputs=tokens)

    def spoiled(config: Any, params: Any, batch: Any, *more: Any) -> Any:
        logged, grads = gradients(config, params, batch, *more)
        is_bad = jnp.all(batch.inputs == 255)
        if what == "gradient":
            return logged, jax.tree.map(lambda g: jnp.where(is_bad, jnp.nan, g), grads)
        factor = 100.0 if what == "spike" else jnp.inf
        return {**logged, "loss": jnp.where(is_bad, logged["loss"] * factor, logged["loss"])}, grads

    trunk.Trunk._next_batches, step.gradients = marked, spoiled  # type: ignore
    return work(directory)


def _has_nan(directory: Path) -> list[str]:
    import numpy as np

    from kleiber.train.checkpoints.checkpoint import load_arrays

    found = []
    for folder in sorted(directory.glob("runs/*/checkpoints/*/step_*")):
        arrays, _ = load_arrays(folder)
        found += [f"{folder.name}/{n}" for n, a in arrays.items() if not np.isfinite(a).all()]
    return found


def not_a_number(bench: Bench) -> Result:
    """R15: bad gradients and losses, once, three times in a row, for ever."""
    tally = Tally("R15", "NaN in the gradient, infinite loss: once, 3 in a row, for ever", bench.seed)
    config = tiny(bench, keep_checkpoints=100, guard=GuardConfig(max_consecutive_skips=5))
    rows = ([20], [20, 21, 22], list(range(20, 60)))
    short = {"gradient": rows[:1], "loss": rows[2:]}
    for what in ("gradient", "loss"):
        for batches in rows if bench.scale >= 1 else short[what]:
            directory = make_run(bench.place("R15"), config)
            code = start(bench, _poisoned, what, batches, directory).wait()
            (record,) = outcome(directory)["records"]
            bad = call(bench, _has_nan, directory)
            if len(batches) < 5:
                skipped = [step for row in json_rows(directory) for step in row.get("skipped_steps", [])]
                good = record["status"] == "done" and skipped == [b + 1 for b in batches]
            else:
                steps = [int(p.name[5:]) for p in directory.glob("runs/*/checkpoints/*/step_*")]
                said = all(part in record["reason"] for part in ("5 updates in a row", "step 25", "batches 20 to 24"))
                good = record["status"] == "diverged" and said and bool(steps)
            tally.check(
                good and not bad and code == 0, f"{what} {batches[:4]}: {record['status']} {record['reason']} {bad}"
            )
    return tally.result(
        "single and three: skipped, counted, the run done; for ever: stopped after 5 with step and batches named, "
        "older checkpoints kept; no NaN in any checkpoint",
        "optax.apply_if_finite(adam, 3) writes the 4th NaN into the weights",
    )


def spike(bench: Bench) -> Result:
    """R16: one batch's loss times 100, the rule on the device, and a continuation without it."""
    from kleiber.experiments.sweeping.rewind import rewind

    tally = Tally("R16", "a batch's loss times 100; rewind --skip-batches", bench.seed)
    guard = GuardConfig(spike_sigmas=6.0, spike_window=16)
    directory = make_run(bench.place("R16"), tiny(bench, guard=guard, keep_checkpoints=30))
    start(bench, _poisoned, "spike", [30], directory).wait()
    skipped = [step for row in json_rows(directory) for step in row.get("skipped_steps", [])]
    tally.check(skipped == [31], f"skipped {skipped}")
    ends = []
    for trial in range(2):
        out = bench.folder / f"R16-rewound-{trial}"
        step = call(bench, lambda out=out: rewind(directory, out, ("30:33",))[1])
        tally.check(0 < step <= 30, f"rewound to step {step}")
        ends.append(finish(bench, out))
    fresh = make_run(
        bench.place("R16"), tiny(bench, guard=replace(guard, skip_batches=((30, 33),)), keep_checkpoints=30)
    )
    tally.check(ends[0] == ends[1], "two rewinds differ")
    tally.check(ends[0] == finish(bench, fresh), "a rewind differs from a run that left the batches out from the start")
    return tally.result(
        f"skipped at step 31 with no word to the host; from step {step}, twice, equal to leaving it out"
    )


def other_clock(bench: Bench) -> Result:
    """R19: the wall clock an hour back and forth while a run trains."""
    from kleiber.train.watch.goodput import KINDS, read_events

    tally = Tally("R19", "the wall clock set back and forward by an hour", bench.seed)
    expected = undisturbed(bench, checkpoint_seconds=0.05)
    for shift in (-3600.0, 3600.0, 0.0) if bench.scale >= 1 else (-3600.0,):
        directory = make_run(bench.place("R19"), tiny(bench, checkpoint_seconds=0.05))
        child = start(bench, _shifted_clock, shift, directory)
        while child.is_alive() and logged_steps(directory) < 20:
            time.sleep(0.002)
        child.send(signal.SIGKILL)
        child.wait()
        found = finish(bench, directory)
        events = [e for path in directory.glob("runs/*/goodput.jsonl") for e in read_events(path)]
        negative = [e for e in events if any(e[kind] < 0 for kind in KINDS)]
        tally.check(found == expected and not negative, f"shift {shift}: negative {negative}")
    return tally.result(
        "saves, retention and goodput go by the monotonic clock; no negative duration; the end was equal"
    )


def _shifted_clock(shift: float, directory: Path) -> int:
    real, count = time.time, iter(range(1, 1_000_000_000))
    time.time = lambda: real() + (shift if next(count) > 3 else 0.0)
    return work(directory)


def wrong_resume(bench: Bench) -> Result:
    """R24: a directory taken up with another config."""
    from kleiber.experiments.experiment import Experiment
    from kleiber.experiments.sweeping.ownership import own_directory
    from kleiber.train.config import DataConfig, OptimizerConfig

    tally = Tally(
        "R24", "resume with another model, vocabulary, optimizer, data, seed; a missing checkpoint", bench.seed
    )
    config = tiny(bench)
    directory = make_run(bench.place("R24"), config)
    changes = {
        "model.d_model": replace(config, model=replace(config.model, d_model=24)),
        "model.vocab_size": replace(config, model=replace(config.model, vocab_size=512)),
        "optimizer.learning_rate": replace(config, optimizer=OptimizerConfig(0.02)),
        "data.corpus": replace(config, data=DataConfig("other.txt")),
        "seed": replace(config, seed=5),
    }
    child = start(bench, work, directory)
    while child.is_alive() and logged_steps(directory) < 30:
        time.sleep(0.002)
    child.send(signal.SIGTERM)
    child.wait()
    for field, changed in changes.items():
        try:
            make_run(directory, changed)
            tally.check(False, f"{field}: accepted")
        except ValueError as problem:
            tally.check(f"trunks[0].{field}: " in str(problem) and "--allow" in str(problem), f"{field}: {problem}")
    tally.check(call(bench, _checkpoint_refusals, str(directory)) == 4, "checkpoints alone")
    slower = Experiment("chaos", "?", (changes["optimizer.learning_rate"],), laws=())
    own_directory(slower, directory, ("optimizer.learning_rate",))
    before = logged_steps(directory)
    found = finish(bench, directory)
    tally.check(
        len(found.get("records", [])) == 1 and found["records"][0]["learning_rate"] == 0.02 and before >= 27,
        f"--allow: {found}",
    )
    return tally.result("refused with every field that differs; --allow FIELD goes on from the checkpoint")


def _checkpoint_refusals(directory: str) -> int:
    """Returns how many wrong resumes the checkpoint itself refused, of 4."""
    import numpy as np

    from kleiber.train.checkpoints import checkpoint

    folder, state = Path(directory) / "alone", {"w": np.ones(3, np.float32)}
    checkpoint.save(folder, 1, state, {}, identity={"seed": 1, "model": {"d_model": 16}})
    refused = 0
    for like, identity, part in (
        (state, {"seed": 2, "model": {"d_model": 16}}, "seed: 1 -> 2"),
        (state, {"seed": 1, "model": {"d_model": 24}}, "model.d_model: 16 -> 24"),
        ({"w": np.ones(4, np.float32)}, None, "expected float32[4]"),
    ):
        try:
            checkpoint.restore(folder, 1, like, identity)
        except checkpoint.WrongRun as problem:
            refused += part in str(problem)
    try:
        checkpoint.restore(folder, 7, state)
    except checkpoint.CheckpointError as problem:
        refused += "no checkpoint of step 7" in str(problem)
    return refused


def json_rows(directory: Path) -> list[dict[str, Any]]:
    """Returns every row of the only log, in the order of steps."""
    (path,) = directory.glob("runs/*/metrics.jsonl")
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda row: row["step"])
