"""Executes the notebook of a sweep and writes report.ipynb and one self-contained report.html.

Needs the packages of `kleiber[notebook]`; importing this module raises ModuleNotFoundError without them.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipykernel  # noqa: F401  the kernel needs it and matplotlib: better to miss them here, before it starts
import jupytext
import matplotlib  # noqa: F401
import nbformat
from jinja2 import DictLoader
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbconvert.exporters import HTMLExporter

from kleiber.experiments.report.drawing import Study, has_images
from kleiber.experiments.report.results import read_results
from kleiber.experiments.report.story import summary
from kleiber.experiments.report.translations import has_pairs
from kleiber.files import write_whole

FOLDER = Path(__file__).parent
TIMEOUT_SECONDS = 300
"""For one cell; the slowest takes about three seconds on a busy laptop."""


@dataclass(frozen=True)
class ReportPaths:
    """Where a report was written, and what it says in numbers."""

    html: Path
    ipynb: Path
    summary: dict[str, Any]
    problems: tuple[str, ...] = ()
    """Cells that raised an error, which the report shows in their place, why the ledger cannot be trusted, and which
    other file cannot."""


def build_report(directory: Path) -> ReportPaths:
    """Writes the report of a sweep directory, finished or not, and returns where.

    Args:
      directory: of `kleiber sweep`.

    Raises:
      FileNotFoundError: there is no such sweep directory.
      RuntimeError: the notebook's kernel died; the message holds its last words.
    """
    results = read_results(directory)
    directory, said = results.directory, summary(Study(results))
    untrue = [*([results.distrust] if results.distrust else []), *results.damage]
    name = results.experiment.get("name") or directory.name
    left_out = {"law"} if not results.experiment.get("laws", True) else set()
    left_out |= set() if results.experiment.get("targets", True) or results.ledger else {"target"}
    left_out |= set() if has_images(results.experiment) else {"images"}
    left_out |= set() if has_pairs(results.experiment) else {"pairs"}
    del results  # the kernel reads them again: of many runs, one copy at a time
    notebook, problems = execute(directory, left_out)
    problems += untrue
    paths = ReportPaths(directory / "report.html", directory / "report.ipynb", said, tuple(problems))
    write_whole(paths.ipynb, nbformat.writes(notebook) + "\n")
    write_whole(paths.html, to_html(notebook, name, directory.name))
    return paths


def execute(directory: Path, left_out: set[str]) -> tuple[Any, list[str]]:
    """Returns the executed notebook without the cells of some tags, and the errors of cells that failed.

    The kernel is this very Python, whatever kernels are registered. It works in an empty folder of its own, with no
    start-up files, so that nothing lying in the sweep directory or at home becomes code.
    """
    notebook = jupytext.read(FOLDER / "notebook.py")
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.cells = [cell for cell in notebook.cells if not left_out & set(cell.metadata.get("tags", ()))]
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:02d}"  # random ids would make two reports of one sweep differ
    with tempfile.TemporaryDirectory(prefix="kleiber-report-", dir=scratch_place()) as scratch:
        environment = {
            **os.environ,
            "KLEIBER_SWEEP_DIR": str(directory),
            "IPYTHONDIR": scratch,
            "MPLBACKEND": "agg",
            "PYTHONSAFEPATH": "1",
        }
        client = NotebookClient(
            notebook,
            km=_kernel_manager(scratch),
            timeout=TIMEOUT_SECONDS,
            allow_errors=True,
            record_timing=False,
            shutdown_kernel="immediate",
            resources={"metadata": {"path": scratch}},
        )
        with open(Path(scratch) / "kernel.txt", "w+", encoding="utf-8") as words:
            try:
                client.execute(env=environment, cleanup_kc=True, stderr=words)
            except (DeadKernelError, RuntimeError) as problem:
                words.seek(0)
                raise RuntimeError(f"the notebook's kernel died: {problem}\n{words.read()[-2000:]}") from None
    errors = [
        f"cell {number}: {output['ename']}: {output['evalue']}"
        for number, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    ]
    return notebook, errors


def scratch_place() -> str:
    """Returns where a folder for sockets can be made: the temporary folder, unless their names get longer than 107."""
    place = tempfile.gettempdir()
    return place if len(place) < 70 else "/tmp"


def _kernel_manager(scratch: str) -> Any:
    """Returns the manager of a kernel that is the Python running now."""

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            argv += ["--HistoryManager.enabled=False"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

    manager = ThisPython(kernel_name="python3", connection_file=os.path.join(scratch, "kernel.json"))
    if os.name == "posix":  # sockets in our own folder, which no other user can reach
        manager.transport = "ipc"
        manager.ip = os.path.join(scratch, "kernel")
    return manager


def to_html(notebook: Any, name: str, folder: str) -> str:
    """Returns the executed notebook as one page: code folded away, images inside, nothing asked of the network."""
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    exporter = HTMLExporter(
        template_name="basic",
        extra_loaders=[DictLoader({"kleiber_page.html.j2": page})],
        template_file="kleiber_page.html.j2",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    resources = {
        "kleiber_title": f"{name} - kleiber report",
        "kleiber_footer": f"Written by kleiber from {folder}/: every figure and number comes from the files there; "
        "report.ipynb is the same report as an executed notebook.",
    }
    body, _ = exporter.from_notebook_node(notebook, resources=resources)
    return body
