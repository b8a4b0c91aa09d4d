"""Scores the weights of a finished run: on its own validation text, where its recorded loss comes again, on a file, or
on a task.

example: kleiber eval out/quickstart/runs/d64-L2-s0-2ad14a-D102400 --text notes.txt
"""

import contextlib
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE
from kleiber.experiments.terminal import working

HARNESS = "lm-eval:"
"""What names of tasks of lm-evaluation-harness begin with."""


@dataclass(frozen=True)
class Options:
    """Options of `kleiber eval`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, in a sweep or copied elsewhere, or DIRECTORY/NAME with the beginning of its name."""
    text: Path | None = None
    """A text file to score in place of the validation text: UTF-8, or UTF-16 with its mark; may be gzipped."""
    task: str | None = None
    """A file of JSON lines, {"context": TEXT, "choices": [TEXT, ...], "answer": NUMBER}; or lm-eval:NAME, a task of
    lm-evaluation-harness (pip install 'kleiber[lm-eval]')."""
    task_folder: Path | None = None
    """Further tasks of the harness, as YAML; they may run code that lies beside them."""
    limit: int | None = None
    """Of a task of the harness, at most so many documents."""
    online: bool = False
    """Let the harness fetch data from the Hugging Face hub; it is kept offline otherwise."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints loss and bits per byte, or the scores of a task; returns 0."""
    from kleiber.experiments.api.runs import load
    from kleiber.train.data.corpora.text_file.reading import read_text

    if options.task and options.text:
        raise ValueError("--text and --task; give one of them.")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit}, expected 1 or more.")
    of_harness = (options.task or "").startswith(HARNESS)
    if not of_harness and (options.task_folder or options.limit is not None or options.online):
        raise ValueError(f"--task-folder, --limit and --online go with --task {HARNESS}NAME.")
    found = load(options.run)
    compute_as_a_worker(found.config)
    if options.task:
        return _of_harness(found, options) if of_harness else _of_file(found, options)
    text = read_text(options.text) if options.text else None
    with working(f"scoring {options.text or 'the validation text'}"):
        score = found.evaluate(text)
    recorded = None if options.text else found.record["loss"]
    if options.json:
        what = {"run": found.name, "text": options.text and str(options.text), "recorded_loss": recorded}
        print(json.dumps(what | dataclasses.asdict(score), indent=1))
        return EXIT_DONE
    unit = found.config.model.unit
    in_bytes = "" if score.bits_per_byte is None else f"{score.bits_per_byte:.4f} bits per byte, "
    told = f"loss {score.loss:.4f} +- {score.loss_standard_error:.4f} nats per {unit}, {in_bytes}"
    print(f"{found.name}: {told}{score.num_tokens:,} {unit}s")
    if recorded is not None:
        same = "equal" if recorded == score.loss else f"differs by {score.loss - recorded:+.2g}: another machine?"
        print(f"recorded {recorded:.4f}: {same}")
    return EXIT_DONE


def _of_file(found, options: Options) -> int:
    """Scores the questions of a file."""
    from kleiber.experiments.api.tasks import read_questions, score_questions

    questions = read_questions(Path(options.task or ""))
    with working(f"answering {len(questions):,} questions"):
        scores = score_questions(found, questions)
    if options.json:
        print(json.dumps({"run": found.name, "task": options.task, **scores}, indent=1))
        return EXIT_DONE
    cut = f", {scores['num_cut']} cut at their beginning" if scores["num_cut"] else ""
    print(f"{found.name}: {len(questions):,} questions{cut}, {scores['chance']:.1%} by chance")
    for name, words in (("accuracy", "by likelihood"), ("accuracy_per_byte", "by likelihood per byte")):
        low, high = scores[f"{name}_interval_95"]
        print(f"  accuracy {scores[name]:.1%} [{low:.1%}, {high:.1%}] {words}")
    return EXIT_DONE


def _of_harness(found, options: Options) -> int:
    """Scores a task of lm-evaluation-harness."""
    import os

    if not options.online:  # read as its packages load
        os.environ.update(dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1"))
    try:
        from kleiber.experiments.api.harness import evaluate_task
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"--task {options.task} needs lm-evaluation-harness ({missing}): pip install 'kleiber[lm-eval]'."
        ) from None
    name = (options.task or "").removeprefix(HARNESS)
    with contextlib.redirect_stdout(sys.stderr):  # the harness prints
        scores = evaluate_task(found, name, options.task_folder, options.limit)
    if options.json:
        print(json.dumps({"run": found.name, "task": options.task, **scores}, indent=1, default=str))
        return EXIT_DONE
    for task, each in scores["results"].items():
        print(f"{found.name}, {task}: {scores['num_documents'].get(task, '?')} documents")
        for key, value in each.items():
            if isinstance(value, float):
                print(f"  {key.removesuffix(',none')} {value:.4f}")
    return EXIT_DONE


def compute_as_a_worker(config) -> None:
    """Gives this process, before it loads jax, the settings under which workers measure."""
    import os

    from kleiber.experiments.launch.local import worker_environment
    from kleiber.experiments.sweeping.workers import num_devices

    os.environ.update(worker_environment(num_devices([config])))
