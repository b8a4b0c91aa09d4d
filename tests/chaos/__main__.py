"""Runs the failure tests R1 to R24 and the drills of docs/reliability.md, and writes its table.

example: python -m chaos --short
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Runs the tests asked for; 0 when every trial passed, 3 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("tests", nargs="*", help="such as R1 R8; all if none is named")
    parser.add_argument("--short", action="store_true", help="a few of the trials")
    parser.add_argument("--scale", type=float, help="part of the trials of the long form")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw; printed with every result")
    parser.add_argument(
        "--folder", type=Path, help="where to work; a temporary folder if not given, removed afterwards"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", type=Path, help="write the table of results to this page (docs/reliability.md)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="kleiber-chaos-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        _environment(folder)
        from chaos.battery import TESTS, run_tests
        from chaos.page import write_page
        from chaos.trial import Result

        def on_result(result: Result) -> None:
            if options.write:
                write_page(options.write, [result], list(TESTS))

        scale = options.scale or (0.02 if options.short else 1.0)
        results = run_tests(folder, options.tests, scale, options.seed, options.json, on_result)
    if options.json:
        print(json.dumps([dataclasses.asdict(r) | {"is_good": r.is_good} for r in results], indent=1))
    return 0 if all(r.is_good for r in results) else 3


def _environment(folder: Path) -> None:
    """Settles, before jax loads, where children keep their data and compiled programs."""
    os.environ["KLEIBER_CACHE"] = str(folder / "cache")
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache" / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        sys.exit(1)
