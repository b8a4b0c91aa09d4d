"""Workers in pods of Kubernetes: writes the manifest of an Indexed Job, says the one command that starts it, and
follows what its pods write into the sweep's directory. Talks to no cluster itself.

`kubernetes:image=IMAGE,claim=PVC,jobs=8,cpu=4,memory=8Gi,gpu=1`: the image has kleiber, and the volume of the claim is
the file system that the sweep's directory lies on, mounted at the same path (mount=/data, else the first folder of the
path of --out). `kind=JobSet` writes a JobSet of it. Fields: the references of batch/v1 Job, Kubernetes 1.31 or later,
and of jobset.x-k8s.io/v1alpha2.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kleiber.experiments.exit_codes import EXIT_RESUMABLE, EXIT_USAGE
from kleiber.experiments.launch.job import Job, is_fresh, sign_of
from kleiber.experiments.launch.launcher import Phase, whole_number
from kleiber.experiments.terminal import tell
from kleiber.files import write_whole
from kleiber.parallel.environment import NUM_PROCESSES

OPTIONS = ("image", "claim", "mount", "jobs", "cpu", "memory", "gpu", "kind", "namespace")
DEATHS = 3
"""Times that a pod may die, of itself, before its index is given up; those that were preempted do not count."""


def launcher(options: dict[str, str], workers: int | None) -> "Kubernetes":
    """Returns the launcher of the options of --launch."""
    jobs = whole_number(options, "jobs", 1)
    if odd := [name for name in options if name not in OPTIONS]:
        raise ValueError(f"--launch kubernetes takes {', '.join(OPTIONS)}, not {', '.join(odd)}.")
    for name in ("image", "claim"):
        if name not in options:
            raise ValueError(f"--launch kubernetes needs {name}=...: an image with kleiber, and the volume of --out.")
    if options.setdefault("kind", "Job") not in ("Job", "JobSet"):
        raise ValueError(f"--launch kubernetes: kind={options['kind']}, expected Job or JobSet.")
    return Kubernetes(jobs or 1, workers, options)


@dataclass
class Kubernetes:
    """Writes manifests, and follows their pods."""

    jobs: int
    workers: int | None
    options: dict[str, str]
    _manifest: Path | None = None

    def check(self, directory: Path) -> None:
        """Finds nothing: each pod looks for itself whether it sees what the driver does."""

    def num_workers(self, num_trunks: int) -> int:
        """Returns the pods of a phase."""
        return min(self.jobs, num_trunks)

    def start(self, phase: Phase, indices: Sequence[int]) -> list[Job]:
        """Follows the pods of a phase, and writes the manifest of those that an earlier driver's do not stand for."""
        path = phase.directory / "jobs" / f"kubernetes-{phase.split}.json"
        first = indices[0] if path != self._manifest else 0
        names = [f"kubernetes-{phase.split}-{index - first}" for index in indices]
        signs = [sign_of(phase.directory, name) for name in names]
        if path != self._manifest and not all(map(is_fresh, signs)):
            for sign in signs:
                sign.unlink(missing_ok=True)
            write_whole(path, json.dumps(manifest(phase, self.options, len(indices), self.workers), indent=1) + "\n")
            tell(f"start the workers of this phase: kubectl apply -f {path}")
        self._manifest = path
        return [Job(name, phase.directory, self) for name in names]

    def state(self, name: str) -> None:
        """Returns None: nobody is asked."""

    def cancel(self, name: str) -> None:
        """Says once how to stop the pods."""
        if self._manifest:
            tell(f"stop the workers of this phase: kubectl delete -f {self._manifest}")
            self._manifest = None


def manifest(phase: Phase, options: dict[str, str], count: int, workers: int | None) -> dict[str, Any]:
    """Returns the Job, or JobSet, of a phase: a pod an index, started again when it is preempted or a node is lost.

    Args:
      phase: what the pods are told.
      options: of --launch.
      count: of pods.
      workers: of each; None is one for each core that it has.
    """
    index = "$(JOB_COMPLETION_INDEX)"
    command = ["python", "-m", "kleiber.experiments.sweeping.node", f"--name=kubernetes-{phase.split}-{index}"]
    sizes: dict[str, str] = {name: options[name] for name in ("cpu", "memory") if name in options}
    sizes |= {"nvidia.com/gpu": options["gpu"]} if "gpu" in options else {}
    mount = options.get("mount") or "/" + phase.directory.absolute().parts[1]
    container = {
        "name": "worker",
        "image": options["image"],
        "command": [*command, *phase.arguments(workers)],
        "env": [{"name": NUM_PROCESSES, "value": "1"}],
        "resources": {"requests": sizes, "limits": sizes},
        "volumeMounts": [{"name": "sweep", "mountPath": mount}],
    }
    pod = {
        "restartPolicy": "Never",  # so that the policy of failures is asked
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
        "volumes": [{"name": "sweep", "persistentVolumeClaim": {"claimName": options["claim"]}}],
    }
    told = {"containerName": "worker", "operator": "In"}
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {**told, "values": [EXIT_RESUMABLE]}},
        {"action": "FailJob", "onExitCodes": {**told, "values": [EXIT_USAGE]}},
    ]
    job = {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": count,
        "backoffLimitPerIndex": DEATHS,
        "podFailurePolicy": {"rules": rules},
        "template": {"spec": pod},
    }
    name = re.sub("[^a-z0-9-]+", "-", f"kleiber-{phase.experiment_name}-{phase.split}-{phase.session}".lower())
    about = {"name": name, **({"namespace": options["namespace"]} if "namespace" in options else {})}
    if options["kind"] == "Job":
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": about, "spec": job}
    replicated = [{"name": "workers", "replicas": 1, "template": {"spec": job}}]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": about,
        "spec": {"replicatedJobs": replicated},
    }
