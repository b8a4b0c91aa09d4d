"""Verifies a sweep, run or checkpoint directory: says what is damaged, what can be saved, and how. Changes nothing.

Exit code 0: nothing is damaged (leftovers of a kill are not damage). 3: something is, and the report says what to do.

example: kleiber doctor out/quickstart
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE, EXIT_GATE


@dataclass(frozen=True)
class Options:
    """Options of `kleiber doctor`."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Of `kleiber sweep` or `kleiber train`, or one run or checkpoint in it."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Looks at every file of the directory and says what it found."""
    from kleiber.experiments.directory.doctor import diagnose
    from kleiber.experiments.terminal import printable

    diagnosis = diagnose(options.directory)
    code = EXIT_DONE if diagnosis.is_healthy else EXIT_GATE
    if options.json:
        print(json.dumps(diagnosis.to_json(), indent=1))
        return code
    for finding in diagnosis.findings:
        print(printable(f"{finding.kind:<9}{finding.path}: {finding.what}"))
        if finding.remedy:
            print(printable(f"         -> {finding.remedy}"))
    counted = ", ".join(f"{number} {what}" for what, number in diagnosis.checked.items() if number)
    print(
        f"{options.directory}: {'healthy' if diagnosis.is_healthy else 'DAMAGED'} ({counted or 'nothing yet'} checked)"
    )
    return code
