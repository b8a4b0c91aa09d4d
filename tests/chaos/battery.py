"""The list of failure tests, and their execution one after another."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path

from chaos import checkpoints, data, fuzz, hosts, runs, sweeps
from chaos.trial import Bench, Result, prepare

TESTS: dict[str, Callable[[Bench], Result]] = {
    "R1": runs.random_kill,
    "R2": runs.kill_in_save,
    "R3": runs.stop_signal,
    "R4": hosts.signal_to_one,
    "R5": sweeps.time_limit,
    "R6": checkpoints.full_disk,
    "R7": checkpoints.damaged_files,
    "R8": checkpoints.bit_flips,
    "R9": checkpoints.failed_save,
    "R10": data.bad_data,
    "R11": data.data_position,
    "R12": sweeps.worker_death,
    "R13": sweeps.driver_death,
    "R14": sweeps.two_drivers,
    "R15": runs.not_a_number,
    "R16": runs.spike,
    "R17": data.other_mesh,
    "R18": hosts.death_and_hang,
    "R19": runs.other_clock,
    "R20": data.silent_corruption,
    "R21": hosts.clean_end,
    "R22": checkpoints.old_formats,
    "R23": sweeps.bad_directories,
    "R24": runs.wrong_resume,
    "kills": sweeps.sweep_kills,
    "fuzz": fuzz.fuzz,
    "save": checkpoints.saving_speed,
}


def run_tests(
    folder: Path,
    names: list[str],
    scale: float,
    seed: int,
    quiet: bool = False,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Runs tests in their order and returns their results; one that breaks is a result too.

    Args:
      folder: to work in.
      names: of TESTS; empty for all.
      scale: part of the trials of the long form.
      seed: of every draw.
      quiet: print nothing.
      on_result: called with each result as it comes.

    Raises:
      ValueError: an unknown name.
    """
    unknown = [name for name in names if name not in TESTS]
    if unknown:
        raise ValueError(f"no failure test {', '.join(unknown)}; there are {', '.join(TESTS)}.")
    import grain  # noqa: F401
    import orbax.checkpoint  # noqa: F401

    import kleiber.experiments.sweeping.worker
    import kleiber.train.trunk  # noqa: F401

    bench = Bench(folder, seed, scale)
    prepare(bench)
    results = []
    for name in names or TESTS:
        started = time.monotonic()
        try:
            result = TESTS[name](bench)
        except Exception as problem:
            failure = f"{type(problem).__name__}: {problem}\n{traceback.format_exc()[-2000:]}"
            seconds = round(time.monotonic() - started, 1)
            result = Result(
                name, TESTS[name].__doc__ or name, 1, 0, "the test itself broke", seed, seconds, "", (failure,)
            )
        results.append(result)
        on_result(result)
        if not quiet:
            verdict = "pass" if result.is_good else "FAIL"
            print(f"{verdict} {name:4} {result.passed}/{result.trials} {result.title}: {result.detail}", end="")
            print(f" (seed {seed}, {result.seconds:.0f} s)", flush=True)
            for failure in result.failures:
                print(f"       {failure}", flush=True)
    return results
