"""The failure tests R1 to R24 in their short form: real processes, real signals, real files.

The long form is `make chaos`. All run in one process of their own, because they fork, and this one has threads.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.battery import TESTS

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    command = [sys.executable, "-m", "chaos", "--short", "--json"]
    # Compiled as for users: runs that are compared bit for bit, and against clocks, are not to be made slow.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    done = subprocess.run(command, capture_output=True, text=True, timeout=850, env=environment)
    assert done.stdout, done.stderr[-3000:]
    return {result["name"]: result for result in json.loads(done.stdout)}


@pytest.mark.parametrize("name", TESTS)
def test_nothing_is_lost_and_no_number_is_wrong(results, name):
    result = results[name]
    assert result["is_good"], f"{result['title']} (seed {result['seed']}): {result['failures']}"


def test_every_failure_test_of_the_list_is_there():
    assert [name for name in TESTS if name.startswith("R")] == [f"R{n}" for n in range(1, 25)]


def test_the_committed_page_shows_the_long_form_with_every_trial_passed():
    rows = re.findall(r"^\| (R\d+|kills|fuzz|save) \|[^|]*\| (\d+) of (\d+) \|", PAGE.read_text(), re.M)
    assert {name for name, *_ in rows} == set(TESTS)
    assert all(passed == trials for _, passed, trials in rows)
