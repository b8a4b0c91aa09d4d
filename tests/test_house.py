"""Claims about the house itself: who may import whom, what stays light, what is never used, and what is committed."""

import ast
import dataclasses
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kleiber.experiments.cli import VERBS
from kleiber.moved import moved

HOUSE = Path(__file__).parent.parent
ROOMS = ("experiments", "train", "scaling", "model", "parallel")
LOOSE = {
    "experiments": {
        "arguments", "cli", "config_file", "exit_codes", "experiment", "gate", "presets", "terminal"
    },
    "scaling": {"law"},
}  # fmt: skip
"""All that may lie in these two rooms beside their folders: where there is more, one no longer sees what they hold."""
FLOOR = {"kleiber.files", "kleiber.fields", "kleiber.collector"}
"""What lies in kleiber/ itself for every room to use. The rest there is for users, who stand above all rooms."""
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


@cache
def imported_files(house: Path = HOUSE) -> dict[Path, set[Path]]:
    """Returns what each file of kleiber/ and the rooms imports of them, in functions and for type checkers too.

    Paths are relative to the house. A package's own file stands for its folder.
    """
    places = [*(house / "kleiber").glob("*.py"), *(path for room in ROOMS for path in (house / room).rglob("*.py"))]
    files = [path.relative_to(house) for path in places]
    by_name = {name_of(path): path for path in files}
    found: dict[Path, set[Path]] = {}
    for path in files:
        names = imports(ast.walk(tree_of(house / path)))
        whole = (name if name in by_name else name.rpartition(".")[0] for name in names)
        found[path] = {by_name[name] for name in whole if name in by_name} - {path}
    return found


def name_of(path: Path) -> str:
    """Returns the full name of the module in a file, its path relative to the house."""
    parts = path.with_suffix("").parts
    return ".".join(("kleiber",) * (parts[0] != "kleiber") + parts).removesuffix(".__init__")


def children(folder: Path, files: dict[Path, set[Path]]) -> dict[str, set[str]]:
    """Returns what each file and folder in a folder imports, all below it included, of the others in that folder."""
    wants: dict[str, set[str]] = {}
    for path, wanted in files.items():
        if path.is_relative_to(folder) and path.name != "__init__.py":
            own = child(folder, path)
            others = {child(folder, other) for other in wanted if other.is_relative_to(folder)}
            wants.setdefault(own, set()).update(others - {own, "__init__"})
    return wants


def child(folder: Path, path: Path) -> str:
    """Returns the name of the file or folder that a path passes in a folder."""
    return path.relative_to(folder).parts[0].removesuffix(".py")


def in_circles(wants: dict[Any, set[Any]]) -> set[Any]:
    """Returns what imports itself by way of others, and what lies between such circles."""
    while True:
        wanted = set().union(*wants.values())
        kept = {name: own & wants.keys() for name, own in wants.items() if name in wanted and own & wants.keys()}
        if kept == wants:
            return set(kept)
        wants = kept


def folders_of(files: dict[Path, set[Path]]) -> list[Path]:
    """Returns every folder of the rooms, and the one that holds them."""
    return sorted({folder for path in files if path.parts[0] in ROOMS for folder in path.parents})


@cache
def order() -> dict[str, dict[str, int]]:
    """Returns the place of each file and folder in the list of CONTRIBUTING.md, by room: imports go to higher ones."""
    text = (HOUSE / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.sub(r"\n +>", " >", text.partition("```order\n")[2].partition("```")[0])
    lists = {}
    for line in block.splitlines():
        room, _, names = line.partition(" ")
        levels = enumerate(level.split(",") for level in names.split(">"))
        lists[room.strip("/")] = {name.strip(): place for place, level in levels for name in level}
    return lists


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


@pytest.mark.parametrize("room", ["kleiber", "experiments", "train", "scaling", "model", "parallel"])
def test_imports_run_down_the_list_of_the_house(room):
    folder = Path() if room == "kleiber" else Path(room)
    places, wants = order()[room], children(folder, imported_files())
    wants = {name: wanted - {"kleiber"} for name, wanted in wants.items() if name != "kleiber"}
    missing = sorted(wants.keys() - places.keys())
    assert not missing, f"say in the list of CONTRIBUTING.md where these stand in {room}/: {missing}"
    up = [f"{name} imports {other}" for name in wants for other in wants[name] if places[name] >= places[other]]
    assert not up, f"in {room}/ imports go down the list of CONTRIBUTING.md, and these do not: {sorted(up)}"


@pytest.mark.parametrize("room", LOOSE)
def test_nothing_lies_loose_in_a_room_of_folders(room):
    assert {path.stem for path in (HOUSE / room).glob("[!_]*.py")} == LOOSE[room]


def test_only_the_floor_of_kleiber_is_used_below_the_command_line():
    own = {path for path in imported_files() if path.parts[0] == "kleiber"}
    floor = {path for path in own if name_of(path) in FLOOR}
    assert len(floor) == len(FLOOR) and not any(imported_files()[path] for path in floor)
    wrong = [
        f"{path} imports {sorted(map(str, wanted & own - floor))}"
        for path, wanted in imported_files().items()
        if path.parts[0] not in ("kleiber", "experiments") and wanted & own - floor
    ]
    assert not wrong


def test_rooms_are_imported_under_the_name_kleiber():
    bare = {
        f"{path.relative_to(HOUSE)}: {name}"
        for path in room_files()
        for name in imports(ast.walk(tree_of(path)))
        if name.split(".")[0] in ROOMS
    }
    assert not bare


def test_no_files_import_each_other_in_a_circle():
    assert not sorted(map(str, in_circles(imported_files())))


@pytest.mark.parametrize("folder", folders_of(imported_files()), ids=str)
def test_no_files_and_folders_of_a_folder_import_each_other_in_a_circle(folder):
    wants = children(folder, imported_files())
    wants.pop("kleiber", None)  # holds the floor below all rooms and what users import, above them
    found = in_circles(wants)
    assert not found, {name: sorted(wants[name] & found) for name in sorted(found)}


@pytest.mark.parametrize(
    "second",
    [
        "import kleiber.train.a",
        "def late():\n    from kleiber.train.a import one\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kleiber.train import a\n",
    ],
)
def test_a_circle_is_seen_wherever_its_imports_stand(tmp_path, second):
    write(
        tmp_path, {"train/a.py": "from kleiber.train.b import two\n", "train/b.py": second, "train/c.py": "import os"}
    )
    assert in_circles(imported_files(tmp_path)) == {Path("train/a.py"), Path("train/b.py")}


def test_a_circle_of_folders_is_seen_where_no_files_make_one(tmp_path):
    texts = {"train/x/a.py": "from kleiber.train.y import b\n", "train/x/d.py": "", "train/y/b.py": ""}
    write(tmp_path, texts | {"train/y/c.py": "from kleiber.train.x.d import four\n"})
    files = imported_files(tmp_path)
    assert not in_circles(files) and in_circles(children(Path("train"), files)) == {"x", "y"}


def write(house: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text)


def test_kleiber_holds_a_link_to_each_room():
    links = {path.name: path.resolve() for path in (HOUSE / "kleiber").iterdir() if path.is_symlink()}
    assert links == {room: HOUSE / room for room in ROOMS}


def test_importing_kleiber_loads_no_library():
    heavy = {*JAX, "numpy", "scipy", "pyarrow", "pandas", "matplotlib", "tyro", "rich"}
    assert loaded_by("import kleiber", *heavy) == set()


@pytest.mark.parametrize("old", moved())
def test_an_old_name_says_the_new_one_and_the_new_one_is_there(old):
    with pytest.raises(ModuleNotFoundError, match=f"{re.escape(old)} is now {re.escape(moved()[old])}; import that."):
        importlib.import_module(old)
    assert importlib.util.find_spec(moved()[old]) is not None


def test_a_name_that_never_was_is_unknown_as_ever():
    with pytest.raises(ModuleNotFoundError, match="No module named 'kleiber.model.tranformer'"):
        importlib.import_module("kleiber.model.tranformer")


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
