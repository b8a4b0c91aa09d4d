"""Ukrainian sentences and their corrections: the UA-GEC corpus (Syvokon et al. 2023, arXiv:2103.16997), of a wheel."""

import zipfile
from pathlib import Path

from kleiber.train.data.corpora.pairs.aligned import Pair, PairCorpus, clean

FOLDER = "ua_gec/data/gec-fluency"
"""Corrections of grammar and of style."""


def read_ua_gec(wheel: Path) -> PairCorpus:
    """Returns the sentences of the wheel with what annotators made of them; where two corrected a document of the
    official test, what the first made. Raises ValueError: the lines of a document do not go together."""
    pairs, test = [], set()
    with zipfile.ZipFile(wheel) as archive:
        files = sorted(name for name in archive.namelist() if f"{FOLDER}/" in name and "/target-sentences/" in name)
        for name in files:
            part, (document, annotator) = name.split("/")[3], Path(name).name.split(".")[:2]
            if part == "test":
                test.add(document)
                if annotator != "a1":
                    continue
            sources, targets = (
                archive.read(each).decode().split("\n")
                for each in (f"{FOLDER}/{part}/source-sentences/{document}.src.txt", name)
            )
            if len(sources) != len(targets):
                raise ValueError(f"{name} of {wheel} has {len(targets)} lines, its source has {len(sources)}.")
            both = ((clean(source), clean(target)) for source, target in zip(sources, targets, strict=True))
            pairs += [Pair(source, target, document) for source, target in both if source and target]
    return PairCorpus(pairs, ("uk", "uk"), frozenset(test))
