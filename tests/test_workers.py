"""What a local worker process is given."""

import json
import subprocess
import sys

from kleiber.experiments.workers import worker_environment

PRODUCTS = """
import json, time
import jax, jax.numpy as jnp
multiply = jax.jit(lambda x: x @ x)
x = jnp.ones((1024, 1024))
multiply(x).block_until_ready()
wall, processor = time.perf_counter(), time.process_time()
for _ in range(20):
    multiply(x).block_until_ready()
print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]))
"""


def test_a_worker_multiplies_on_one_core_alone():
    done = subprocess.run([sys.executable, "-c", PRODUCTS], env=worker_environment(), capture_output=True, text=True)
    wall, processor = json.loads(done.stdout)
    assert processor < 1.25 * wall  # two cores at work would use 2 seconds of processor time a second


def test_a_worker_of_several_devices_keeps_its_threads(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    assert worker_environment(1)["NPROC"] == "0"
    assert "NPROC" not in worker_environment(8)
