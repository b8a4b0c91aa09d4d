"""What the site shows beside the pages of docs/: mkdocs calls these functions (`hooks` of mkdocs.yml; `make docs`).

A page of docs/ names a file outside by its place (`../examples/own_trainer.py`), which a code host follows; here such a
file becomes a page of its own. `<!-- verbs -->` of cli.md becomes a section a verb, made from the argument parsers, and
`<!-- api: NAME -->` of api.md the docstrings of a name; what stands between `<!-- elsewhere -->` and
`<!-- /elsewhere -->` is for a code host alone.
"""

import argparse
import ast
import importlib
import inspect
import posixpath
import re
import warnings
from pathlib import Path

import tyro
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from kleiber.experiments.cli import VERBS

HOUSE = Path(__file__).parent.parent
ROOT_PAGES = {"README.md": "readme.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the repository that are pages as they are."""
SHOWN = ("examples/*.py", "experiments/configs/[a-z]*.py")
"""Programs that are shown on a page of their own, below the docstring that says what they ask."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made of files outside docs/."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(HOUSE / name).read_text(encoding="utf-8")))
    for pattern in SHOWN:
        for path in sorted(HOUSE.glob(pattern)):
            place = path.relative_to(HOUSE).as_posix()
            file = File.generated(config, place_of(place), content=program_page(path, place))
            file.inclusion = file.inclusion.NOT_IN_NAV
            files.append(file)
    return files


def place_of(source: str) -> str:
    """Returns which page a file of the repository is on, or "" if it is on none."""
    if any(Path(source).match(pattern) for pattern in SHOWN):
        return f"programs/{Path(source).stem}.md"
    return ROOT_PAGES.get(source, source.removeprefix("docs/") if source.startswith("docs/") else "")


def program_page(path: Path, place: str) -> str:
    """Returns the page of a program."""
    text = path.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text)) or ""
    return f'# {path.name}\n\n{said.splitlines()[0]}\n\n```python title="{place}"\n{text}```\n'


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the page with what is made from the source in it, and links that stay within the site."""
    if page.file.src_uri == "cli.md":
        markdown = markdown.replace("<!-- verbs -->", "\n".join(map(verb_section, VERBS)))
    markdown = re.sub(r"(?s)<!-- elsewhere -->.*?<!-- /elsewhere -->\n*", "", markdown)
    markdown = re.sub(r"`[^`\n]*`", lambda code: code[0].replace("\\|", "|"), markdown)  # needed there, shown here
    markdown = re.sub("<!-- api: (.+?) -->", r"\n::: \1\n", markdown)
    root = "" if page.file.src_uri in ROOT_PAGES.values() else "docs/"
    here = posixpath.dirname(page.file.src_uri)

    def within(link: re.Match[str]) -> str:
        path, hash_, anchor = link[1].partition("#")
        source = posixpath.normpath(posixpath.join(root, here, path))
        target = place_of(source)
        return f"]({posixpath.relpath(target, here or '.')}{hash_}{anchor})" if target else link[0]

    return re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", within, markdown)


def verb_section(verb: str) -> str:
    """Returns a verb's help as a section: what it does, an example, and its options as a table."""
    command = importlib.import_module(f"kleiber.experiments.commands.{verb}")
    text, _, after = re.split("(?m)^[Ee]xample(s?):", inspect.getdoc(command) or "", maxsplit=1)
    example = re.sub(r"\n +(?!kleiber)| *\n(?! *kleiber)", " ", after).strip().replace("\n  ", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(command.Options, prog=f"kleiber {verb}")
    rows = "".join(map(option_row, parser._actions[1:]))  # the first is --help
    return f"## kleiber {verb}\n\n{text.strip()}\n\n```sh\n{example}\n```\n\n| option | |\n|---|---|\n{rows}\n"


def option_row(action: argparse.Action) -> str:
    """Returns an option as a row of a table."""
    value = "" if action.nargs == 0 else f" {action.metavar}".replace("{None}|", "")
    words = [f"{word}{value}" for word in action.option_strings] or [value.strip()]
    shown = "<br>".join(f"`{word}`" for word in words)
    said = " ".join((action.help or "").split())
    for mark in "\\|*_<[":
        said = said.replace(mark, f"\\{mark}")
    return f"| {shown} | {said} |\n"
