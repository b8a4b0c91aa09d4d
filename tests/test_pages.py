"""Claims about the pages: links lead somewhere on a code host too, and what is typed in them exists.

`make docs` checks the same of the site that is built of them; this needs none of its packages.
"""

import importlib
import re
import warnings
from functools import cache
from pathlib import Path

import pytest
import tyro

from kleiber.experiments.cli import VERBS

HOUSE = Path(__file__).parent.parent
DOCS = HOUSE / "docs"
PAGES = sorted([*HOUSE.glob("*.md"), *DOCS.rglob("*.md")])
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]*)\)")


def prose(page: Path) -> str:
    """Returns a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as code hosts and mkdocs name them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def broken(page: Path, link: str) -> bool:
    """Returns whether a link of a page leads nowhere."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return not target.is_file() or bool(anchor and anchor not in anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(HOUSE).as_posix())
def test_links_lead_to_files_and_headings_of_the_repository(page):
    assert not [link for link in LINK.findall(prose(page)) if broken(page, link)]


def test_a_link_that_leads_nowhere_is_seen():
    page = DOCS / "index.md"
    assert not broken(page, "truth.md") and not broken(page, "quickstart.md#which-law")
    assert broken(page, "truths.md") and broken(page, "quickstart.md#which-laws") and broken(page, "#no-such-heading")


def test_every_page_and_figure_is_reached():
    nav = (HOUSE / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [page for page in DOCS.rglob("*.md") if page.relative_to(DOCS).as_posix() not in nav]
    shown = {(page.parent / link).resolve() for page in PAGES for link in LINK.findall(prose(page))}
    assert {path for path in DOCS.rglob("*") if path.suffix in {".png", ".svg"}} <= shown


def typed(page: Path) -> list[str]:
    """Returns the command lines of kleiber in the blocks of a page."""
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [re.split(r"\s#\s|[|>;]|&&", line)[0] for block in blocks for line in block.splitlines()]
    return [found[0] for line in lines if (found := re.search(r"(?:^|\$ )kleiber .*", line))]


@cache
def options(verb: str) -> set[str]:
    """Returns the options of a verb."""
    command = importlib.import_module(f"kleiber.experiments.commands.{verb}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(command.Options)
    return {word for action in parser._actions for word in action.option_strings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(HOUSE).as_posix())
def test_verbs_and_options_that_a_page_types_exist(page):
    for line in typed(page):
        verb, *words = line.split("kleiber ", 1)[1].split()
        if not verb.startswith("-") and verb != "VERB":
            assert verb in VERBS, line
            given = {word.split("=")[0] for word in words if word.startswith("--")}
            assert not given - options(verb), line
