"""Paragraphs of LibreOffice's help in English and Chinese, joined by page and number, of two Debian packages."""

import io
import tarfile
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

from kleiber.train.data.corpora.pairs.aligned import Pair, PairCorpus, clean

FOLDER = "usr/share/libreoffice/help"
FOLDERS = ("en-US", "zh-CN")
LANGUAGES = ("en", "zh")
BLOCKS = ("p", "h1", "h2", "h3", "h4", "h5", "h6")


class Paragraphs(HTMLParser):
    """The texts of a page by the id of their paragraph or heading."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes where a paragraph begins."""
        name = dict(attrs).get("id") or ""
        if tag in BLOCKS and name.startswith(("par_id", "hd_id")) and name not in self.texts:
            self._open, self.texts[name] = name, ""

    def handle_endtag(self, tag: str) -> None:
        """Notes where one ends."""
        if tag in BLOCKS:
            self._open = ""

    def handle_data(self, data: str) -> None:
        """Adds to the open one."""
        if self._open:
            self.texts[self._open] += data


def read_office_help(packages: Sequence[Path]) -> PairCorpus:
    """Returns the paragraphs that both packages hold and that are translated, a page a document.

    Args:
      packages: the .deb of each of FOLDERS.
    """
    pages = [_pages(path, folder) for path, folder in zip(packages, FOLDERS, strict=True)]
    pairs = []
    for name in sorted(pages[0].keys() & pages[1].keys()):
        sources, targets = (_texts(each[name]) for each in pages)
        both = ((source, targets.get(place, "")) for place, source in sources.items())
        pairs += [Pair(source, target, name) for source, target in both if source and target and source != target]
    return PairCorpus(pairs, LANGUAGES)


def _texts(page: bytes) -> dict[str, str]:
    parser = Paragraphs()
    parser.feed(page.decode("utf-8"))
    parser.close()
    return {place: clean(text) for place, text in parser.texts.items()}


def _pages(package: Path, folder: str) -> dict[str, bytes]:
    """Returns the pages of a package by their name in its folder. Raises ValueError if there are none."""
    with tarfile.open(fileobj=io.BytesIO(_data(package))) as archive:
        start = f"./{FOLDER}/{folder}/"
        members = [m for m in archive if m.isfile() and m.name.startswith(start) and m.name.endswith(".html")]
        found = {member.name.removeprefix(start): _content(archive, member) for member in members}
    if not found:
        raise ValueError(f"{package} holds no pages in {FOLDER}/{folder}: it is another package, or another layout.")
    return found


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "a file, not a folder"
    return file.read()


def _data(package: Path) -> bytes:
    """Returns the archive of files of a Debian package, which is an `ar` archive itself. Raises ValueError if it is
    none."""
    content, place = package.read_bytes(), 8
    while content.startswith(b"!<arch>\n") and place + 60 <= len(content):
        head = content[place : place + 60]
        name, size = head[:16].strip().rstrip(b"/"), int(head[48:58])
        if name.startswith(b"data.tar"):
            return content[place + 60 : place + 60 + size]
        place += 60 + size + size % 2
    raise ValueError(f"{package} is no Debian package; delete it and prepare again.")
