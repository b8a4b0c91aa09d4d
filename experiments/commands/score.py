"""Scores how often the weights of a run tell the label of a text or image, beside the majority and a linear model.

examples: kleiber score out/tuned/runs/NAME-D500000 --file test.jsonl --train train.jsonl
          kleiber score out/vision/runs/NAME-D48000
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE
from kleiber.experiments.terminal import working


@dataclass(frozen=True)
class Options:
    """Options of `kleiber score`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, in a sweep or copied elsewhere, or DIRECTORY/NAME with the beginning of its name."""
    file: Path | None = None
    """Of a run on text: JSON lines with `text` and `label`. Documents of the text, a new line and the label teach a run
    to tell it: DataConfig("train.jsonl#text+label"). A run on images is scored on its validation images."""
    train: Path | None = None
    """A file of the same form from which the baselines learn."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints accuracy with its interval, and the baselines' beside it; returns 0."""
    from kleiber.experiments.api.labels import read_labelled, score_images, score_labels
    from kleiber.experiments.api.runs import load
    from kleiber.experiments.commands.eval import compute_as_a_worker

    found = load(options.run)
    has_images = found.config.model.image is not None
    if has_images and (options.file or options.train):
        raise ValueError(f"{found.name} tells labels of images and is scored on those held out; leave the files out.")
    if not has_images and options.file is None:
        raise ValueError(f"{found.name} tells labels of text: give --file, JSON lines with `text` and `label`.")
    if options.file is None:
        compute_as_a_worker(found.config)
        with working(f"scoring the validation images of {found.config.data.corpus}"):
            scores = score_images(found)
        what = "images"
    else:
        test, train = read_labelled(options.file), read_labelled(options.train) if options.train else None
        compute_as_a_worker(found.config)
        with working(f"scoring {options.file}"):
            scores = score_labels(found, test, train)
        cut = scores["num_cut"]
        what = f"texts{f', {cut} longer than its context and cut at their beginning' if cut else ''}"
    print(json.dumps(scores, indent=1) if options.json else told(scores, what))
    return EXIT_DONE


def told(scores: dict[str, Any], what: str) -> str:
    """Returns the scores for people; what says what was told, such as `images`."""
    from kleiber.experiments.api.labels import FEWEST

    count = scores["scores"]["model"]["num_examples"]
    noun, comma, rest = what.partition(",")
    lines = [f"{scores['run']}: {count:,} {noun} of {len(scores['labels'])} labels{comma}{rest}"]
    for name, each in scores["scores"].items():
        low, high = each["interval_95"]
        more = f", {scores['nats_per_label']:.3f} nats per label" if name == "model" else ""
        score = f"accuracy {each['accuracy']:.1%} [{low:.1%}, {high:.1%}], macro F1 {each['f1_macro']:.3f}{more}"
        lines.append(f"  {name:<9}{score}")
    against = scores["against"]
    low, high = against["interval_95"]
    if count >= FEWEST:
        verdict = "ahead of" if low > 0 else "behind" if high < 0 else "not told apart from"
        difference = f"{against['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"
        lines.append(f"  the model is {verdict} the {against['baseline']} baseline: {difference}")
    return "\n".join(lines)
