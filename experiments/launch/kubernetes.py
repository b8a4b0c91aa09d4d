"""Workers in pods of Kubernetes: writes the manifest of an Indexed Job, says the one command that starts it, and
follows what its pods write into the sweep's directory. Talks to no cluster itself.

`kubernetes:image=IMAGE,claim=PVC,jobs=8,cpu=4,memory=8Gi,gpu=1`: the image has kleiber, and the volume of the claim is
the file system that the sweep's directory lies on, mounted at the same path (mount=/data, else the first folder of the
path of --out). `kind=JobSet` writes a JobSet of it. Fields: the references of batch/v1 Job, Kubernetes 1.31 or later,
and of jobset.x-k8s.io/v1alpha2.
"""

import json
from typing import Any

from kleiber.experiments.exit_codes import EXIT_RESUMABLE, EXIT_USAGE
from kleiber.experiments.launch.launcher import Phase
from kleiber.experiments.launch.written import Written, mount_of, name_of, node_command, taken
from kleiber.parallel.environment import NUM_PROCESSES

OPTIONS = ("image", "claim", "mount", "jobs", "cpu", "memory", "gpu", "kind", "namespace")
DEATHS = 3
"""Times that a pod may die, of itself, before its index is given up; those that were preempted do not count."""


def launcher(options: dict[str, str], workers: int | None) -> "Kubernetes":
    """Returns the launcher of the options of --launch."""
    jobs = taken("kubernetes", options, OPTIONS, {"image": "an image with kleiber", "claim": "the volume of --out"})
    if options.setdefault("kind", "Job") not in ("Job", "JobSet"):
        raise ValueError(f"--launch kubernetes: kind={options['kind']}, expected Job or JobSet.")
    return Kubernetes(jobs, workers, options)


class Kubernetes(Written):
    """Writes manifests, and follows their pods."""

    kind, suffix = "kubernetes", "json"
    starts, stops = "kubectl apply -f {path}", "kubectl delete -f {path}"

    def text(self, phase: Phase, count: int) -> str:
        """Returns the manifest of a phase."""
        return json.dumps(manifest(phase, self.options, count, self.workers), indent=1) + "\n"


def manifest(phase: Phase, options: dict[str, str], count: int, workers: int | None) -> dict[str, Any]:
    """Returns the Job, or JobSet, of a phase: a pod an index, started again when it is preempted or a node is lost.

    Args:
      phase: what the pods are told.
      options: of --launch.
      count: of pods.
      workers: of each; None is one for each core that it has.
    """
    command = node_command(phase, f"kubernetes-{phase.split}-$(JOB_COMPLETION_INDEX)", workers)
    sizes: dict[str, str] = {name: options[name] for name in ("cpu", "memory") if name in options}
    sizes |= {"nvidia.com/gpu": options["gpu"]} if "gpu" in options else {}
    mount = mount_of(phase, options)
    container = {
        "name": "worker",
        "image": options["image"],
        "command": command,
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
    about = {"name": name_of(phase), **({"namespace": options["namespace"]} if "namespace" in options else {})}
    if options["kind"] == "Job":
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": about, "spec": job}
    replicated = [{"name": "workers", "replicas": 1, "template": {"spec": job}}]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": about,
        "spec": {"replicatedJobs": replicated},
    }
