"""Workers on nodes of a managed job of SkyPilot: writes its task, says the one command that launches it, and follows
what its nodes write into the sweep's directory. Talks to no cluster itself.

`skypilot:volume=NAME,image=IMAGE,jobs=8,accelerators=H100:1,infra=k8s,cpus=4+,memory=16+`: the volume is one of
`sky volumes apply`, on which the sweep's directory lies, mounted at the same path (mount=/data, else the first folder
of the path of --out). Fields: SkyPilot's reference of its YAML; JSON is YAML.
"""

import json
import shlex
from typing import Any

from kleiber.experiments.exit_codes import EXIT_RESUMABLE
from kleiber.experiments.launch.launcher import Phase
from kleiber.experiments.launch.written import Written, mount_of, name_of, node_command, taken
from kleiber.parallel.environment import NUM_PROCESSES

RESOURCES = ("infra", "accelerators", "cpus", "memory")
OPTIONS = ("volume", "image", "mount", "jobs", *RESOURCES)
DEATHS = 3
"""Times that the job may fail, of itself, before it is given up; preemptions do not count."""


def launcher(options: dict[str, str], workers: int | None) -> "SkyPilot":
    """Returns the launcher of the options of --launch."""
    needed = {"volume": "one of `sky volumes apply`, on which --out lies", "image": "an image with kleiber"}
    return SkyPilot(taken("skypilot", options, OPTIONS, needed), workers, options)


class SkyPilot(Written):
    """Writes tasks, and follows their nodes."""

    kind, suffix = "skypilot", "yaml"
    starts, stops = "sky jobs launch --yes --name {name} {path}", "sky jobs cancel --yes --name {name}"

    def text(self, phase: Phase, count: int) -> str:
        """Returns the task of a phase."""
        return json.dumps(task(phase, self.options, count, self.workers), indent=1) + "\n"


def task(phase: Phase, options: dict[str, str], count: int, workers: int | None) -> dict[str, Any]:
    """Returns the task of a phase: a worker job a node, launched again when a node is preempted or one ends with 75.

    Args:
      phase: what the nodes are told.
      options: of --launch.
      count: of nodes.
      workers: of each; None is one for each core that it has.
    """
    recovery = {"max_restarts_on_errors": DEATHS, "recover_on_exit_codes": [EXIT_RESUMABLE]}
    resources = {name: options[name] for name in RESOURCES if name in options}
    command = node_command(phase, f"skypilot-{phase.split}-RANK", workers)
    return {
        "name": name_of(phase),
        "num_nodes": count,
        "resources": {**resources, "image_id": f"docker:{options['image']}", "job_recovery": recovery},
        "volumes": {mount_of(phase, options): options["volume"]},
        "envs": {NUM_PROCESSES: "1"},  # each node works by itself
        "run": shlex.join(command).replace("-RANK", "-$SKYPILOT_NODE_RANK"),
    }
