"""One run over two nodes: two processes of a job train it together, with the numbers of one process."""

import os
import subprocess
import sys

import pytest
from test_hosts import EXPERIMENT, free_port, launch, losses

from kleiber.experiments.config_file import config_hash, load_experiment, to_data
from kleiber.files import write_json

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_the_nodes_of_a_job_train_one_run_together(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("\n\n".join(f"Line {i} of {i * i % 97} words." for i in range(4000)))
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KLEIBER_START_SECONDS", "120")
    assert launch(tmp_path, "one").wait() == 0
    experiment = load_experiment("experiment.py")
    write_json(tmp_path / "two" / "experiment.json", to_data(experiment))
    order = [
        str(tmp_path / "two"),
        "--split=fit",
        "--session=s",
        f"--experiment={config_hash(experiment)}",
        "--name=x-0",
    ]
    port = free_port()
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "kleiber.experiments.sweeping.node", *order, "--workers=1"],
            env={
                **os.environ,
                "KLEIBER_COORDINATOR": f"127.0.0.1:{port}",
                "KLEIBER_NUM_PROCESSES": "2",
                "KLEIBER_PROCESS_ID": str(number),
            },
        )
        for number in (0, 1)
    ]
    assert [node.wait() for node in nodes] == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
