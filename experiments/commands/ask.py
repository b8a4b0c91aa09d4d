"""Says what a factor of a sweep does, how sure that is and from what, and what to run next.

example: kleiber ask out/lr_batch learning_rate

all factors at once: kleiber ask out/lr_batch
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE


@dataclass(frozen=True)
class Options:
    """Options of `kleiber ask`."""

    directory: tyro.conf.Positional[Path]
    """Directory of a sweep, finished or not."""
    factor: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FACTOR")] = ""
    """A field that varies over its runs, such as weight_decay; all of them if left out."""
    json: bool = False
    """Print one JSON object: answers (factor, sentence, basis, next, effects, best, moves) and caveats."""


def run(options: Options) -> int:
    """Prints the answer."""
    from kleiber.experiments.api.runs import results
    from kleiber.experiments.terminal import printable

    found = results(options.directory).answers
    chosen = (found.of(options.factor),) if options.factor else found.answers
    if options.json:
        print(json.dumps({"answers": [each.to_json() for each in chosen], "caveats": list(found.caveats)}, indent=1))
    else:
        lines = [*chosen[0].lines, *found.caveats] if options.factor else found.lines
        print(printable("\n".join(lines) or "Nothing varies over the measured runs."))
    return EXIT_DONE
