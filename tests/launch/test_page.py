"""The page of a sweep in a browser: Chromium without a screen, as apt-get install chromium brings it."""

import re
import shutil
import subprocess

import pytest
from test_watch import directory  # noqa: F401

from kleiber.experiments.watching.page import Server
from kleiber.experiments.watching.state import Watch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_browser_shows_cells_curves_and_forecasts_and_runs_no_text_of_a_run(directory, tmp_path):  # noqa: F811
    assert shutil.which("chromium"), "no chromium here: apt-get install --no-install-recommends chromium"
    server = Server(Watch(directory), "127.0.0.1", 0)
    server.serve()
    line = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    found = subprocess.run(
        [*line, "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", server.address],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    server.close()
    cells = re.search(r'<table id="cells">(.*?)</table>', found.stdout, re.DOTALL)[1]
    assert cells.count("<tr>") == 1 + 5 and all(f">{state}<" in cells for state in ("running", "failed", "waiting"))
    assert found.stdout.count("<polyline") == 1 and "forecast" in found.stdout and "[31mbad luck" in cells
    assert "CONSOLE" not in found.stderr, found.stderr  # neither an error nor a policy that was broken
