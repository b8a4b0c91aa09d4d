"""Scores what the weights of a run say of held-out data: how often they tell the label of a text or image, beside the
majority and a linear model; how near they come to the target of a source, beside copying it.

examples: kleiber score out/tuned/runs/NAME-D500000 --file test.jsonl --train train.jsonl
          kleiber score out/vision/runs/NAME-D48000
          kleiber score out/encoder_decoder/runs/NAME-D400000 --beam 4
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
    to tell it: DataConfig("train.jsonl#text+label"). A run on images is scored on its validation images; one on pairs
    on those of its corpus, unless this names others: a PATH.tsv, or PATH::PATH."""
    train: Path | None = None
    """A file of the same form from which the baselines learn."""
    split: str = "test"
    """Of a run on pairs: which of its corpus are translated."""
    beam: int = 4
    """Of a run on pairs: beginnings that the search keeps; 1 takes the likeliest token at each place."""
    most: int | None = None
    """Of a run on pairs: translate no more than so many of them, spread evenly."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints accuracy with its interval, and the baselines' beside it; returns 0."""
    from kleiber.experiments.api.labels import read_labelled, score_images, score_labels
    from kleiber.experiments.api.runs import load
    from kleiber.experiments.commands.eval import compute_as_a_worker

    found = load(options.run)
    if found.config.model.encoder:
        return _run_on_pairs(found, options)
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


def _run_on_pairs(found: Any, options: Options) -> int:
    """Prints BLEU, chrF and exact matches of a run on pairs, and those of copying its sources."""
    from kleiber.experiments.commands.eval import compute_as_a_worker

    compute_as_a_worker(found.config)
    from kleiber.experiments.api.translations import score_pairs  # and with it jax
    from kleiber.train.translations import held_out_pairs, pairs_of_file

    if options.train:
        raise ValueError(f"{found.name} translates, and its baseline copies the source: leave --train out.")
    if options.file:
        test = pairs_of_file(str(options.file))
    else:
        test = held_out_pairs(found.config, found.record["data_fingerprint"], options.split, found.tokenizer)
    with working(f"translating {test.name}"):
        scores = score_pairs(found, test.evenly(options.most), options.beam)
    print(json.dumps(scores, indent=1, ensure_ascii=False) if options.json else told_of_pairs(scores))
    return EXIT_DONE


def told_of_pairs(scores: dict[str, Any]) -> str:
    """Returns the scores of translations for people."""
    from kleiber.train.scores.translation import FEWEST

    def with_interval(each: dict[str, Any], name: str, form: str) -> str:
        low, high = each[f"{name}_interval_95"]
        return f"{each[name]:{form}} [{low:{form}}, {high:{form}}]"

    cut = f", {scores['num_cut']} longer than its encoder reads and cut at their end" if scores["num_cut"] else ""
    of = f"{scores['num_pairs']:,} pairs of {scores['num_documents']:,} documents ({scores['pairs']}){cut}"
    lines = [f"{scores['run']}: {of}, beam {scores['beam']}"]
    for name, each in scores["scores"].items():
        parts = [f"{label} {with_interval(each, key, '.1f')}" for label, key in (("BLEU", "bleu"), ("chrF", "chrf"))]
        lines.append(f"  {name:<6} {', '.join(parts)}, exact {with_interval(each, 'exact_match', '.1%')}")
    if scores["num_pairs"] >= FEWEST:
        against = scores["against"]["copy"]
        low, high = against["bleu_interval_95"]
        verdict = "ahead of" if low > 0 else "behind" if high < 0 else "not told apart from"
        lines.append(f"  the model is {verdict} copying: BLEU {with_interval(against, 'bleu', '+.1f')}")
    lines += [f"  {name}: {signature}" for name, signature in scores["signatures"].items()]
    for each in scores["examples"][:3]:
        lines += ["", *(f"  {name:<7} {each[name]}" for name in ("source", "target", "model"))]
    return "\n".join(lines)


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
