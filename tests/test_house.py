"""Claims about the house itself: who may import whom, what stays light, what is never used, and what is committed."""

import ast
import dataclasses
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kleiber.experiments.cli import VERBS

HOUSE = Path(__file__).parent.parent
ROOMS = ("parallel", "model", "train", "scaling", "experiments")
# Imports point one way: experiments -> train, scaling -> model -> parallel.
MAY_IMPORT = {
    "parallel": {"parallel"},
    "model": {"model", "parallel"},
    "train": {"train", "model", "parallel"},
    "scaling": {"scaling", "model", "parallel"},
    # The commands call what kleiber/ offers in Python (fits.py, runs.py), which stands on the rooms below them.
    "experiments": {*ROOMS, "fits", "runs"},
}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "grain"}
# Whatever of these can turn a file into running code. (numpy.load is looked at by its argument.)
RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
MAX_LINES = 400


@cache
def room_files() -> tuple[Path, ...]:
    """Returns every Python file of the rooms."""
    return tuple(sorted(path for room in ROOMS for path in (HOUSE / room).rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    """Returns the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def room_of(path: Path) -> str:
    """Returns the room that a file is in."""
    return path.relative_to(HOUSE).parts[0]


def module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes that run on import: not the bodies of functions, nor blocks for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from module_level(child)


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yields the full names that the import statements among the nodes bring in."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import by full name, kleiber.<room>.<file>"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def rooms_imported(path: Path) -> set[str]:
    """Returns the rooms that a file imports anywhere, functions and type-checking blocks included."""
    names = [name.split(".") for name in imports(ast.walk(tree_of(path)))]
    return {name[1] for name in names if name[0] == "kleiber" and len(name) > 1}


def loaded_by(line: str, *watched: str) -> set[str]:
    """Returns which of the watched packages a fresh interpreter has loaded after running a line of Python."""
    code = f"{line}\nimport sys\nprint('loaded:', *{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOUSE, check=True)
    return set(result.stdout.rpartition("loaded:")[2].split()) & set(watched)


def tracked_files() -> list[Path]:
    """Returns the files that git holds, or, in a copy without git, the files of the rooms and tests."""
    listing = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=HOUSE)
    if listing.returncode:
        return [*room_files(), *(HOUSE / "tests").glob("*.py"), *HOUSE.glob("*.*")]
    return [path for path in (HOUSE / name for name in listing.stdout.split("\0") if name) if path.is_file()]


def test_every_folder_with_python_files_is_a_package():
    bare = {path.parent for path in room_files() if not (path.parent / "__init__.py").exists()}
    assert not bare, f"without __init__.py setup.py would leave these out of an installation: {sorted(bare)}"


def test_tests_are_no_package():
    assert not list((HOUSE / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    wrong = {
        f"{path.relative_to(HOUSE)} imports {sorted(forbidden)}"
        for path in room_files()
        if room_of(path) == room and (forbidden := rooms_imported(path) - MAY_IMPORT[room])
    }
    assert not wrong


def test_rooms_are_imported_under_the_name_kleiber():
    bare = {
        f"{path.relative_to(HOUSE)}: {name}"
        for path in room_files()
        for name in imports(ast.walk(tree_of(path)))
        if name.split(".")[0] in ROOMS
    }
    assert not bare


def test_no_import_cycles_at_module_level():
    names = {"kleiber." + ".".join(path.relative_to(HOUSE).with_suffix("").parts): path for path in room_files()}
    wants = {
        name: {
            wanted
            for found in imports(module_level(tree_of(path)))
            for wanted in (found, found.rpartition(".")[0])
            if wanted in names and wanted != name
        }
        for name, path in names.items()
    }
    while leaves := {name for name, wanted in wants.items() if not wanted}:
        wants = {name: wanted - leaves for name, wanted in wants.items() if name not in leaves}
    assert not wants, f"these import each other in a circle, or import one that does: {sorted(wants)}"


def test_scaling_imports_no_jax_and_no_training():
    wrong = {
        f"{path.relative_to(HOUSE)}: {name}"
        for path in room_files()
        if room_of(path) == "scaling"
        for name in imports(module_level(tree_of(path)))
        if name.split(".")[0] in JAX or name.startswith(("kleiber.train", "kleiber.experiments"))
    }
    assert not wrong


def test_configs_load_without_jax():
    line = "import kleiber.model.config, kleiber.train.config, kleiber.parallel.config, kleiber.experiments.experiment"
    assert loaded_by(line, *JAX, "tensorflow_datasets", "matplotlib") == set()


def test_help_loads_neither_jax_nor_numpy():
    line = "from kleiber.experiments.cli import main\nassert main(['--help']) == 0"
    assert loaded_by(line, *JAX, "numpy", "tyro", "rich", "matplotlib") == set()


def test_an_unknown_verb_names_the_nearest_and_exits_2():
    line = "from kleiber.experiments.cli import main; raise SystemExit(main(['swep']))"
    result = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True)
    assert result.returncode == 2 and "did you mean 'sweep'" in result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_options_a_run_function_and_an_example(verb):
    command = importlib.import_module(f"kleiber.experiments.commands.{verb}")
    assert dataclasses.is_dataclass(command.Options) and callable(command.run)
    assert re.search(rf"\bkleiber {verb}\b", command.__doc__ or ""), "the docstring is the help: show an example in it"


def test_no_verb_file_is_left_out_of_the_help():
    files = {path.stem for path in (HOUSE / "experiments" / "commands").glob("[!_]*.py")}
    verbs = {stem for stem in files if hasattr(importlib.import_module(f"kleiber.experiments.commands.{stem}"), "run")}
    assert verbs <= set(VERBS)


def test_no_code_is_run_from_data():
    wrong = []
    for path in room_files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                wrong += [(path, name) for name in imports(iter([node])) if name.split(".")[0] in RUNS_CODE]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                unsafe = called in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
                pickled = any(
                    word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords
                )
                wrong += [(path, ast.unparse(node))] if unsafe or pickled else []
    assert not wrong


def test_files_stay_short_enough_to_read_at_once():
    long = {str(path.relative_to(HOUSE)): lines for path in room_files() if (lines := line_count(path)) > MAX_LINES}
    assert not long, f"look for the missing noun: {long}"


def line_count(path: Path) -> int:
    """Returns the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def test_committed_text_names_no_machine():
    # Home folders, file addresses, and where one machine takes its packages from. `/tmp` may stand in an example.
    somewhere = re.compile(
        r"(?<![\w.])/(?:home|root|Users|work|opt)/[\w.]+|file://|(?<!emit-)(?:index-url|find-links)|pypi\.|pythonhosted"
    )
    found = {
        f"{path.relative_to(HOUSE)}: {match.group()}"
        for path in tracked_files()
        if path.suffix in {".py", ".toml", ".txt", ".md", ".cfg", ".json", ".yml", ".yaml", ""}
        and path != Path(__file__)
        and (match := somewhere.search(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert not found


def test_nothing_made_by_a_run_is_committed():
    made = re.compile(
        r"(^|/)(\.venv|__pycache__|out|build|\.[a-z]+_cache|[^/]+\.egg-info)/|\.(pyc|whl|so|array_record|npy)$"
    )
    assert not [str(path) for path in tracked_files() if made.search(path.relative_to(HOUSE).as_posix())]


def test_nothing_large_is_committed():
    large = {
        str(path.relative_to(HOUSE)): size for path in tracked_files() if (size := path.stat().st_size) > 1_000_000
    }
    assert not large


def test_every_pin_is_exact_and_each_direct_dependency_has_one():
    pins = [line.split(";")[0].strip() for line in (HOUSE / "constraints.txt").read_text().splitlines()]
    pins = [pin for pin in pins if pin and not pin.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.]+", pin) for pin in pins)
    wanted = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=\[; ]", name)[0].lower().replace("_", "-") for name in wanted}
    assert names <= {pin.split("==")[0] for pin in pins}
