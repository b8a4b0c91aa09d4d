"""Claims about what `pip install` brings: which files, under which name, and which extras."""

import re
import runpy
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

HOUSE = Path(__file__).parent.parent
ROOMS = ("experiments", "train", "scaling", "model", "parallel")


@pytest.fixture
def setup(monkeypatch) -> dict[str, Any]:
    """Returns what setup.py tells setuptools, which need not be installed."""
    told: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "setuptools", SimpleNamespace(setup=told.update))
    runpy.run_path(str(HOUSE / "setup.py"))
    return told


def installed_files(setup: dict[str, Any]) -> set[str]:
    """Returns the files, below the house, of the packages and patterns of setup.py, by the rules of setuptools."""
    files: set[Path] = set()
    for package in setup["packages"]:
        _, room, *folders = [*package.split("."), ""] if package == "kleiber" else package.split(".")
        folder = HOUSE / setup["package_dir"][f"kleiber.{room}" if room else "kleiber"] / "/".join(folders)
        files |= {*folder.glob("*.py")}
        files |= {path for pattern in setup["package_data"].get(package, ()) for path in folder.glob(pattern)}
    return {path.relative_to(HOUSE).as_posix() for path in files}


def test_an_installation_holds_every_file_of_the_rooms(setup):
    places = [*(HOUSE / "kleiber").glob("*"), *(path for room in ROOMS for path in (HOUSE / room).rglob("*"))]
    files = [path.relative_to(HOUSE) for path in places if path.is_file()]
    held = {path.as_posix() for path in files if path.parent.name != "__pycache__"}
    assert len(held) > 300 and held <= installed_files(setup), "say it in package_data of setup.py"


def test_an_installation_brings_one_name_and_no_other(setup):
    assert {package.split(".")[0] for package in setup["packages"]} == {"kleiber"}
    assert set(setup["package_dir"]) == {"kleiber", *(f"kleiber.{room}" for room in ROOMS)}


def test_every_extra_that_a_page_or_message_names_is_there(setup):
    pages = [HOUSE / "README.md", *(HOUSE / "docs").glob("*.md"), *(HOUSE / "examples").glob("*")]
    pages += [path for room in ROOMS for path in (HOUSE / room).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages if path.is_file())
    named = {name for group in re.findall(r"\bkleiber\[([a-z0-9, ]+)\]", text) for name in re.split(", *", group)}
    assert {"slurm", "ray", "prune"} <= named <= set(setup["extras_require"])


def test_the_metadata_name_the_python_versions_that_are_taken():
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    versions = [name.rpartition(" ")[2] for name in project["classifiers"] if "Python :: 3." in name]
    assert project["requires-python"] == f">={versions[0]}" and versions == sorted(versions)
    assert project["license"] == "Apache-2.0" and "Apache License" in (HOUSE / "LICENSE").read_text()[:300]


def test_what_a_package_index_shows_links_to_no_file_and_keeps_the_words(setup):
    shown, project = setup["long_description"], tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["optional-dependencies", "readme"] and "readme" not in project
    assert setup["long_description_content_type"] == "text/markdown"
    assert not [target for target in re.findall(r"\]\(([^)]*)\)", shown) if not target.startswith("https:")]
    assert "![" not in shown and "The figure" not in shown
    assert "Tutorials (docs/tutorials/index.md) to type along with" in shown and "(docs/truth.md)." in shown
    blocks = [text.split("```")[1::2] for text in (shown, (HOUSE / "README.md").read_text(encoding="utf-8"))]
    assert blocks[0] == blocks[1] and len(blocks[0]) > 4
