"""What starts workers elsewhere: manifests of Kubernetes, tasks of SkyPilot, scripts of xpk; containers of Slurm."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kleiber.experiments.launch import kubernetes, skypilot, slurm, xpk
from kleiber.experiments.launch.job import Sign
from kleiber.experiments.launch.launcher import Phase, open_launcher
from kleiber.experiments.launch.written import name_of

PHASE = Phase(Path("/data/out"), "fit", "5e55", sys.stdout, experiment_name="My_own", experiment_hash="abc")


def test_the_manifest_of_kubernetes_has_a_pod_an_index_that_goes_on_after_75_and_stops_at_2():
    options = {"image": "me/kleiber:1", "claim": "shared", "cpu": "4", "gpu": "1", "kind": "Job"}
    found = kubernetes.manifest(PHASE, options, 3, None)
    assert (found["apiVersion"], found["kind"]) == ("batch/v1", "Job")
    assert found["metadata"] == {"name": "kleiber-my-own-fit-5e55"}
    spec = found["spec"]
    pod = spec["template"]["spec"]
    (worker,) = pod["containers"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert pod["restartPolicy"] == "Never"  # the API refuses a podFailurePolicy with any other
    actions = [
        (rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in spec["podFailurePolicy"]["rules"]
    ]
    assert actions == [("Ignore", None), ("Ignore", [75]), ("FailJob", [2])]
    assert worker["command"][2:] == [
        "kleiber.experiments.sweeping.node", "--name=kubernetes-fit-$(JOB_COMPLETION_INDEX)", "/data/out",
        "--split=fit", "--session=5e55", "--experiment=abc", f"--place={os.getcwd()}",
    ]  # fmt: skip
    assert worker["resources"]["limits"] == {"cpu": "4", "nvidia.com/gpu": "1"}
    assert worker["volumeMounts"] == [{"name": "sweep", "mountPath": "/data"}]
    both = kubernetes.manifest(PHASE, {**options, "kind": "JobSet"}, 3, None)
    assert both["spec"]["replicatedJobs"][0]["template"]["spec"] == spec


def test_a_task_of_skypilot_has_a_node_a_job_that_is_launched_again_after_75():
    options = {"volume": "shared", "image": "me/kleiber:1", "infra": "k8s", "accelerators": "H100:1"}
    found = skypilot.task(PHASE, options, 3, None)
    assert (found["name"], found["num_nodes"], found["volumes"]) == ("kleiber-my-own-fit-5e55", 3, {"/data": "shared"})
    assert found["resources"] == {
        "infra": "k8s", "accelerators": "H100:1", "image_id": "docker:me/kleiber:1",
        "job_recovery": {"max_restarts_on_errors": 3, "recover_on_exit_codes": [75]},
    }  # fmt: skip
    ran = subprocess.run(
        ["sh", "-c", f"python() {{ echo \"$@\"; }}\n{found['run']}"],
        env={"SKYPILOT_NODE_RANK": "2"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.split()[1:4] == ["kleiber.experiments.sweeping.node", "--name=skypilot-fit-2", "/data/out"]


def test_a_script_of_xpk_creates_a_workload_a_job_and_deletes_them_when_it_is_told_to_stop(tmp_path):
    options = {"cluster": "c", "tpu-type": "v5litepod-4", "image": "me/kleiber:1", "storage": "shared", "hosts": "1"}
    path = tmp_path / "xpk"
    path.write_text('#!/bin/sh\nfor word; do printf "%s|" "$word"; done; echo\n')
    path.chmod(0o755)

    def called(options, *words):
        text = xpk.script(PHASE, options, 2, None)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        ran = subprocess.run(["bash", "-c", text, "script", *words], env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return [line.split("|")[:-1] for line in ran.stdout.splitlines()]

    first, second = called(options)
    assert first[:3] == ["workload", "create", "--workload=kleiber-my-own-fit-5e55-0"]
    assert {"--cluster=c", "--tpu-type=v5litepod-4", "--storage=shared", "--restart-on-exit-codes=75"} < set(first)
    assert "--env=KLEIBER_NUM_PROCESSES=1" in first  # a pod of an indexed job that works by itself
    assert second[-1].startswith("--command=python -m kleiber.experiments.sweeping.node --name=xpk-fit-1 /data/out ")
    assert not any("NUM_PROCESSES" in word for word in called({**options, "hosts": "2"})[0])
    assert called(options, "stop")[1] == [
        "workload",
        "delete",
        "--force",
        "--workload=kleiber-my-own-fit-5e55-1",
        "--cluster=c",
    ]


@pytest.mark.parametrize(
    "name", ["x", "_", "delayed_synchronisation", "A-very-long-name-of-an-experiment-" * 3, "ab--cd_"]
)
def test_names_of_pods_and_workloads_are_names_there_whatever_the_experiment_is_called(name):
    phase = replace(PHASE, experiment_name=name, split="target", session="5e55abcd")
    both = name_of(phase), name_of(replace(phase, session="5e55abce"))
    assert both[0] != both[1]
    for job in (f"{both[0]}-999", f"{both[0]}-workers-0-99999-abcde"):  # of xpk; of a pod of a JobSet
        assert re.fullmatch("[a-z]([a-z0-9-]*[a-z0-9])?", job)  # RFC 1035, and what xpk asks of a name
    assert len(f"{both[0]}-999") <= 40 and len(f"{both[0]}-workers-0-99999-abcde") <= 63


def test_a_launcher_that_writes_says_what_to_type_and_takes_up_the_jobs_of_an_earlier_driver(tmp_path, capsys):
    directory = tmp_path
    phase = Phase(directory, "fit", "s", sys.stdout, num_trunks=2, experiment_name="e", experiment_hash="abc")
    made = open_launcher("skypilot:volume=v,image=i,jobs=2")
    assert [each.name for each in made.start(phase, range(2))] == ["skypilot-fit-0", "skypilot-fit-1"]
    path = directory / "jobs" / "skypilot-fit.yaml"
    assert f"sky jobs launch --yes --name kleiber-e-fit-s {path}" in capsys.readouterr().out
    made.cancel("skypilot-fit-0")
    assert "sky jobs cancel --yes --name kleiber-e-fit-s" in capsys.readouterr().out
    for name in ("skypilot-fit-0", "skypilot-fit-1"):
        Sign(directory, name, "n1")
    path.unlink()
    open_launcher("skypilot:volume=v,image=i,jobs=2").start(phase, range(2))
    assert not path.exists() and "launch" not in capsys.readouterr().out


def test_a_job_of_slurm_runs_in_the_container_that_it_is_given_and_sees_the_sweep_there():
    directory = Path("/data/out")
    assert slurm.in_container({}, directory) == (None, [])
    mounts = ["--container-image=me/kleiber", "--container-mounts=/data/out:/data/out"]
    assert slurm.in_container({"container": "me/kleiber"}, directory) == ("python", mounts)
    python, nothing = slurm.in_container({"apptainer": "my image.sif"}, directory)
    assert python == "apptainer exec --bind /data/out 'my image.sif' python" and nothing == []
