"""Token files: the encoded splits of a corpus as flat arrays, written once, checked whenever they are opened.

`<corpus folder>/tokens/<tokenizer>/` holds, for each split, `<split>.tokens.npy` (uint8 or uint16, documents one
after another in the corpus's stored order, each ended by a separator), `<split>.offsets.npy` (int64, the position of
each document, and the total), `<split>.groups.npy` (int32, the group of each document), and `tokens.json` with the
digest of every file. Loading needs numpy only.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from kleiber.files import read_json, write_json
from kleiber.train.data.cache import build_folder
from kleiber.train.data.corpora.prepared import read_corpus_manifest, read_split
from kleiber.train.data.tokenizers import Tokenizer, prepare_tokenizer

TOKENS_FORMAT = 1
_verified: dict[tuple[str, int, int], str] = {}  # (path, size, modification time) -> digest, within this process


@dataclass(frozen=True, eq=False)
class TokenFile:
    """One encoded split, memory-mapped."""

    tokens: np.ndarray
    """uint8 or uint16 [tokens]."""
    offsets: np.ndarray
    """int64 [documents + 1], position of each document's first token, and the total."""
    groups: np.ndarray
    """int32 [documents], which group a document belongs to."""
    tokenizer: str
    vocab_size: int
    num_text_bytes: int
    """UTF-8 bytes of the text, each separator counted as one."""
    fingerprint: str
    """Corpus, tokenizer, and a digest of the text of all splits: equal only for equal data."""


def tokens_folder(folder: Path, tokenizer: str) -> Path:
    """Returns where the token files of a corpus folder and a tokenizer are."""
    return folder / "tokens" / tokenizer.replace(":", "-")


def has_tokens(folder: Path, tokenizer: str) -> bool:
    """Returns whether the token files are whole: their tokens.json is written last."""
    return (tokens_folder(folder, tokenizer) / "tokens.json").is_file()


def prepare_tokens(folder: Path, tokenizer: str, report: Callable[[str], None] = print) -> None:
    """Encodes every split of a prepared corpus, unless that has been done. Raises ValueError if the tokenizer's name is
    wrong, or the corpus is damaged."""
    if has_tokens(folder, tokenizer):
        return
    manifest = read_corpus_manifest(folder)

    def training_documents() -> Iterator[bytes]:
        for _, documents in read_split(folder, manifest, "train"):
            yield from documents

    def build(partial: Path) -> None:
        report(f"{manifest['corpus']}: encoding as {tokenizer}")
        encoder = prepare_tokenizer(folder, tokenizer, training_documents())
        described: dict[str, Any] = {
            "format": TOKENS_FORMAT,
            "tokenizer": tokenizer,
            "vocab_size": encoder.vocab_size,
            "fingerprint": fingerprint(folder, manifest, tokenizer),
            "splits": {split: write_split(folder, manifest, split, encoder, partial) for split in manifest["splits"]},
        }
        write_json(partial / "tokens.json", described)

    build_folder(tokens_folder(folder, tokenizer), lambda place: (place / "tokens.json").is_file(), build)


def fingerprint(folder: Path, manifest: dict[str, Any], tokenizer: str) -> str:
    """Returns kind of corpus, tokenizer and a digest of the text of all splits and of the tokenizer's model."""
    digest = hashlib.sha256(f"format {TOKENS_FORMAT} {tokenizer}\n".encode())
    for split, measured in sorted(manifest["splits"].items()):
        digest.update(f"{split} {measured['sha256']}\n".encode())
    if tokenizer != "bytes":
        digest.update((folder / "tokenizers" / tokenizer.replace(":", "-") / "tokenizer.model").read_bytes())
    kind = manifest["corpus"].partition(":")[0]  # not the file's name: the same text elsewhere is the same data
    return f"{kind}/{tokenizer}/{digest.hexdigest()[:16]}"


def write_split(folder: Path, manifest: dict[str, Any], split: str, encoder: Tokenizer, into: Path) -> dict[str, Any]:
    """Writes the three arrays of a split and returns their description. Raises ValueError if the text read is not the
    text of the manifest."""
    dtype = np.dtype(np.uint8 if encoder.vocab_size <= 256 else np.uint16)
    digest = hashlib.sha256()
    lengths = [np.zeros(1, np.int64)]  # an array a record, because a list of numbers takes five times the memory
    groups: list[np.ndarray] = []
    numbers: dict[str, int] = {}
    num_groups = num_text_bytes = 0
    path = into / f"{split}.tokens.npy"
    with path.open("wb") as file:
        write_header(file, dtype, 0)
        for group, documents in read_split(folder, manifest, split):
            text = b"\n".join(documents) + b"\n"
            digest.update(text)
            num_text_bytes += len(text)
            encoded = encoder.encode(documents)
            file.write(np.concatenate(encoded).astype(dtype, copy=False).tobytes())
            lengths.append(np.array([len(ids) for ids in encoded]))
            if group:
                number = numbers.setdefault(group, num_groups)
                groups.append(np.full(len(encoded), number))
                num_groups = max(num_groups, number + 1)
            else:  # each document is a group of its own
                groups.append(np.arange(num_groups, num_groups + len(encoded)))
                num_groups += len(encoded)
        offsets = np.cumsum(np.concatenate(lengths))
        file.seek(0)
        write_header(file, dtype, int(offsets[-1]))
    if digest.hexdigest() != manifest["splits"][split]["sha256"]:
        raise ValueError(
            f"the records of split '{split}' in {folder} are damaged: delete that folder and prepare again."
        )
    np.save(into / f"{split}.offsets.npy", offsets)
    np.save(into / f"{split}.groups.npy", np.concatenate(groups).astype(np.int32))
    files = [into / f"{split}.{part}.npy" for part in ("tokens", "offsets", "groups")]
    return {
        "num_tokens": int(offsets[-1]),
        "num_documents": len(offsets) - 1,
        "num_text_bytes": num_text_bytes,
        "blake3": {file.name: blake3().update_mmap(file).hexdigest() for file in files},
    }


def write_header(file: Any, dtype: np.dtype, length: int) -> None:
    """Writes the header of a flat .npy array. numpy pads it for growth, so the final one fits over the first."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, described)


def open_token_file(folder: Path, tokenizer: str, split: str) -> TokenFile:
    """Returns an encoded split after every file was checked against its digest. Raises ValueError if a file is missing
    or damaged, or there is no such split."""
    home = tokens_folder(folder, tokenizer)
    try:
        described = read_json(home / "tokens.json", "format")
        if described["format"] != TOKENS_FORMAT:
            raise ValueError(f"format {described['format']}, expected {TOKENS_FORMAT}")
        if lost := {"splits", "tokenizer", "vocab_size", "fingerprint"} - described.keys():
            raise ValueError(f"it has no {min(lost)}")
    except (OSError, ValueError) as mistake:
        raise ValueError(f"{home / 'tokens.json'} is damaged ({mistake}); delete {home} and prepare again.") from None
    if split not in described["splits"]:
        raise ValueError(f"this corpus has no split '{split}', only {', '.join(described['splits'])}.")
    measured = described["splits"][split]
    tokens, offsets, groups = (load_verified(home / name, digest) for name, digest in measured["blake3"].items())
    return TokenFile(
        tokens=tokens,
        offsets=offsets,
        groups=groups,
        tokenizer=described["tokenizer"],
        vocab_size=described["vocab_size"],
        num_text_bytes=measured["num_text_bytes"],
        fingerprint=described["fingerprint"],
    )


def load_verified(path: Path, digest: str) -> np.ndarray:
    """Returns a memory-mapped array whose file has the given BLAKE3 digest. Raises ValueError if the file is missing or
    differs.

    A file already checked by this process is not read again while its size and modification time stay the same.
    """
    remedy = f"delete {path.parent} and run `kleiber data prepare` again (it is made from the prepared corpus)"
    if not path.is_file():
        raise ValueError(f"{path} is missing; {remedy}.")
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key not in _verified:
        _verified[key] = blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
    if _verified[key] != digest:
        raise ValueError(f"{path} is damaged: BLAKE3 {_verified[key][:16]}..., expected {digest[:16]}...; {remedy}.")
    return np.load(path, mmap_mode="r", allow_pickle=False)
