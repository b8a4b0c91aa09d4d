"""Claims about the bench: who is measured when, how ratios and fractions are taken, and what it says and keeps.

No test asserts on seconds.
"""

import json
import re
import time
from pathlib import Path

import pytest

from kleiber.experiments.bench import sections as known
from kleiber.experiments.bench.figures import Figure, at_least, at_most, figure_of_data
from kleiber.experiments.bench.interleave import Samples, interleaved, spread_of
from kleiber.experiments.bench.machine import command_line, processor
from kleiber.experiments.bench.one_model import fractions_of_peak, ratio_figures
from kleiber.experiments.bench.session import summarised
from kleiber.experiments.bench.setting import Setting, find_function
from kleiber.experiments.bench.step_shapes import StepShape
from kleiber.experiments.cli import main
from kleiber.model.config import ModelConfig
from sections import results
from sections.growth import growth_figures
from sections.guarding import median_interval
from sections.peaks import bfloat16_peak
from sections.results import machine_name
from sections.startup import start_figures
from sections.sweep_speed import experiment_of, measure_sweep
from sections.workloads import SHORT_WORKLOADS, WORKLOADS


def test_candidates_take_turns_and_every_other_round_runs_backwards():
    order = []

    def candidate(name):
        return lambda: order.append(name) or 1.0

    samples = interleaved({name: candidate(name) for name in "abc"}, rounds=3, warm=1)
    assert "".join(order) == "cba" + "abc" + "cba" + "abc"
    assert {name: len(values) for name, values in samples.values.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians():
    # Rounds by hand: 2/1, 6/2, 20/4 -> 2, 3, 5, though the medians are 6 and 2; quartiles halfway: 2.5 and 4.
    ratio = Samples({"ours": [2.0, 6.0, 20.0], "theirs": [1.0, 2.0, 4.0]}).ratio("ours", "theirs")
    assert (ratio.low, ratio.median, ratio.high, ratio.rounds) == (2.5, 3.0, 4.0, 3)
    swapped = Samples({"ours": [8.0, 2.0, 5.0], "theirs": [1.0, 2.0, 4.0]})
    assert swapped.ratio("ours", "theirs").median == 1.25  # 8, 1, 1.25; the medians would give 2.5


def test_one_round_has_no_spread():
    assert spread_of([3.0]).as_dict() == {"median": 3.0, "low": 3.0, "high": 3.0, "rounds": 1}


def test_the_interval_of_a_median_is_that_of_the_sign_test():
    # From tables of the binomial distribution with p = 1/2: at 95 % the ranks of n = 10 are 2 and 9, of 20 6 and 15.
    assert median_interval(range(1, 11)) == (2, 9)
    assert median_interval(range(1, 21)) == (6, 15)
    assert median_interval([1.0, 2.0, 3.0]) == (1.0, 3.0)


@pytest.mark.parametrize("figure", [0.0, -1.0, float("nan"), float("inf")])
def test_a_figure_that_no_ratio_can_be_taken_of_is_refused(figure):
    with pytest.raises(ValueError, match="'broken' measured"):
        interleaved({"broken": lambda: figure}, rounds=1)


def test_fractions_of_the_peak_count_attention_whole_or_by_half():
    # By hand: one layer of width 8 with d_ff 32 has 4 * 64 + 2 * 256 = 768 weights, the head 16 * 8 = 128: 6N = 5376.
    # Attention of 4 positions: 12 * 4 * 8 = 384 FLOPs a token over the full square, 192 over its causal half.
    shape = StepShape(ModelConfig(d_model=8, num_layers=1, num_heads=2, vocab_size=16, seq_len=4), 1, 1)
    samples = Samples({"kleiber": [10.0, 20.0], "NumPy": [5568.0, 111360.0], "XLA": [111360.0, 5568.0]})
    fractions = fractions_of_peak(shape, samples)
    # The peak of a round is the faster library in it: 111360 both times.
    assert fractions["6N + causal attention"] == pytest.approx([10 * 5568 / 111360, 20 * 5568 / 111360])
    assert fractions["6N + full attention"] == pytest.approx([10 * 5760 / 111360, 20 * 5760 / 111360])


class Device:
    """A device of some kind, as JAX names it."""

    def __init__(self, device_kind):
        self.device_kind = device_kind


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [  # dense bfloat16 of the data sheets; those of Hopper and Ada print twice that, with sparsity
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 1979 / 2),
        ("NVIDIA H100 PCIe", 1513 / 2),
        ("NVIDIA H100 NVL", 1671 / 2),
        ("NVIDIA H200", 1979 / 2),
        ("NVIDIA GH200 480GB", 1979 / 2),
        ("NVIDIA L4", 242 / 2),
        ("NVIDIA L40S", 733 / 2),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU7x", 2307 / 2),  # two devices a chip
    ],
)
def test_the_peak_of_a_device_is_the_dense_one_of_its_data_sheet(kind, teraflops):
    assert bfloat16_peak(Device(kind)) / 1e12 == pytest.approx(teraflops, rel=0.015)


def test_a_device_without_a_data_sheet_has_no_peak():
    assert bfloat16_peak(Device("cpu")) is None


def test_a_goal_is_met_from_its_own_side():
    assert Figure("speed", 1.2, "ratio", goal=at_least(1.2)).is_met
    assert not Figure("speed", 1.19, "ratio", goal=at_least(1.2)).is_met
    assert Figure("seconds", 5.0, "s", goal=at_most(5.0)).is_met
    assert not Figure("seconds", 5.1, "s", goal=at_most(5.0)).is_met
    assert Figure("seconds", 5.1, "s").is_met is None


def test_a_figure_survives_json():
    figure = Figure("x", 1.5, "ratio", 1.4, 1.6, 5, at_most(2.0, 1.0), "note")
    assert figure_of_data(json.loads(json.dumps(figure.as_dict()))) == figure


def test_the_ratio_of_a_step_is_held_to_the_goal_of_its_peer_and_shape():
    row = {"median": 1.3, "low": 1.2, "high": 1.4, "rounds": 5}
    found = {"tokens_per_second": {"kleiber_data": 10.0}, "best_arrangement": "kleiber_data"}
    found["ratios"], found["roofs"] = {"torch": row, "torch_compiled": row, "jax": row}, {"torch": row}
    named = {figure.name: figure.goal for name in ("d64", "nanogpt") for figure in ratio_figures(name, found, 5)}
    assert named["d64: over PyTorch eager"] == at_least(1.2, 1.5)
    assert named["nanogpt: over PyTorch eager"] == at_least(1.2, 2.0)
    assert named["nanogpt: over PyTorch compiled"] == at_least(0.9, 1.2)
    assert named["d64: over plain JAX"] is None and named["d64: roof over PyTorch eager"] is None


def test_only_a_hundred_thousand_records_are_held_to_a_goal():
    row = {"wall_seconds": 61.0, "cpu_seconds": 60.0, "peak_bytes": 1e9, "exit_code": 0}
    figures = growth_figures({"fit": {1000: row, 100_000: row}}, {"fit": 1.1})
    assert {figure.name: figure.is_met for figure in figures if figure.goal} == {
        "fit, 100,000 records": False,
        "fit, 100,000 records, peak memory": True,
    }


def test_only_the_waits_with_a_goal_are_held_to_one():
    seconds = {"help": 0.6, "train_help": 0.6, "first_step": 4.9, "import_libraries": 1.5}
    seconds |= {"import_libraries_nnx": 1.8, "import_kleiber": 2.1}
    found = start_figures(Samples({name: [value] for name, value in seconds.items()}))
    assert {figure.name: figure.is_met for figure in found if figure.goal} == {
        "kleiber --help": False,
        "kleiber train, warm, to its first step": True,
        "what kleiber's imports add": False,
    }
    assert {f.name: f.value for f in found}["what kleiber's imports add"] == pytest.approx(2.1 - 1.5)


def test_each_short_workload_stands_for_one_of_the_same_kind_and_goal():
    assert set(SHORT_WORKLOADS) <= set(WORKLOADS)
    assert all(workload.kind == WORKLOADS[name].kind for name, workload in SHORT_WORKLOADS.items())
    assert {w.kind for w in SHORT_WORKLOADS.values()} == {w.kind for w in WORKLOADS.values()}


def test_the_command_that_is_kept_names_no_folder_of_the_machine(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/kleiber", "bench", "step", "--out", "/somewhere/benchmarks"])
    assert command_line() == "kleiber bench step --out benchmarks"


def bench(capsys, *words):
    """Returns (exit code, what was printed) of `kleiber bench`."""
    code = main(["bench", *words])
    return code, capsys.readouterr()


def test_the_command_measures_short_sections_and_prints_one_json_object(capsys):
    code, said = bench(capsys, "machine", "matmul", "--short", "--rounds", "2", "--json")
    found = json.loads(said.out)
    assert code == 0 and list(found["sections"]) == ["matmul"]
    assert {"jax", "numpy", "kleiber"} <= set(found["machine"]["versions"]) and found["machine"]["cores"] >= 1
    matmul = found["sections"]["matmul"]
    assert matmul["reason"] is None and len(matmul["load_before"]) == 3
    assert 0 <= matmul["cores_used_by_others"] <= found["machine"]["cores"]
    one = next(figure for figure in matmul["figures"] if figure["name"] == "NumPy, 1 thread")
    assert one["rounds"] == 2 and 0 < one["low"] <= one["value"] <= one["high"] and one["unit"] == "GFLOP/s"
    assert "round 2 of 2" in said.err
    assert found["sweep_ratio_to_pytorch"] is None and found["goals_missed"] == []


def test_a_section_that_fails_leaves_its_reason_and_the_others_go_on(capsys, monkeypatch):
    monkeypatch.setattr("kleiber.experiments.bench.matmul.measure_matmul", lambda setting: 1 / 0)
    monkeypatch.setattr("sections.guarding.measure_guarding", lambda setting: {"figures": []})
    code, said = bench(capsys, "guard", "matmul", "--short", "--json")
    found = json.loads(said.out)["sections"]
    assert code == 3 and "ZeroDivisionError" in found["matmul"]["reason"] and found["guard"]["reason"] is None


def test_an_installation_says_that_the_rest_takes_a_checkout(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("kleiber.experiments.bench.setting.HOUSE", tmp_path)
    for words in (("--figure", str(tmp_path)), ("matmul", "--out", str(tmp_path))):
        code, said = bench(capsys, *words)
        assert code == 2 and "run it in a checkout of kleiber" in said.err and not said.out
    code, said = bench(capsys, "sweep", "--json")
    assert code == 0 and "run it in a checkout of kleiber" in json.loads(said.out)["sections"]["sweep"]["reason"]


def test_every_task_of_a_process_is_a_function_that_is_there():
    tasks = {
        task
        for folder in ("experiments/bench", "benchmarks/sections")
        for path in Path(folder).glob("*.py")
        for task in re.findall(r"(?:Partner|measure_fresh)\(\s*\"([\w.]+:\w+)\"", path.read_text())
    }
    assert len(tasks) > 6
    for module, function in (task.split(":") for task in tasks):  # read, not imported: some need torch
        path = Path("benchmarks" if "." in module else "experiments/bench", module.replace(".", "/") + ".py")
        assert f"def {function}(" in path.read_text()


def test_without_an_accelerator_the_goals_are_told(capsys):
    code, said = bench(capsys, "accelerator")
    assert code == 0 and "no accelerator: CPU part only" in said.out and "GPT-2 124M" in said.out


def test_what_is_measured_before_an_interrupt_is_kept(tmp_path, monkeypatch):
    def interrupted(setting):
        raise KeyboardInterrupt

    monkeypatch.setattr("sections.guarding.measure_guarding", interrupted)
    monkeypatch.setattr("kleiber.experiments.bench.matmul.measure_matmul", lambda setting: {"figures": []})
    assert main(["bench", "matmul", "guard", "--out", str(tmp_path)]) == 75
    assert [list(kept["sections"]) for kept in results.read_results(tmp_path)] == [["matmul"]]


def test_an_unknown_section_names_the_nearest(capsys):
    code, said = bench(capsys, "matmull")
    assert code == 2 and "did you mean 'matmul'" in said.err


def result(commit, section, is_short=False):
    """Returns a result of one section with one figure."""
    figure = Figure("f", 1.0, "ratio", goal=at_least(2.0)).as_dict()
    machine = {"accelerator": None, "processor": "A (R) CPU", "cores": 2, "commit": commit, "date": "2026-01-01"}
    found = {"figures": [figure], "detail": {}, "reason": None}
    return {"format": 1, "is_short": is_short, "machine": machine, "sections": {section: found}}


def test_results_of_one_machine_and_commit_come_together_in_one_file(tmp_path):
    path = results.keep(tmp_path, summarised(result("abc", "step")))
    assert results.keep(tmp_path, summarised(result("abc", "fit"))) == path == tmp_path / "a-r-cpu-2-cores-abc.json"
    results.keep(tmp_path, summarised(result("def", "fit")))
    assert [sorted(kept["sections"]) for kept in results.read_results(tmp_path)] == [["fit", "step"], ["fit"]]
    assert results.read_result(path)["goals_missed"] == ["step: f", "fit: f"]


def test_a_short_result_is_not_kept(tmp_path, capsys):
    with pytest.raises(ValueError, match="short"):
        results.keep(tmp_path, result("abc", "step", is_short=True))
    code, said = bench(capsys, "matmul", "--short", "--out", str(tmp_path))
    assert code == 2 and "not kept" in said.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, expected",
    [("fpu avx avx2 fma", "A CPU, AVX2"), ("avx512f avx2 avx512bw", "A CPU, AVX-512"), ("fpu sse2", "A CPU")],
)
def test_two_processors_of_one_name_are_told_apart_by_their_widest_vectors(flags, expected, tmp_path):
    described = tmp_path / "cpuinfo"
    described.write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: {flags}\nbugs\t\t: avx2_bug\n")
    assert processor(described) == expected


def test_the_name_of_a_machine_tells_its_kind_alone():
    machine = {"accelerator": "NVIDIA H100 80GB HBM3", "processor": "any", "cores": 16}
    assert machine_name(machine) == "nvidia-h100-80gb-hbm3"


def test_the_figure_shows_each_ratio_with_its_spread(tmp_path, capsys):
    kept = result("abc", "step")
    row = {"median": 1.25, "low": 1.2, "high": 1.4, "rounds": 5}
    kept["sections"]["step"]["detail"] = {"steps": {"d64": {"ratios": {"torch": row, "jax": {**row, "median": 1.3}}}}}
    kept["machine"]["versions"] = {"jax": "0.10.2"}
    results.keep(tmp_path, summarised(kept))
    code, said = bench(capsys, "--figure", str(tmp_path))
    drawn = (tmp_path / "a-r-cpu-2-cores.svg").read_text()
    assert code == 0 and "a-r-cpu-2-cores.svg" in said.out
    assert {"d64", "1.2", "1.3"} <= set(re.findall("<!-- (.*?) -->", drawn))  # matplotlib notes each text it draws
    bench(capsys, "--figure", str(tmp_path))
    assert (tmp_path / "a-r-cpu-2-cores.svg").read_text() == drawn, "the same results give the same bytes"


def test_the_figure_brings_together_what_was_measured_at_two_commits(tmp_path, capsys):
    row = {"median": 1.5, "low": 1.4, "high": 1.6, "rounds": 5}
    for commit, section, detail in (
        ("abc", "step", {"steps": {"d64": {"ratios": {"torch": row}}}}),
        ("def", "sweep", {"sweep_ratio_to_pytorch": {**row, "median": 1.7, "high": 1.8}}),
        ("ghi", "sweep", {"sweep_ratio_to_pytorch": {**row, "median": 1.6}, "scale": 0.1}),
    ):
        kept = result(commit, section)
        kept["sections"][section]["detail"], kept["machine"]["versions"] = detail, {"jax": "0.10.2"}
        results.keep(tmp_path, summarised(kept))
    code, said = bench(capsys, "--figure", str(tmp_path))
    assert code == 0, said.err
    texts = set(re.findall("<!-- (.*?) -->", (tmp_path / "a-r-cpu-2-cores.svg").read_text()))
    assert {"d64", "sweep", "sweep x 0.1", "1.5", "1.6", "1.7"} <= texts
    assert any(text.endswith("abc, def, ghi") for text in texts) and not any("commit (ratio" in text for text in texts)


def test_a_slower_machine_keeps_its_own_figure_beside_a_faster_one(tmp_path, capsys):
    for vectors, median in (("AVX2", 1.1), ("AVX-512", 2.2)):
        kept = result("abc", "step")
        row = {"median": median, "low": median, "high": median, "rounds": 5}
        kept["sections"]["step"]["detail"] = {"steps": {"d64": {"ratios": {"torch": row}}}}
        kept["machine"] |= {"processor": f"A CPU, {vectors}", "versions": {"jax": "0.10.2"}}
        results.keep(tmp_path, summarised(kept))
    code, said = bench(capsys, "--figure", str(tmp_path))
    assert code == 0, said.err
    for name, shown, other in (("a-cpu-avx2", "1.1", "2.2"), ("a-cpu-avx-512", "2.2", "1.1")):
        texts = re.findall("<!-- (.*?) -->", (tmp_path / f"{name}-2-cores.svg").read_text())
        assert shown in texts and other not in texts


def test_every_section_names_a_function_that_is_there():
    for section in known.SECTIONS.values():
        assert callable(find_function(section.function))


def test_all_trainers_of_a_sweep_are_told_the_same_runs():
    whole, tenth = experiment_of(1.0), experiment_of(0.1)
    assert len(whole.trunks) == 12  # ten trunks and two targets of the quickstart
    for config, smaller in zip(whole.trunks, tenth.trunks, strict=True):
        assert smaller.model == config.model and smaller.seed == config.seed
        assert smaller.num_tokens == tuple(round(tokens / 10) for tokens in config.num_tokens)
        assert smaller.schedule.warmup_steps < smaller.steps_at(smaller.num_tokens[0])


def test_a_sweep_of_all_tokens_leaves_out_the_slower_arrangement_of_pytorch(monkeypatch, tmp_path):
    trained = []

    class Sweep:
        """Trains nothing; one process of threads takes longer."""

        cells, losses = (), {"kleiber": {"point": 2.0}}

        def __init__(self, setting, scale):
            self.is_warm = False
            trained.append(scale)

        def kleiber(self):
            trained.append("kleiber")

        def by_torch(self, peers):
            self.losses |= {name: {"point": 2.0} for name in peers}
            waits = {name: 0.05 if workers == 1 else 0.0 for name, (workers, _) in peers.items()}
            return {name: lambda name=name: trained.append(name) or time.sleep(waits[name]) for name in peers}

    monkeypatch.setattr("sections.sweep_speed.Sweep", Sweep)
    monkeypatch.setattr("sections.sweep_speed.num_cores", lambda: 2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    found = measure_sweep(Setting(2, False, tmp_path, lambda line: None, sweep_scale=1.0))
    workers, threads = "PyTorch, 2 one-thread workers", "PyTorch, one process of 2 threads"
    assert trained == [1.0, 0.02, workers, threads, "kleiber", workers, workers, "kleiber"]
    assert found["better_torch_arrangement"] == workers and set(found["seconds_of_a_fiftieth"]) == {workers, threads}
