"""The command line: `kleiber VERB ...`. Each verb is a file of `kleiber.experiments.commands`, loaded when used."""

import difflib
import importlib
import os
import re
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Union

from kleiber.experiments.exit_codes import EXIT_CANNOT_WRITE, EXIT_DONE, EXIT_RESUMABLE, EXIT_USAGE
from kleiber.experiments.terminal import accept_all_text, printable
from kleiber.parallel.environment import has_accelerator

VERBS = {
    "plan": "cells, counts, FLOPs, seconds and expected standard errors of an experiment; starts nothing",
    "sweep": "plan, run, fit, register the forecast, run the targets, score, report; the same line resumes",
    "train": "one run of an experiment",
    "import": "a table of runs from TensorBoard, W&B and MLflow folders, logs and exports",
    "fit": "fit laws to any CSV or Parquet table of runs",
    "forecast": "the loss of a larger run, with its prediction interval",
    "design": "which runs to buy next",
    "laws": "the registry of laws: formula, symbols, units, source, validity",
    "ledger": "verify a ledger of forecasts and show its scoreboard",
    "eval": "score the weights of a run: on its validation text, or on any other",
    "score": "how often a run tells the label of a text, beside the majority and a linear model",
    "generate": "write text with the weights of a run",
    "serve": "completions of a run over HTTP, as OpenAI's interface has them",
    "export": "the weights of a run as a safetensors file, or as transformers reads them",
    "convert": "a folder of transformers' as a run: to score, to generate with, to begin with",
    "ask": "what one factor of a sweep does, how sure that is, and what to run next",
    "tune": "how the best learning rate follows batch, tokens, width and layers, as a recipe to train by",
    "watch": "a running sweep, live: in the terminal and as a page of this machine",
    "report": "execute the notebook of a sweep into report.ipynb and report.html",
    "data": "list and prepare corpora",
    "doctor": "verify a directory: what is damaged, what can be saved, and how",
    "rewind": "take up a run before a bad batch, and leave that batch out",
    "compile": "compile a step for a pod nobody has to rent: memory, FLOPs, traffic, speed at best",
    "check": "coordinate check of a parametrisation over width and depth",
    "bench": "what this machine gives: peak, tokens per second, compile, memory, fits, beside its peers",
}


COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")
NOT_UTF8 = "is not UTF-8, as a name or path must be"


def usage() -> str:
    """Returns the text of `kleiber --help`."""
    rows = "\n".join(f"  {verb:<10}{text}" for verb, text in VERBS.items())
    return (
        "kleiber tells you what a bigger model will do, and how sure it is, before you pay for it.\n\n"
        f"usage: kleiber VERB [options]      (kleiber VERB --help shows the options and an example)\n\n{rows}\n\n"
        "example: kleiber plan quickstart && kleiber sweep quickstart --out out/quickstart"
    )


def _completion(argv: list[str]) -> int:
    """Prints what completes every verb and option in a shell; returns 0."""
    import tyro

    kinds = [
        Annotated[
            importlib.import_module(f"kleiber.experiments.commands.{verb}").Options,
            tyro.conf.subcommand(verb, description=text),
        ]
        for verb, text in VERBS.items()
    ]
    tyro.cli(Union[tuple(kinds)], prog="kleiber", args=argv)  # type: ignore[call-overload]  # noqa: UP007
    return EXIT_DONE


def main(argv: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code: 0 done, 2 usage, 3 gate or run failed, 74 cannot write, 75 resumable."""
    argv = sys.argv[1:] if argv is None else argv
    accept_all_text()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return EXIT_DONE if argv else EXIT_USAGE
    for word in argv:  # a library's message would repeat it as it is, or nobody could write it down
        is_text = word.isascii() or not re.search("[\ud800-\udfff]", word)
        if not is_text or printable(word) != word:
            what = "holds control characters; leave them out" if is_text else f"{NOT_UTF8}; rename it"
            print(f"kleiber: {ascii(word)[:200]} {what}.", file=sys.stderr)
            return EXIT_USAGE
    verb = argv[0]
    if verb == "--version":
        print(f"kleiber {version('kleiber')}")
        return EXIT_DONE
    if verb.startswith(COMPLETION):
        return _completion(argv)
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        print(f"kleiber: unknown verb '{printable(verb)}'{hint} (kleiber --help lists them)", file=sys.stderr)
        return EXIT_USAGE
    # The products of a fit are small: threads only get in each other's way, and numpy reads this when it loads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not has_accelerator():  # an installed libtpu, there for `kleiber compile`, would look for its chips
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import tyro

    for number in (signal.SIGTERM, signal.SIGUSR1):  # a scheduler's stop is a Ctrl-C: save, say so, exit 75
        signal.signal(number, signal.default_int_handler)
    command = importlib.import_module(f"kleiber.experiments.commands.{verb}")
    options = None
    try:
        options = tyro.cli(command.Options, prog=f"kleiber {verb}", args=argv[1:], description=command.__doc__)
        return command.run(options)
    except SystemExit as stop:  # tyro's own --help and usage errors
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    except (ValueError, FileNotFoundError, PermissionError, NotADirectoryError) as mistake:
        if isinstance(mistake, UnicodeEncodeError):
            mistake = ValueError(f"{ascii(mistake.object)[:200]} {NOT_UTF8}; rename it.")
        print(f"kleiber {verb}: {printable(str(mistake))}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:  # whoever read has gone, as in `kleiber data list | head`: nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CANNOT_WRITE
    except OSError as problem:  # a full disk, a folder that went away, a folder in place of a file
        from kleiber.experiments.sweeping.failures import file_problem

        text, code = file_problem(problem, getattr(options, "out", None) or Path())
        print(f"kleiber {verb}: {printable(text)}.", file=sys.stderr)
        return code
    except KeyboardInterrupt as stop:
        goes_on = "the same line goes on"
        done = f", {stop}; {goes_on}" if str(stop) else f"; {goes_on} from what is saved, if any is"
        print(f"\nkleiber {verb}: interrupted{done}", file=sys.stderr)
        return EXIT_RESUMABLE


if __name__ == "__main__":
    sys.exit(main())
