"""Workers in workloads of xpk, on TPU slices of GKE: writes a script with a workload for each job, says how to start
it, and follows what the workloads write into the sweep's directory. Talks to no cluster itself.

`xpk:cluster=NAME,tpu-type=v5litepod-4,image=IMAGE,storage=NAME,jobs=8`: the storage is one of `xpk storage attach`, on
which the sweep's directory lies, mounted by it at the same path. `hosts=2` says that a slice has two, which train one
run together. Flags: `xpk workload create --help`, xpk 1.16.
"""

import shlex

from kleiber.experiments.exit_codes import EXIT_RESUMABLE
from kleiber.experiments.launch.launcher import Phase, whole_number
from kleiber.experiments.launch.written import Written, name_of, node_command, taken
from kleiber.parallel.environment import NUM_PROCESSES

FLAGS = ("cluster", "tpu-type", "storage", "project", "zone", "priority")
"""Options that go to xpk as they are."""
OPTIONS = ("image", "hosts", "jobs", *FLAGS)
DEATHS = 10
"""Times that a workload is started again after one of its exit codes, preemptions among them."""
SAVE_SECONDS = 60


def launcher(options: dict[str, str], workers: int | None) -> "Xpk":
    """Returns the launcher of the options of --launch."""
    hosts = whole_number(options, "hosts", 1)
    needed = {"cluster": "of xpk", "tpu-type": "of a slice", "image": "an image with kleiber", "storage": "of --out"}
    jobs = taken("xpk", options, OPTIONS, needed)
    return Xpk(jobs, workers, {**options, "hosts": str(hosts)})


class Xpk(Written):
    """Writes scripts, and follows their workloads."""

    kind, suffix = "xpk", "sh"
    starts, stops = "bash {path}", "bash {path} stop"

    def text(self, phase: Phase, count: int) -> str:
        """Returns the script of a phase."""
        return script(phase, self.options, count, self.workers)


def script(phase: Phase, options: dict[str, str], count: int, workers: int | None) -> str:
    """Returns a script that creates the workloads of a phase, a slice each, or deletes them when it is told `stop`.

    Args:
      phase: what the workloads are told.
      options: of --launch.
      count: of workloads.
      workers: of each; None is one where it has accelerators.
    """
    flags = [f"--{name}={options[name]}" for name in FLAGS if name in options]
    place = [flag for flag in flags if flag.startswith(("--cluster", "--project", "--zone"))]
    flags += [f"--docker-image={options['image']}", f"--max-restarts={DEATHS}"]
    flags += [f"--restart-on-exit-codes={EXIT_RESUMABLE}", f"--termination-grace-period-seconds={SAVE_SECONDS}"]
    if options["hosts"] == "1":
        flags += [f"--env={NUM_PROCESSES}=1"]  # a slice of several says itself how many it has
    lines = ["#!/usr/bin/env bash", "set -eu", 'if [ "${1:-}" = stop ]; then']
    names = [f"--workload={name_of(phase)}-{index}" for index in range(count)]
    lines += ["  " + shlex.join(["xpk", "workload", "delete", "--force", name, *place]) for name in names]
    lines += ["  exit", "fi"]
    for index, name in enumerate(names):
        command = shlex.join(node_command(phase, f"xpk-{phase.split}-{index}", workers))
        lines += [shlex.join(["xpk", "workload", "create", name, *flags, f"--command={command}"])]
    return "\n".join(lines) + "\n"
