"""Documents of a corpus as TFDS records: a record holds some documents of one group, in their own order.

TFDS costs about 0.1 ms a record, so a record of one short string would make a corpus of 90,000 strings take 15 s
to write and read. TFDS stores the records in an order given by a hash of their key; that order is the packing order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCUMENTS_PER_RECORD = 64
RECORDS_PER_READ = 256


@dataclass(frozen=True)
class Group:
    """Documents that belong together and therefore stand on one side of a split."""

    name: str
    """Such as the service they describe; empty if every document stands alone."""
    documents: tuple[str, ...]


def record_features() -> Any:
    """Returns the tfds features of a record: a group name and its documents."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {"group": tfds.features.Text(), "documents": tfds.features.Sequence(tfds.features.Text())}
    )


def records(groups: Iterable[Group]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (key, record) for a TFDS builder, at most DOCUMENTS_PER_RECORD documents a record."""
    for position, group in enumerate(groups):
        for start in range(0, len(group.documents), DOCUMENTS_PER_RECORD):
            part = list(group.documents[start : start + DOCUMENTS_PER_RECORD])
            yield f"{position}:{group.name}:{start}", {"group": group.name, "documents": part}


def read_groups(folder: Path, split: str) -> Iterator[tuple[str, list[bytes]]]:
    """Yields (group, UTF-8 documents) of each record of a split of a prepared TFDS folder, in the stored order. Raises
    ValueError if the files are damaged; ArrayRecord keeps a hash of every chunk."""
    import tensorflow_datasets as tfds

    try:
        source = tfds.builder_from_directory(folder).as_data_source(split=split)
        for start in range(0, len(source), RECORDS_PER_READ):  # in slices: one at a time is ten times slower
            for record in source.__getitems__(range(start, min(start + RECORDS_PER_READ, len(source)))):
                yield record["group"].decode(), list(record["documents"])
    except (RuntimeError, FileNotFoundError, ValueError, TypeError, IndexError) as mistake:
        raise ValueError(
            f"the records of split '{split}' in {folder} are damaged ({mistake}); delete that corpus and prepare again."
        ) from None
