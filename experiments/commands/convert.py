"""Reads a folder of weights as transformers writes it (config.json, model.safetensors) into a run of kleiber's, which
eval, generate and export take, and which other runs begin with.

example: kleiber convert smollm-135m --out out/smollm && kleiber eval out/smollm --text notes.txt
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE
from kleiber.experiments.terminal import working


@dataclass(frozen=True)
class Options:
    """Options of `kleiber convert`."""

    folder: tyro.conf.Positional[Path]
    """As save_pretrained writes it; nothing is fetched."""
    out: Path
    """Folder of the run, made here."""
    seq_len: int | None = None
    """Context in tokens, where it should be less than the folder's: generating reserves all of it."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Writes the run; returns 0."""
    from kleiber.experiments.api.runs import load
    from kleiber.experiments.exchange.converted_run import convert
    from kleiber.train.data.tokenizers import KNOWN, UNKNOWN

    if options.seq_len is not None and options.seq_len < 1:
        raise ValueError(f"--seq-len {options.seq_len}, expected 1 or more.")
    with working(f"reading {options.folder}"):
        found = convert(options.folder, options.out, options.seq_len)
    config, record = load(options.out).config, load(options.out).record
    tokenizer = None if config.data.tokenizer == UNKNOWN else config.data.tokenizer
    told = {"run": record["run_id"], "architecture": found.architecture.name, "tokenizer": tokenizer}
    if options.json:
        counts = {"num_params_total": record["num_params_total"], "seq_len": config.model.seq_len}
        print(json.dumps(told | counts | {"written": str(options.out)}, indent=1))
        return EXIT_DONE
    of = (
        f"tokenizer {tokenizer}" if tokenizer else f"its tokenizer is none of kleiber's ({KNOWN}): token ids alone work"
    )
    print(f"{options.out}: {told['architecture']}, {record['num_params_total']:,} parameters, {of}")
    return EXIT_DONE
