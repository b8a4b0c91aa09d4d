"""Scores how often the weights of a run tell the label of a text, beside the majority and a linear model of its words.

example: kleiber score out/tuned/runs/NAME-D500000 --file test.jsonl --train train.jsonl
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE
from kleiber.experiments.terminal import working


@dataclass(frozen=True)
class Options:
    """Options of `kleiber score`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, in a sweep or copied elsewhere, or DIRECTORY/NAME with the beginning of its name."""
    file: Path
    """JSON lines with `text` and `label`. Documents of the text, a new line and the label teach a run to tell it:
    DataConfig("train.jsonl#text+label")."""
    train: Path | None = None
    """A file of the same form from which the baselines learn."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints accuracy with its interval, and the baselines' beside it; returns 0."""
    from kleiber.experiments.api.labels import FEWEST, read_labelled, score_labels
    from kleiber.experiments.api.runs import load
    from kleiber.experiments.commands.eval import compute_as_a_worker

    found = load(options.run)
    test, train = read_labelled(options.file), read_labelled(options.train) if options.train else None
    compute_as_a_worker(found.config)
    with working(f"scoring {options.file}"):
        scores = score_labels(found, test, train)
    if options.json:
        print(json.dumps(scores, indent=1))
        return EXIT_DONE
    cut = f", {scores['num_cut']} longer than its context and cut at their beginning" if scores["num_cut"] else ""
    print(f"{found.name}: {len(test.texts):,} texts of {len(scores['labels'])} labels{cut}")
    for name, each in scores["scores"].items():
        low, high = each["interval_95"]
        more = f", {scores['nats_per_label']:.3f} nats per label" if name == "model" else ""
        told = f"accuracy {each['accuracy']:.1%} [{low:.1%}, {high:.1%}], macro F1 {each['f1_macro']:.3f}{more}"
        print(f"  {name:<9}{told}")
    against = scores["against"]
    low, high = against["interval_95"]
    if len(test.texts) >= FEWEST:
        verdict = "ahead of" if low > 0 else "behind" if high < 0 else "not told apart from"
        told = f"{against['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"
        print(f"  the model is {verdict} the {against['baseline']} baseline: {told}")
    return EXIT_DONE
