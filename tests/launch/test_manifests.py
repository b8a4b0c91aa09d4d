"""Manifests of Kubernetes, held against the models of its own client and of JobSet: `make cluster`, where these are
installed (pip install kubernetes kubeflow-trainer-api). A field that no model knows, or of another kind, is an error.
"""

import json
import sys
from pathlib import Path

import pytest

from kleiber.experiments.launch.kubernetes import manifest
from kleiber.experiments.launch.launcher import Phase

pytestmark = pytest.mark.cluster
PHASE = Phase(Path("/data/out"), "target", "5e55abcd", sys.stdout, experiment_name="My_own", experiment_hash="abc")
PLAIN = {"image": "me/kleiber:1", "claim": "shared"}
ALL = {**PLAIN, "cpu": "4", "memory": "8Gi", "gpu": "1", "namespace": "mine", "mount": "/mnt/data"}


def plain_data(found):
    """Returns data without what says nothing, as models leave it out."""
    if isinstance(found, dict):
        return {name: plain_data(value) for name, value in found.items() if value not in (None, {})}
    return [plain_data(each) for each in found] if isinstance(found, list) else found


@pytest.mark.parametrize("options", [PLAIN, ALL])
def test_a_job_is_what_the_client_of_kubernetes_reads(options):
    client = pytest.importorskip("kubernetes.client", reason="pip install kubernetes")
    job = manifest(PHASE, {**options, "kind": "Job"}, 3, 2)
    reader = client.ApiClient()
    read = reader.deserialize(json.dumps(job), "V1Job", "application/json")
    assert plain_data(reader.sanitize_for_serialization(read)) == plain_data(job)


@pytest.mark.parametrize("options", [PLAIN, ALL])
def test_a_jobset_is_what_the_models_of_jobset_read(options):
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="pip install kubeflow-trainer-api")
    jobset = manifest(PHASE, {**options, "kind": "JobSet"}, 3, 2)
    read = models.JobsetV1alpha2JobSet.from_dict(jobset)
    assert plain_data(json.loads(read.to_json())) == plain_data(jobset)
