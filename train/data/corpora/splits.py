"""Which documents are held out, decided by hashes so that it never depends on order, machine or run."""

import hashlib


def hash_percentile(text: str) -> int:
    """Returns an integer from 0 to 99 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % 100


def smallest_hashes(documents: list[str], fraction: float) -> set[str]:
    """Returns those of distinct documents that have the smallest SHA-256 and together reach a fraction of all bytes, at
    least one. Unlike a threshold on the hash, this keeps the fraction even when the documents are few."""
    target_bytes = fraction * sum(len(document.encode()) for document in documents)
    chosen: set[str] = set()
    chosen_bytes = 0
    for document in sorted(documents, key=lambda text: hashlib.sha256(text.encode()).digest()):
        if chosen and chosen_bytes >= target_bytes:
            break
        chosen.add(document)
        chosen_bytes += len(document.encode())
    return chosen
