"""What measured weights say: of the text they were measured on, of any other, and by themselves."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kleiber.parallel.config import MeshConfig
from kleiber.train.config import TrainConfig
from kleiber.train.data.tokenizers import Tokenizer

Form = Literal["weights", "merged", "peft", "huggingface"]
"""How weights are written."""
LOOK_FOR_STOPS = 64
"""Tokens that are drawn before a text is looked at for where it stops."""


@dataclass(frozen=True)
class Score:
    """How well weights predict a text."""

    loss: float
    """Nats per token."""
    loss_standard_error: float
    bits_per_byte: float | None
    """None where the losses are not those of telling the text."""
    num_tokens: int


def score(config: TrainConfig, tree: Any, fingerprint: str | None) -> Score:
    """Returns what weights score on the validation text of their experiment, computed as when they were measured.

    Args:
      config: of the run; where there are fewer devices than its mesh has, one of them computes all.
      tree: weights.
      fingerprint: data_fingerprint of its record.

    Raises:
      ValueError: the run was converted, and has no validation text; or that text is not prepared here.
    """
    if not fingerprint:
        raise ValueError("this run was converted, and has no validation text of its own: give a text (--text FILE).")
    import jax

    from kleiber.parallel.mesh import make_mesh, use_mesh
    from kleiber.train.data.run_data import open_held_out
    from kleiber.train.evaluate import evaluate
    from kleiber.train.placement import place_params

    data = open_held_out(config, fingerprint)
    if config.mesh.num_devices > jax.device_count():
        config = replace(config, mesh=MeshConfig())
    mesh = make_mesh(config.mesh)
    with use_mesh(mesh):
        found = evaluate(config, place_params(config.model, mesh, tree), data)
    return Score(found.loss, found.loss_standard_error, found.bits_per_byte, found.num_tokens)


def score_text(config: TrainConfig, tree: Any, tokenizer: Tokenizer, text: str) -> Score:
    """Returns what weights score on a text: every token counts, the first of all follows the end of a document.

    Raises:
      ValueError: the text is empty, or the model is none of what comes next.
    """
    from kleiber.train.data.corpora.text_file.reading import cut_text
    from kleiber.train.evaluate import cluster_standard_error, token_losses

    check_causal(config)
    documents = [document.encode() for document in cut_text(text)]
    if not any(documents):
        raise ValueError("the text is empty; expected some to score.")
    encoded = tokenizer.encode(documents)
    ids = np.concatenate([encoded[-1][-1:], *encoded])
    segments = np.repeat(np.arange(len(encoded) + 1, dtype=np.int32), [1, *map(len, encoded)])
    losses = token_losses(config, tree, ids, segments if config.data.document_attention else None)
    num_bytes = sum(len(document) + 1 for document in documents)  # with its end, as in a corpus
    error = cluster_standard_error(losses, np.arange(len(losses)) // config.model.seq_len)
    return Score(float(losses.mean()), error, float(losses.sum()) / math.log(2) / num_bytes, len(losses))


def check_causal(config: TrainConfig) -> None:
    """Raises ValueError where a run says nothing of what comes next."""
    if config.model.image:
        raise ValueError(
            f"this run is a {config.model.family} and tells labels of images, not text: `kleiber score` says how "
            "often, and `kleiber eval` without a text what it loses on its validation images."
        )
    if config.model.encoder:
        raise ValueError(
            f"this run is an {config.model.family} and makes a target of a source: `kleiber generate` does, `kleiber "
            "score` says how well, and `kleiber eval` without a text what it loses on its validation pairs."
        )
    if not config.model.is_causal:
        raise ValueError(
            f"this run is an {config.model.family} trained by '{config.objective}': it says what is hidden in a text, "
            "not what comes next. `kleiber eval` without a text scores it on its validation text."
        )


def as_draft(run: Any, draft: Any) -> Any:
    """Returns the Draft that another Run makes for one; a Draft as it is.

    Raises:
      ValueError: the tokens of the two are not the same.
    """
    from kleiber.model.decode.speculative import Draft, check_draft

    if isinstance(draft, Draft):
        return draft
    check_causal(draft.config)
    own, other = (getattr(each.tokenizer, "model", b"") for each in (run, draft))
    names = run.tokenizer.name, draft.tokenizer.name
    if names[0] != names[1] or own != other:
        why = f"{names[1]}, not {names[0]}" if names[0] != names[1] else f"another {names[0]}, learnt from other text"
        raise ValueError(f"the draft {draft.name} has tokens of {why}; take one of the same sweep.")
    check_draft(run.config.model, draft.config.model)
    return Draft(draft.config.model, draft.tree)


def prompt_ids(config: TrainConfig, tokenizer: Tokenizer, prompt: str) -> tuple[list[int], int]:
    """Returns (the tokens of a prompt, itself the beginning of a document; the token that ends one).

    Raises:
      ValueError: the run says nothing of what comes next.
    """
    check_causal(config)
    *ids, separator = tokenizer.encode([prompt.encode()])[0].tolist()
    if not (config.data.document_attention and ids):  # else no document has seen the end of the one before
        ids = [separator, *ids]
    return ids, separator


def continue_text(
    config: TrainConfig,
    tree: Any,
    tokenizer: Tokenizer,
    prompt: str,
    stops_at_end: bool = False,
    stop: Sequence[str] = (),
    **drawn: Any,
) -> str:
    """Returns text that follows a prompt, to its end at most if stops_at_end, and to the first text of stop; drawn as
    for generate."""
    from kleiber.experiments.api.writing import Writing
    from kleiber.model.decode.generate import generate

    ids, separator = prompt_ids(config, tokenizer, prompt)
    at_once = LOOK_FOR_STOPS if stop else None
    ends = (separator,) if stops_at_end else ()
    tokens = generate(config.model, tree, ids, **drawn, stops=ends, at_once=at_once)
    writing, text = Writing(tokenizer, stop), ""
    while not writing.is_over and (some := list(itertools.islice(tokens, at_once))):
        text += writing.add(some)
    return text + writing.end()


def translate_texts(run: Any, texts: Sequence[str], width: int) -> list[str]:
    """Returns what a run on pairs makes of each source. Raises ValueError: the run is on no pairs, or a source is empty
    or longer than its encoder reads."""
    from kleiber.model.decode.beam import Beam
    from kleiber.train.translations import translate

    encoder = run.config.model.encoder
    if encoder is None:
        raise ValueError(f"{run.name} is a {run.config.model.family} and makes no target of a source: use generate.")
    beam = Beam(width)
    for text, ids in zip(texts, run.tokenizer.encode([text.encode() for text in texts]), strict=True):
        if not text.strip():
            raise ValueError("the source is empty; give a text to make a target of.")
        if len(ids) > encoder.seq_len:
            raise ValueError(
                f"the source {text[:40]!r} has {len(ids) - 1} tokens and its end, and the encoder of {run.name} reads "
                f"{encoder.seq_len}; give it in shorter pieces."
            )
    return translate(run.config, run.tree, run.tokenizer, texts, beam)[0]


def export(run: Any, path: Path, form: Form) -> Path:
    """Writes the weights of a Run in a form, as Run.export says; returns the file that holds them."""
    from kleiber.experiments.config_file import to_data
    from kleiber.experiments.exchange.huggingface_folder import write_huggingface
    from kleiber.experiments.exchange.peft_folder import write_peft
    from kleiber.experiments.exchange.safetensors_file import write_safetensors
    from kleiber.train.checkpoints.checkpoint import named_leaves

    config, params = run.config, run.params
    if form == "peft":
        return write_peft(path, config, params, run.record.get("start_run") or "")
    if form == "huggingface":
        return write_huggingface(path, config, run.tree, run.tokenizer)
    if form == "merged":
        from kleiber.model.adapters.tree import merge

        model, tree = merge(config.model, run.tree)
        config = replace(config, model=model, trainable="all")
        params = {name: np.asarray(array) for name, array in named_leaves(tree).items()}
    arrays = {name.replace("/", "."): array for name, array in params.items()}
    told = {"config": json.dumps(to_data(config)), "record": json.dumps(run.record)}
    write_safetensors(path, arrays, {"format": "kleiber", **told})
    return path


def newest_checkpoint(run: Any) -> tuple[Path, int | None]:
    """Returns a checkpoint's folder and, in one of a population, which member the run is."""
    from kleiber.train.checkpoints.checkpoint import steps
    from kleiber.train.checkpoints.identity import run_identity
    from kleiber.train.checkpoints.manifest import read_manifest

    def newest(folder: Path) -> Path | None:
        found = [(step, place) for place in (folder / "checkpoints").glob("*") for step in steps(place)]
        return max(found)[1] / f"step_{max(found)[0]}" if found else None

    runs, own = run.folder.parent, run_identity([run.config])
    if place := newest(runs / run.trunk_id):
        return place, None
    for folder in runs.glob("population-*"):
        if place := newest(folder):
            members = (read_manifest(place)["identity"] or {}).get("members", [])
            if own in members:
                return place, members.index(own)
    raise FileNotFoundError(f"there is no checkpoint of {run.trunk_id} in {run.directory}.")
