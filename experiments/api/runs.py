"""Training runs in Python: plan and run an experiment, read what a sweep found, open one run."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kleiber.experiments.api.frame import frame
from kleiber.experiments.config_file import from_data, load_experiment
from kleiber.experiments.experiment import Experiment
from kleiber.files import read_json
from kleiber.train.watch.metrics import whole_rows

if TYPE_CHECKING:
    from flax import nnx

    from kleiber.experiments.answers.answer import Answer, Answers
    from kleiber.experiments.api.fits import Fitted
    from kleiber.experiments.api.weights import Form, Score
    from kleiber.experiments.planning.plan import Plan
    from kleiber.experiments.sweeping.sweep import SweepResult
    from kleiber.model.decode.speculative import Draft
    from kleiber.train.config import TrainConfig
    from kleiber.train.data.tokenizers import Tokenizer


def plan(experiment: str | Experiment, workers: int | None = None) -> "Plan":
    """Returns what an experiment would do, cost and teach; starts nothing.

    Args:
      experiment: the path of a config file, the name of a shipped experiment, or one made in Python.
      workers: local processes to plan for; one on each core if left out.

    Raises:
      ValueError: no such experiment, or a mistake in it.
    """
    from kleiber.experiments.planning.plan import make_plan
    from kleiber.experiments.sweeping.workers import default_workers

    found = _experiment(experiment)
    return make_plan(found, workers or default_workers(found.trunks))


def sweep(
    experiment: str | Experiment,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    seed: int = 0,
    retry_failed: bool = False,
    max_seconds: float | None = None,
    allow: tuple[str, ...] = (),
    report: bool = True,
    is_quiet: bool = False,
    track: tuple[str, ...] | None = None,
    launch: str | tuple[str, ...] = (),
) -> "SweepResult":
    """Plans, trains, fits, registers the forecast, trains the targets, scores and reports; the same call resumes.

    Args:
      experiment: as for `plan`.
      out: the sweep's directory; out/NAME if left out.
      workers: local worker processes; one on each core if left out.
      seed: added to the seed of every run, for an independent repetition.
      retry_failed: whether runs recorded as failed are run again.
      max_seconds: wall time after which everything is saved and it stops, resumable.
      allow: fields in which the experiment may differ from the one that made the directory.
      report: whether report.ipynb and report.html are written at the end.
      is_quiet: whether progress goes to log.txt only.
      track: trackers that show the runs: tensorboard, wandb, mlflow, my_tracker.py:MyTracker; None is TensorBoard where
        it is installed.
      launch: where workers run, such as "slurm:partition=debug,time=60" (docs/clusters.md); several work together; none
        is here.

    Returns:
      exit_code (0 done, 3 done but its gate or a run failed, 75 stopped and resumable) and summary, a dict.

    Raises:
      ValueError: a mistake in the plan, or a directory in use or of another experiment.
    """
    from kleiber.experiments.sweeping.sweep import run_sweep, with_seed

    found = _experiment(experiment)
    found = with_seed(found, seed) if seed else found
    directory = Path(out) if out else Path("out") / found.name
    lines = (launch,) if isinstance(launch, str) else tuple(launch)
    return run_sweep(found, directory, workers, retry_failed, is_quiet, report, max_seconds, allow, track, lines)


def _experiment(experiment: str | Experiment) -> Experiment:
    return experiment if isinstance(experiment, Experiment) else load_experiment(str(experiment))


@dataclass(frozen=True)
class Results:
    """What a sweep's directory holds, finished or not."""

    directory: Path
    records: tuple[dict[str, Any], ...]
    """One a measured point (docs/json.md)."""
    ledger: tuple[dict[str, Any], ...]
    """Forecasts and outcomes, in the order they were written down."""
    result: dict[str, Any]
    """The sweep's own verdict, its gate included; empty before it has ended."""
    gaps: tuple[str, ...]
    """What is missing or damaged, in sentences."""

    @property
    def table(self) -> Any:
        """The records: a pandas DataFrame, or a dict of arrays without pandas."""
        return frame(self.records)

    @property
    def fit(self) -> "Fitted":
        """The laws fitted; FileNotFoundError before there are any."""
        from kleiber.experiments.api.fits import read_fit

        return read_fit(self.directory)

    @cached_property
    def answers(self) -> "Answers":
        """What each factor does, in sentences, and what to run next: print(results.answers)."""
        from kleiber.experiments.report.drawing import Study
        from kleiber.experiments.report.results import read_results

        return Study(read_results(self.directory)).answers

    def ask(self, factor: str) -> "Answer":
        """Returns what one factor does: .sentence, .basis, .next, .effects, .best; print it for all of it.

        Raises:
          ValueError: nothing of that name varies, with the nearest that does.
        """
        return self.answers.of(factor)

    def __repr__(self) -> str:
        return "\n".join([f"{len(self.records)} points in {self.directory}", *self.gaps])


def results(directory: str | Path) -> Results:
    """Returns what a sweep has found so far.

    Raises:
      FileNotFoundError: there is no such directory, or it is no sweep's.
    """
    from kleiber.experiments.report.results import read_results

    found = read_results(Path(directory))
    return Results(found.directory, found.records, found.ledger, found.result, found.gaps)


@dataclass(frozen=True)
class Run:
    """One training run of a sweep's directory: a trunk, or one measured point of it. Everything is read when used."""

    folder: Path
    """Its own, in the sweep's runs/ or copied elsewhere; a point needs nothing beside it."""
    name: str
    trunk_id: str
    """The run that was trained; its points and branches share config, metrics and checkpoints."""

    @property
    def directory(self) -> Path:
        """The sweep's; of a run copied elsewhere, what it lies in."""
        return self.folder.parent.parent if self.folder.parent.name == "runs" else self.folder.parent

    @cached_property
    def config(self) -> "TrainConfig":
        """What was trained, and how."""
        from kleiber.train.config import TrainConfig

        data = read_json(self.folder / "config.json")
        return from_data(TrainConfig, data.get("trunk", data))

    @cached_property
    def records(self) -> tuple[dict[str, Any], ...]:
        """The measured points, fewest tokens first; of a point, itself."""
        if self.name != self.trunk_id:
            return (read_json(self.folder / "record.json"),)
        found = [read_json(path) for path in self.folder.parent.glob(f"{self.trunk_id}-D*/record.json")]
        return tuple(sorted(found, key=lambda record: record["num_tokens"]))

    @property
    def record(self) -> dict[str, Any]:
        """The measured point (of a trunk, the longest): counts, FLOPs, loss, seed, versions."""
        if not self.records:
            raise FileNotFoundError(f"no point of {self.name} has been measured yet in {self.directory}.")
        return self.records[-1]

    @property
    def metrics(self) -> Any:
        """The step log, one row each: a pandas DataFrame, or a dict of arrays without pandas."""
        path = self.folder.parent / self.trunk_id / "metrics.jsonl"
        return frame(whole_rows(path) if path.exists() else [])

    @cached_property
    def params(self) -> dict[str, Any]:
        """The weights that were measured (of a trunk, at its longest point) as NumPy arrays by path, every digest
        checked; of a trunk that kept none, those of its newest checkpoint.

        Raises:
          FileNotFoundError: there are none.
          CheckpointError: they are damaged; says where.
        """
        if self._final:
            return {name[7:]: array for name, array in self._kept.items() if name.startswith("params/")}
        if self.config.command or self.name != self.trunk_id:
            newest = f"keep_final says of which points they are; the newest checkpoint is that of {self.trunk_id}"
            why = "a program of yours trained it, and has them" if self.config.command else newest
            raise FileNotFoundError(f"the weights of {self.name} were not kept: {why}.")
        from kleiber.experiments.api.weights import newest_checkpoint
        from kleiber.train.checkpoints.checkpoint import load_arrays

        place, member = newest_checkpoint(self)
        arrays, _ = load_arrays(place)
        # With delayed synchronisation the replicas differ; what is evaluated is the parameters they share.
        start = "outer/params/" if self.config.delayed_sync else "params/"
        chosen = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
        return {name: array if member is None else array[member] for name, array in chosen.items()}

    @property
    def _final(self) -> Path | None:
        kept = self.records[-1].get("final_checkpoint") if self.records else None
        place = self.folder if self.name != self.trunk_id else self.folder.parent / self.records[-1]["run_id"]
        return place / kept if kept and (place / kept).is_dir() else None

    @cached_property
    def _kept(self) -> dict[str, Any]:
        from kleiber.train.checkpoints.checkpoint import load_arrays

        return load_arrays(self._final)[0] if self._final else {}

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The same weights as the nested dictionaries that kleiber's functions take."""
        from kleiber.train.checkpoints.checkpoint import tree_of

        return tree_of(self.params)

    @property
    def model(self) -> "nnx.Module":
        """The NNX module with these weights: model(tokens_BT) gives logits_BTV."""
        from kleiber.model.functional import as_module

        return as_module(self.config.model, self.tree)

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """What turns text into its tokens and back: .encode(list of bytes), .decode(ids)."""
        from kleiber.train.data.tokenizers import UNKNOWN, stored_tokenizer

        name = self.config.data.tokenizer
        has_model = name not in ("bytes", UNKNOWN)
        if has_model and "tokenizer_model" not in self._kept:
            raise FileNotFoundError(f"{self.name} kept no weights, and with them no model of its tokenizer {name}.")
        return stored_tokenizer(name, self._kept["tokenizer_model"].tobytes() if has_model else b"")

    def evaluate(self, text: str | None = None) -> "Score":
        """Returns the loss of these weights on a text, or on the validation text of its experiment: to the last digit
        the recorded one on the machine that recorded it.

        Raises:
          ValueError: the validation text is not prepared here; says how to make it.
        """
        from kleiber.experiments.api import weights

        if text is None:
            return weights.score(self.config, self.tree, self.record["data_fingerprint"])
        return weights.score_text(self.config, self.tree, self.tokenizer, text)

    def generate(
        self,
        prompt: str = "",
        num_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
        top_p: float = 1.0,
        stops_at_end: bool = False,
        stop: Sequence[str] = (),
        draft: "Run | Draft | None" = None,
    ) -> str:
        """Returns text that follows a prompt; equal arguments give equal text (docs/inference.md).

        Args:
          prompt: how it begins.
          num_tokens: most to add.
          temperature, top_k, top_p: as kleiber.model.decode.sample.Sampling.
          seed: of the draws.
          stops_at_end: whether it ends where its document does.
          stop: texts before which it ends.
          draft: a smaller run with the same tokens, which guesses ahead; the text is the same.

        Raises:
          ValueError: the run says nothing of what comes next, or the draft has other tokens.
        """
        from kleiber.experiments.api import weights
        from kleiber.model.decode.sample import Sampling

        drawn: dict[str, Any] = {
            "num_tokens": num_tokens,
            "sampling": Sampling(temperature, top_k, top_p),
            "seed": seed,
        }
        if draft is not None:
            drawn["draft"] = weights.as_draft(self, draft)
        return weights.continue_text(self.config, self.tree, self.tokenizer, prompt, stops_at_end, stop, **drawn)

    def translate(self, texts: Sequence[str], beam: int = 4) -> list[str]:
        """Returns what a run on pairs makes of each source, by a beam of so many beginnings; 1 takes the likeliest
        token at each place.

        Raises:
          ValueError: the run is on no pairs, or a source is empty or longer than its encoder reads.
        """
        from kleiber.experiments.api import weights

        return weights.translate_texts(self, texts, beam)

    def export(self, path: str | Path, form: "Form" = "weights") -> Path:
        """Writes the weights as a safetensors file, with config and record as JSON in its metadata; returns the file.

        Args:
          path: the file; with form peft or huggingface a folder.
          form: weights as they are; merged, with the adapter in its matrices; peft, the adapter alone; huggingface,
            the folder that transformers opens (docs/hugging_face.md).

        Raises:
          ValueError: the run has no adapter of the kind that the form needs, or a field of its model has no counterpart
            in the form.
        """
        from kleiber.experiments.api import weights

        return weights.export(self, Path(path), form)

    def __repr__(self) -> str:
        losses = ", ".join(f"{r['loss']:.4f} after {r['num_tokens']:,} tokens" for r in self.records if r.get("loss"))
        return f"{self.name} in {self.directory}: {losses or 'nothing measured yet'}"


def open_run(directory: str | Path, name: str) -> Run:
    """Returns one run of a sweep's directory.

    Args:
      directory: of a sweep, or of `kleiber train`.
      name: of a trunk or a point, as its folder in runs/; the beginning is enough where only one trunk has it.

    Raises:
      FileNotFoundError: there is no such directory.
      ValueError: no run has that name, with the nearest, or several have.
    """
    runs = Path(directory) / "runs"
    if not runs.is_dir():
        raise FileNotFoundError(f"{directory} holds no runs/; give the directory of a sweep.")
    names = sorted(path.name for path in runs.iterdir() if path.is_dir() and not path.name.startswith("population-"))
    if name in names:
        return Run(runs / name, name, _trunk_of(name))
    trunks = sorted({_trunk_of(each) for each in names if each.startswith(name)} if name else ())
    if len(trunks) == 1:
        return Run(runs / trunks[0], trunks[0], trunks[0])
    near = trunks or difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names
    reason = f"{len(trunks)} runs begin so" if trunks else "there are" if len(near) > 3 else "the nearest are"
    said = f"{directory} has no run {name!r}" if name else f"{directory} is a sweep: name one of its runs"
    more = " ..." if len(near) > 8 else ""
    raise ValueError(f"{said}; {reason}: {', '.join(near[:8]) or 'none, it has no run at all'}{more}.")


def load(run: str | Path) -> Run:
    """Returns one run, with the weights that were measured.

    Args:
      run: the folder of a run, in a sweep or copied elsewhere; DIRECTORY/NAME with the beginning of a name; or the
        directory of `kleiber train`, where there is but one.

    Raises:
      FileNotFoundError: there is no such folder, or it is none of kleiber's.
      ValueError: several runs have that name.
    """
    path = Path(run)
    if (path / "record.json").is_file():
        name = read_json(path / "record.json")["run_id"]
        return Run(path, name, _trunk_of(name))
    if (path / "config.json").is_file():
        return Run(path, path.name, path.name)
    if (path / "runs").is_dir():
        trunks = {_trunk_of(each.name) for each in (path / "runs").glob("[!.p]*/") if each.is_dir()}
        return open_run(path, trunks.pop() if len(trunks) == 1 else "")
    if (path.parent / "runs").is_dir():
        return open_run(path.parent, path.name)
    if path.parent.name == "runs":
        return open_run(path.parent.parent, path.name)
    raise FileNotFoundError(f"{path} is no run; give the folder of one, such as out/quickstart/runs/NAME.")


def _trunk_of(name: str) -> str:
    return name.rpartition("-D")[0] or name
