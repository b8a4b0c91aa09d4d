"""Claims about the processes of one run: who belongs to it, who is missing, and that all are alike."""

import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kleiber.experiments.config_file import load_experiment, set_field, to_data
from kleiber.experiments.directory import release
from kleiber.experiments.sweeping import inventory, peers
from kleiber.parallel import hosts
from kleiber.parallel.environment import coordinator_in_environment, numeric_settings, process_in_environment

HOUSE = Path(__file__).parent.parent
EXPERIMENT = """
from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.parallel.config import MeshConfig
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, TrainConfig


def experiment():
    model = ModelConfig(d_model=16, num_layers=1, num_heads=2, d_ff=32, seq_len=16, vocab_size=VOCABULARY)
    train = TrainConfig(
        model, optimizer=OptimizerConfig(3e-3), num_tokens=(2_560, 5_120), batch_size=8, steps_per_call=20,
        data=DataConfig("text.txt", TOKENIZER), mesh=MeshConfig(data=2), evaluation=EvalConfig(1024, 8),
    )
    return Experiment(name="peers", question="Are they alike?", trunks=(train,))
"""
WORDS = ("alpha", "beta", "gamma", "delta", "scaling", "law", "of", "the", "model")


class Pair:
    """Two hosts, each with a folder, a text and a cache of its own, and one folder that they share for the run."""

    def __init__(self, place: Path):
        self.place, self.out = place, place / "out"
        self.variables: list[dict[str, str]] = [{}, {}]
        for number in (0, 1):
            self.folder(number).mkdir()
            self.write(number)

    def folder(self, number: int) -> Path:
        return self.place / f"host{number}"

    def write(self, number: int, experiment: str = EXPERIMENT, letters: tuple[str, str] = ("", "")) -> None:
        experiment = experiment.replace("VOCABULARY", "256").replace("TOKENIZER", '"bytes"')
        (self.folder(number) / "experiment.py").write_text(experiment)
        lines = (" ".join(WORDS[(7 * i + 3 * j + i * j) % 9] for j in range(60)) + f" {i}" for i in range(600))
        (self.folder(number) / "text.txt").write_text("\n\n".join(lines).replace(*letters))

    def overlay(self) -> Path:
        """Returns a folder that the second host's Python looks into first."""
        folder = self.place / "overlay"
        folder.mkdir(exist_ok=True)
        self.variables[1]["PYTHONPATH"] = f"{folder}:{HOUSE}"
        return folder

    def run(self, *numbers: int, timeout: float = 300) -> list[tuple[int, str]]:
        """Types the line on the hosts and returns (exit code, what was said) of each."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        line = [sys.executable, "-m", "kleiber.experiments.cli", "train", "experiment.py", "--out", str(self.out)]
        running = []
        for number in numbers or (0, 1):
            variables = {
                "KLEIBER_COORDINATOR": f"127.0.0.1:{port}",
                "KLEIBER_NUM_PROCESSES": "2",
                "KLEIBER_PROCESS_ID": str(number),
                "KLEIBER_START_SECONDS": "120",
                "KLEIBER_CACHE": str(self.folder(number) / "cache"),
                "PYTHONPATH": str(HOUSE),
                **self.variables[number],
            }
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            running.append(subprocess.Popen(line, cwd=self.folder(number), env={**os.environ, **variables}, **streams))
        said = [process.communicate(timeout=timeout)[0] for process in running]
        return [(process.returncode, text) for process, text in zip(running, said, strict=True)]

    def losses(self) -> list[float]:
        return [json.loads(path.read_text())["loss"] for path in sorted(self.out.glob("runs/*/record.json"))]


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a pair of equal hosts that have trained."""
    pair = Pair(tmp_path_factory.mktemp("equal"))
    ends = pair.run()
    assert [code for code, _ in ends] == [0, 0], ends
    return pair


@pytest.fixture(params=["start", "resume"])
def ready(request, trained, tmp_path):
    """Returns a pair that has not begun, or one whose last point is not measured yet."""
    pair = Pair(tmp_path)
    if request.param == "resume":
        shutil.copytree(trained.out, pair.out)
        (pair.out / "result.json").unlink()
        shutil.rmtree(next(pair.out.glob("runs/*-D5120")))
    return pair


def test_hosts_that_differ_in_text_are_refused_and_go_on_once_they_are_alike(ready, trained):
    ready.write(1, letters=("alpha", "omega"))  # as long, other letters
    for code, said in ready.run():
        assert code == 2
        assert re.search(r"differ in text of text\.txt: \w{16} in process 0, \w{16} in process 1", said), said
    assert len(ready.losses()) < 2
    if ready.losses():  # the one that was trained before
        ready.write(1)
        assert [code for code, _ in ready.run()] == [0, 0]
        assert ready.losses() == trained.losses()


def test_hosts_that_differ_in_experiment_code_jax_variables_and_clock_are_refused_and_each_is_named(ready):
    ready.write(1, EXPERIMENT.replace("3e-3", "1e-3"))
    ready.variables[1]["JAX_DEFAULT_MATMUL_PRECISION"] = "bfloat16"
    overlay = ready.overlay()
    (overlay / "kleiber").mkdir()
    for path in (HOUSE / "kleiber").iterdir():
        (overlay / "kleiber" / path.name).symlink_to(path.resolve())
    (overlay / "kleiber" / "train").unlink()
    shutil.copytree(HOUSE / "train", overlay / "kleiber" / "train")
    with open(overlay / "kleiber" / "train" / "update" / "schedule.py", "a") as file:
        file.write("# another release\n")
    (overlay / "jax-9.9.9.dist-info").mkdir()
    (overlay / "jax-9.9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: jax\nVersion: 9.9.9\n")
    (overlay / "sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() + 3600\n")
    for code, said in ready.run():
        assert code == 2
        assert re.search(r"experiment: \w{12} in process 0, \w{12} \(trunks\[0\]\.optimizer\.learning_rate:", said), (
            said
        )
        assert f"version of jax: {importlib.metadata.version('jax')} in process 0, 9.9.9 in process 1" in said, said
        assert re.search(r"code of kleiber\.train: \w{16} in process 0, \w{16} in process 1", said), said
        assert re.search(r"clock: \S+ in process 0, \S+ in process 1", said), said
        assert "variable JAX_DEFAULT_MATMUL_PRECISION: nothing in process 0, bfloat16 in process 1" in said, said
        assert "code of kleiber.model" not in said and "version of numpy" not in said
    assert len(ready.losses()) < 2


def test_a_peer_that_never_comes_is_named_once_after_one_wait(pair):
    pair.variables[0]["KLEIBER_START_SECONDS"] = "6"
    began = time.monotonic()
    ((code, said),) = pair.run(0)
    assert code == 75
    assert said.count("process 1 of 2 did not come within 6 s (KLEIBER_START_SECONDS)") == 1, said
    assert "starting it again" not in said and time.monotonic() - began < 100  # one wait, where eleven took a minute


def test_a_lead_that_never_comes_again_is_named_after_one_wait(trained, tmp_path):
    pair = Pair(tmp_path)
    shutil.copytree(trained.out, pair.out)
    pair.variables[1]["KLEIBER_START_SECONDS"] = "6"
    ((code, said),) = pair.run(1)
    assert code == 75
    assert said.count("process 0 of 2 did not come within 6 s") == 1, said


def test_the_coordinator_listens_on_the_address_it_was_told_alone(pair):
    pair.variables[0]["KLEIBER_START_SECONDS"] = "20"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pair.variables[0]["KLEIBER_COORDINATOR"] = f"127.0.0.1:{port}"
    found: set[str] = set()
    environment = {**os.environ, **pair.variables[0], "KLEIBER_NUM_PROCESSES": "2", "KLEIBER_PROCESS_ID": "0"}
    code = "from kleiber.parallel import hosts\nhosts.connect()"
    waiting = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not found and waiting.poll() is None:
            rows = [row.split() for kind in ("tcp", "tcp6") for row in open(f"/proc/net/{kind}").readlines()[1:]]
            found = {row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
            time.sleep(0.02)
    finally:
        waiting.kill()
        waiting.wait()
    assert {place.partition(":")[0][-8:] for place in found} == {"0100007F"}  # 127.0.0.1, of IPv6 or not


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("127.0.0.1:1234", "127.0.0.1:1234"),
        ("localhost:1234", "127.0.0.1:1234"),
        ("192.0.2.1:1234", None),  # of documentation, and so not of this machine: a gateway's, say
        ("no-such-host.invalid:1234", None),
    ],
)
def test_the_coordinator_binds_an_address_of_this_machine_and_else_all(monkeypatch, address, bound):
    assert hosts.bind_address(address) in (bound, "[::1]:1234" if bound else None)
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "0.0.0.0:1")
    assert hosts.bind_address(address) is None


LAUNCHERS = ("KLEIBER_", "SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JOB_COMPLETION", "KUBERNETES_")


@pytest.fixture
def launcher(monkeypatch):
    """Returns a function that makes the environment that of a launcher."""
    for name in list(os.environ):
        if name.startswith(LAUNCHERS) and name != "KLEIBER_CACHE":
            monkeypatch.delenv(name)

    def start(variables: str) -> None:
        for assignment in variables.split():
            monkeypatch.setenv(*assignment.split("=", 1))

    return start


@pytest.mark.parametrize(
    ("variables", "expected", "coordinator"),
    [
        ("", (0, 1), None),
        ("SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2", (1, 2), None),
        ("SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=4 SLURM_NTASKS=4", (3, 4), None),
        ("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_NTASKS=4", (0, 1), None),
        ("SLURM_PROCID=0 SLURM_NTASKS=1", (0, 1), None),
        ("OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=2", (2, 4), None),
        ("SLURM_NTASKS=4 SLURM_PROCID=0 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=2", (2, 4), None),
        ("TPU_WORKER_HOSTNAMES=t0,t1 TPU_WORKER_ID=1", (1, 2), "t0:8476"),
        ("TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0", (0, 1), None),
        (
            "TPU_WORKER_HOSTNAMES=t0,t1 TPU_WORKER_ID=1 MEGASCALE_NUM_SLICES=2 MEGASCALE_SLICE_ID=1 "
            "MEGASCALE_COORDINATOR_ADDRESS=m0:8080",
            (3, 4),
            "m0:8476",
        ),
        ("TPU_WORKER_HOSTNAMES=t0,t1 TPU_WORKER_ID=1 JOB_COMPLETION_INDEX=1", (1, 2), "t0:8476"),
        (
            "KUBERNETES_SERVICE_HOST=10.0.0.1 JOB_COMPLETION_INDEX=1 KLEIBER_NUM_PROCESSES=2 "
            "KLEIBER_COORDINATOR=a-0.b:9",
            (1, 2),
            "a-0.b:9",
        ),
        ("JOB_COMPLETION_INDEX=1 KLEIBER_NUM_PROCESSES=1", (0, 1), None),
        ("SLURM_NTASKS=4 SLURM_PROCID=0 KLEIBER_NUM_PROCESSES=1", (0, 1), None),
        ("KLEIBER_NUM_PROCESSES=2 KLEIBER_PROCESS_ID=1 KLEIBER_COORDINATOR=a:1 SLURM_NTASKS=8", (1, 2), "a:1"),
    ],
)
def test_launchers_are_recognised(launcher, variables, expected, coordinator):
    launcher(variables)
    assert process_in_environment() == expected
    assert coordinator_in_environment() == coordinator


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ("SLURM_NTASKS=4 SLURM_PROCID=0", "SLURM_NTASKS=4, but this is no step of that many tasks: start it with srun"),
        ("SLURM_NTASKS=4", "start it with srun, or set KLEIBER_NUM_PROCESSES=1 to work alone"),
        ("SLURM_STEP_NUM_TASKS=2", "SLURM_STEP_NUM_TASKS is set, but not SLURM_PROCID"),
        ("OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_SIZE is set, but not OMPI_COMM_WORLD_RANK"),
        ("TPU_WORKER_HOSTNAMES=t0,t1", "names 2 hosts, but TPU_WORKER_ID is not set"),
        ("TPU_WORKER_HOSTNAMES=t0,t1 TPU_WORKER_ID=2", "process 2, expected 0 to 1"),
        (
            "KUBERNETES_SERVICE_HOST=10.0.0.1 JOB_COMPLETION_INDEX=1",
            "JOB_COMPLETION_INDEX=1 says that this is a pod of an indexed job, but not of how many: set "
            "KLEIBER_NUM_PROCESSES to the job's completions and KLEIBER_COORDINATOR to POD-0.SERVICE:PORT",
        ),
        ("JOB_COMPLETION_INDEX=1 KLEIBER_NUM_PROCESSES=2", "KLEIBER_NUM_PROCESSES set, but not KLEIBER_COORDINATOR"),
    ],
)
def test_a_start_that_is_half_set_is_exit_code_2_with_what_to_do(launcher, tmp_path, variables, said, capsys):
    from kleiber.experiments.cli import main

    launcher(variables)
    assert main(["train", "miniature", "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def told_by_other(monkeypatch):
    """Returns a function that lets another process say the same but for some changes."""

    def change(**changes) -> None:
        def gather(name: str, text: str) -> list[str]:
            facts = json.loads(text)
            return [text, json.dumps({**facts, **{k: v for k, v in changes.items() if k in facts}})]

        monkeypatch.setattr(hosts, "gather", gather)

    return change


@pytest.mark.parametrize("package", release.PACKAGES)
def test_each_version_is_compared(told_by_other, package):
    told_by_other(**{f"version of {package}": "9.9.9"})
    with pytest.raises(
        peers.PeersDiffer, match=rf"differ in version of {package}: \S+ in process 0, 9.9.9 in process 1\."
    ):
        peers.agree_on_hosts(load_experiment("miniature"))


@pytest.mark.parametrize("room", release.ROOMS)
def test_the_code_of_each_room_is_compared(told_by_other, room):
    told_by_other(**{f"code of kleiber.{room}": "other"})
    with pytest.raises(peers.PeersDiffer, match=rf"differ in code of kleiber.{room}: \w{{16}} in process 0, other in"):
        peers.agree_on_hosts(load_experiment("miniature"))


def test_any_change_of_a_source_file_or_its_name_changes_the_digest(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text("y = 1\n")
    digests = [release.source_digest(tmp_path)]
    (tmp_path / "configs" / "mine.py").write_text("of the user")
    assert release.source_digest(tmp_path) == digests[0]
    (tmp_path / "a.py").write_text("x = 2\n")
    digests.append(release.source_digest(tmp_path))
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    digests.append(release.source_digest(tmp_path))
    assert len(set(digests)) == 3


@pytest.mark.parametrize(("seconds", "is_refused"), [(59, False), (-59, False), (61, True), (-3600, True)])
def test_clocks_more_than_a_minute_apart_are_refused(told_by_other, seconds, is_refused):
    told_by_other(clock=time.time() + seconds)
    if is_refused:
        with pytest.raises(peers.PeersDiffer, match=r"clock: 20\S+ in process 0, 20\S+ in process 1"):
            peers.agree_on_hosts(load_experiment("miniature"))
    else:
        peers.agree_on_hosts(load_experiment("miniature"))


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("JAX_DEFAULT_MATMUL_PRECISION", "highest", "bfloat16"),
        ("JAX_ENABLE_X64", "1", None),
        ("JAX_DEFAULT_PRNG_IMPL", "rbg", None),
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=true", "--xla_cpu_enable_fast_math=false"),
        ("NVIDIA_TF32_OVERRIDE", "0", None),
    ],
)
def test_a_variable_that_changes_numbers_is_compared(monkeypatch, name, value, other):
    monkeypatch.setenv(name, value)

    def gather(_, text):
        facts = json.loads(text)
        theirs = {**facts, f"variable {name}": other} if other else {k: v for k, v in facts.items() if name not in k}
        return [text, json.dumps(theirs)]

    monkeypatch.setattr(hosts, "gather", gather)
    said = rf"variable {name}: {value} in process 0, {other or 'nothing'} in process 1"
    with pytest.raises(peers.PeersDiffer, match=said):
        peers.agree_on_hosts(load_experiment("miniature"))


@pytest.mark.parametrize(
    "name", ["JAX_COMPILATION_CACHE_DIR", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "JAX_LOG_COMPILES", "JAX_DUMP_IR_TO"]
)
def test_a_variable_that_changes_no_number_is_none_of_them(monkeypatch, name):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    before = numeric_settings()
    monkeypatch.setenv(name, "7")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3 --xla_dump_to=/tmp/x")
    assert numeric_settings() == before


@pytest.mark.parametrize(("what", "other"), [("local devices", 7), ("device", "gpu:H100")])
def test_devices_are_compared(told_by_other, what, other):
    told_by_other(**{what: other})
    with pytest.raises(peers.PeersDiffer, match=rf"differ in {what}: \S+ in process 0, {other} in process 1"):
        peers.agree_on_hosts(load_experiment("miniature"))


def test_the_file_of_a_law_of_ones_own_is_compared(told_by_other, tmp_path):
    (tmp_path / "mine.py").write_text("def my_law(num_tokens, *, E): return E")
    experiment = replace(load_experiment("miniature"), laws=(f"{tmp_path}/mine.py:my_law",))
    told_by_other(**{f"file {tmp_path}/mine.py": "missing"})
    with pytest.raises(peers.PeersDiffer, match=r"file \S+mine\.py: \w{16} in process 0, missing in process 1"):
        peers.agree_on_hosts(experiment)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("seed=7", r"trunks\[0\]\.seed: \d+ -> 7"),
        ("mesh.data=2", r"trunks\[0\]\.mesh\.data: 1 -> 2"),
        ("model.compute_dtype=bfloat16", r"trunks\[0\]\.model\.compute_dtype: \"float32\" -> \"bfloat16\""),
        ("data.tokenizer=sentencepiece:512", r"trunks\[0\]\.data\.tokenizer: \"bytes\" -> \"sentencepiece:512\""),
    ],
)
def test_a_follower_with_another_config_is_told_the_field(monkeypatch, tmp_path, assignment, said):
    experiment = load_experiment("miniature")
    given = replace(experiment, trunks=(set_field(experiment.trunks[0], assignment), *experiment.trunks[1:]))
    (tmp_path / "given.json").write_text(json.dumps(to_data(given)))
    monkeypatch.setenv(peers.GIVEN, str(tmp_path / "given.json"))
    assert re.search(said, peers._experiment_fact(experiment))


def test_another_variable_between_launches_is_refused_and_allowed_by_name(monkeypatch, tmp_path):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert inventory.check_release([], tmp_path, ()) == ""
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    with pytest.raises(ValueError, match=r"variables none -> JAX_ENABLE_X64=1\. .*--allow versions"):
        inventory.check_release([], tmp_path, ())
    assert "variables none -> JAX_ENABLE_X64=1" in inventory.check_release([], tmp_path, ("versions",))
    assert inventory.check_release([], tmp_path, ()) == ""


def test_processes_that_are_alike_agree(told_by_other):
    told_by_other()
    peers.agree_on_hosts(load_experiment("miniature"))


def test_a_follower_whose_text_cannot_be_read_is_told_by_all(told_by_other, tmp_path):
    told_by_other(**{f"text of {tmp_path}/none.txt": "0123456789abcdef"})
    config = set_field(load_experiment("miniature").trunks[0], f"data.corpus={tmp_path}/none.txt")
    with pytest.raises(
        peers.PeersDiffer, match=r"none.txt: not readable .* in process 0, 0123456789abcdef in process 1"
    ):
        peers.agree_on_data([config])


def test_another_tokenizer_of_the_same_text_is_told_as_such(monkeypatch, tmp_path):
    from kleiber.train.data.corpora.catalogue import prepare_corpus
    from kleiber.train.data.corpora.prepared import read_corpus_manifest, read_split
    from kleiber.train.data.tokenizers import prepare_tokenizer

    words = [f"{a}{b}{c}" for a in ("ab", "ce", "di", "fo") for b in ("lan", "mer", "tis") for c in ("do", "ga", "hu")]
    lines = (" ".join(words[(7 * i + 3 * j + i * j) % 36] for j in range(40)) + f" {i * i}" for i in range(900))
    (tmp_path / "text.txt").write_text("\n\n".join(lines))
    config = load_experiment("miniature").trunks[0]
    for assignment in (
        f"data.corpus={tmp_path}/text.txt",
        "data.tokenizer=sentencepiece:1000",
        "model.vocab_size=1000",
    ):
        config = set_field(config, assignment)
    config = set_field(set_field(config, "num_tokens=256"), "evaluation.num_tokens=256")
    facts = []
    for host in ("one", "two"):
        monkeypatch.setenv("KLEIBER_CACHE", str(tmp_path / host))
        folder = prepare_corpus(config.data.corpus, lambda line: None)
        documents = [d for _, group in read_split(folder, read_corpus_manifest(folder), "train") for d in group]
        prepare_tokenizer(folder, config.data.tokenizer, documents if host == "one" else documents[::-2])
        facts.append(peers._data_facts(config))
    monkeypatch.setattr(hosts, "gather", lambda name, text: [json.dumps(each) for each in facts])
    with pytest.raises(
        peers.PeersDiffer, match=r"differ in tokens of \S+text.txt as sentencepiece:1000: file/sentencep"
    ):
        peers.agree_on_data([config])
