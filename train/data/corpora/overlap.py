"""How much of a held-out text also stands in the training text, measured on every window of 64 bytes."""

from collections.abc import Iterable, Mapping

import numpy as np

WINDOW_BYTES = 64
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplying loses nothing modulo 2^64
FILTER_BITS = 25
CHUNK_BYTES = 1 << 18  # eight bytes of hash for each byte of text, and a chunk of them should fit in the cache


def window_hashes(documents: list[bytes]) -> np.ndarray:
    """Returns a hash, uint64 [windows], of every window of WINDOW_BYTES that lies inside one of the UTF-8 documents.

    Two different windows share a 64-bit hash with a chance of about 5e-20, so counting hashes counts windows."""
    long_enough = [document for document in documents if len(document) >= WINDOW_BYTES]
    if not long_enough:
        return np.zeros(0, np.uint64)
    hashes = np.frombuffer(b"".join(long_enough), np.uint8).astype(np.uint64) + np.uint64(1)
    width, factor = 1, MULTIPLIER
    with np.errstate(over="ignore"):
        while width < WINDOW_BYTES:  # the hash of two neighbours of equal width gives that of their union
            hashes = hashes[:-width] * factor + hashes[width:]
            factor = factor * factor
            width *= 2
    lengths = np.array([len(document) for document in long_enough])
    ends = np.repeat(np.cumsum(lengths), lengths)[: len(hashes)]
    return hashes[np.arange(len(hashes)) + WINDOW_BYTES <= ends]


def overlap_fractions(
    training: Iterable[list[bytes]], held_out: Mapping[str, Iterable[list[bytes]]]
) -> dict[str, float]:
    """Returns, for each held-out split, the fraction of its windows that also occur in a training document. The lists
    of training documents are read once; the hashes of the held-out ones are kept in memory."""
    nothing = [np.zeros(0, np.uint64)]
    by_split = {
        split: np.concatenate(nothing + [window_hashes(documents) for documents in chunks(lists)])
        for split, lists in held_out.items()
    }
    wanted = np.sort(np.concatenate(nothing + list(by_split.values())))
    wanted = wanted[np.diff(wanted, prepend=~wanted[:1]) != 0]  # np.unique takes ten times longer here
    if not len(wanted):
        return dict.fromkeys(by_split, 0.0)
    shift = np.uint64(64 - FILTER_BITS)
    is_candidate = np.zeros(1 << FILTER_BITS, bool)  # lets most training windows go before the search
    is_candidate[wanted >> shift] = True
    is_found = np.zeros(len(wanted), bool)
    for documents in chunks(training):
        hashes = window_hashes(documents)
        hashes = np.sort(hashes[is_candidate[hashes >> shift]])  # sorted, the search walks instead of jumping
        place = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        is_found[place[wanted[place] == hashes]] = True
    found = {split: is_found[np.searchsorted(wanted, hashes)] for split, hashes in by_split.items()}
    return {split: float(flags.mean()) if len(flags) else 0.0 for split, flags in found.items()}


def chunks(lists: Iterable[list[bytes]]) -> Iterable[list[bytes]]:
    """Yields the same documents in lists of about CHUNK_BYTES."""
    gathered: list[bytes] = []
    num_bytes = 0
    for documents in lists:
        gathered += documents
        num_bytes += sum(map(len, documents))
        if num_bytes >= CHUNK_BYTES:
            yield gathered
            gathered, num_bytes = [], 0
    if gathered:
        yield gathered
