"""Writes text with the weights of a finished run: what follows a text, or the target of a source.

examples: kleiber generate out/quickstart/runs/d64-L2-s0-2ad14a-D102400 "The instance" --num-tokens 200 --seed 1
          kleiber generate out/encoder_decoder/runs/NAME-D400000 "Open the file." --beam 4
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE
from kleiber.experiments.terminal import printable, working

DRAWN = ("num_tokens", "temperature", "top_k", "seed", "top_p", "stops_at_end", "stop")


@dataclass(frozen=True)
class Options:
    """Options of `kleiber generate`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, in a sweep or copied elsewhere, or DIRECTORY/NAME with the beginning of its name."""
    text: tyro.conf.Positional[str] = ""
    """How it begins; if left out, as documents do. Of a run on pairs, the source."""
    num_tokens: int = 100
    """Tokens to add."""
    temperature: float = 1.0
    """Below 1 keeps closer to what is likely; 0 always takes the most likely token."""
    top_k: int | None = None
    """Draw among so many of the most likely tokens only."""
    seed: int = 0
    """Of the draws: the same seed writes the same text."""
    top_p: float = 1.0
    """Draw among the fewest of the most likely tokens that together have at least this probability."""
    stops_at_end: bool = False
    """End where the document does, if that comes before num_tokens."""
    stop: tuple[str, ...] = ()
    """Texts before which it ends."""
    draft: Path | None = None
    """A smaller run with the same tokens, such as one of the same sweep, that guesses ahead: the same text, sooner if
    it guesses well and costs little."""
    beam: int | None = None
    """Of a run on pairs: beginnings that the search keeps, 4 if left out; 1 takes the likeliest token at each place."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints the text with what was added; returns 0."""
    from kleiber.experiments.api.runs import load

    found, draft = load(options.run), None
    if found.config.model.encoder:
        return _translate(found, options)
    if options.beam is not None:
        raise ValueError(f"--beam {options.beam} is of a run on pairs, and {found.name} is none; leave it out.")
    if options.draft:
        from kleiber.experiments.api.weights import as_draft

        draft = as_draft(found, load(options.draft))
    drawn = {name: getattr(options, name) for name in DRAWN}
    with working(f"writing {options.num_tokens} tokens"):
        added = found.generate(options.text, **drawn, draft=draft)
    if options.json:
        told = {"run": found.name, "prompt": options.text, "text": added, **drawn}
        told |= (
            {"draft": str(options.draft), "num_passes": draft.num_passes, "num_kept": draft.num_kept} if draft else {}
        )
        print(json.dumps(told, indent=1))
    else:
        print(printable(options.text + added))
    return EXIT_DONE


def _translate(found: Any, options: Options) -> int:
    """Prints what a run on pairs makes of a source; returns 0."""
    usual = {field.name: field.default for field in fields(options)}
    given = [name for name in (*DRAWN, "draft") if getattr(options, name) != usual[name]]
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise ValueError(f"{flag} is of a run that goes on with a text; {found.name} searches for a target: --beam.")
    beam = 4 if options.beam is None else options.beam
    with working("translating"):
        told = found.translate([options.text], beam)[0]
    if options.json:
        print(json.dumps({"run": found.name, "source": options.text, "text": told, "beam": beam}, indent=1))
    else:
        print(printable(told))
    return EXIT_DONE
