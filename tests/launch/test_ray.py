"""One sweep on a Ray of two nodes, made here, one of which is killed on the way: `make cluster`, with kleiber[ray]."""

import subprocess
import sys
import time

import pytest
from test_launch import EXPERIMENT, PROGRAM

from kleiber.experiments.directory.record import TIMING_COLUMNS
from kleiber.scaling.table.reading import read_file

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture
def cluster():
    pytest.importorskip("ray", reason="Ray is not here: pip install 'kleiber[ray]'")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"head": 1}})
    made.lost = made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def sweep(place, out, *options):
    line = [sys.executable, "-m", "kleiber.experiments.cli", "sweep", "own.py", "--out", out, "--no-report", *options]
    with open(place / f"{out}.log", "w") as log:
        return subprocess.Popen(line, cwd=place, stdout=log, stderr=log)


def test_a_node_of_ray_that_is_killed_changes_no_number(tmp_path, cluster):
    (tmp_path / "program.py").write_text(PROGRAM.replace("import json, sys", "import json, sys, time; time.sleep(2)"))
    trunks = EXPERIMENT.replace("(1, 2)", "range(12)")
    assert trunks != EXPERIMENT
    (tmp_path / "own.py").write_text(trunks)
    assert sweep(tmp_path, "a").wait() == 0
    driver = sweep(tmp_path, "b", "--workers", "1", "--launch", f"ray:address={cluster.address},jobs=2,cpus=1")
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("b/runs/*/record.json"))) < 8:
        assert driver.poll() is None and time.monotonic() < deadline, (tmp_path / "b.log").read_text()
        time.sleep(0.2)
    cluster.remove_node(cluster.lost, allow_graceful=False)
    assert driver.wait() == 0, (tmp_path / "b.log").read_text()
    one, other = (read_file(tmp_path / name / "table.parquet") for name in "ab")
    assert set(one) == set(other) and list(one["status"]) == ["done"] * 48
    assert all(list(one[name]) == list(other[name]) for name in one if name not in TIMING_COLUMNS)
