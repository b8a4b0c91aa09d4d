"""Claims about attacks on a sweep's directory, one after another: what is reported is true of what is there now, or it
is refused with the file. In place of training stands the function of config and text of test_chain.
"""

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import test_chain
from test_chain import FakePool, launch, numbers_of
from test_remedies import WithoutCheckpoints, experiment, facts, typed

from kleiber.experiments.cli import main
from kleiber.experiments.directory.doctor import diagnose
from kleiber.experiments.report.checklist import checklist
from kleiber.experiments.report.drawing import Study
from kleiber.experiments.report.results import read_results
from kleiber.experiments.report.story import summary as report_summary
from kleiber.experiments.sweeping.failures import Attempts
from kleiber.files import read_json, write_json
from kleiber.scaling.fitting.result import read_fits
from kleiber.train.watch.metrics import Metrics, whole_rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("attacks") / "out"
    assert typed(directory).exit_code == 0
    return directory


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A finished sweep, to be attacked."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def fresh(tmp_path: Path, asked, world=None) -> dict:
    """What a run of the experiment in a directory of its own reports."""
    return numbers_of(launch(asked, tmp_path / "fresh", world or WithoutCheckpoints()).summary)


def fewer(rate: float = 0.01):
    return replace(experiment(rate), trunks=experiment(rate).trunks[:-1])


class Impatient(WithoutCheckpoints):
    patience = 15  # all that is fitted, and no fit


@pytest.mark.parametrize("is_fitted", [True, False])
@pytest.mark.parametrize("other", [experiment(0.003), fewer(), fewer(0.003)], ids=["rate", "trunks", "both"])
def test_after_allow_fit_forecast_and_outcome_are_those_of_the_experiment_now(finished, tmp_path, other, is_fitted):
    directory = tmp_path / "out"
    if is_fitted:
        shutil.copytree(finished, directory)
    else:
        launch(experiment(), directory, Impatient())
    with pytest.raises(ValueError, match="belongs to another experiment") as refusal:
        launch(other, directory, WithoutCheckpoints())
    allowed = tuple(re.findall(r"--allow ([\w.]+)", str(refusal.value)))
    found = launch(other, directory, WithoutCheckpoints(), allow=allowed)
    assert numbers_of(found.summary) == fresh(tmp_path, other) and diagnose(directory).is_healthy
    if is_fitted:
        assert any("is withdrawn" in line for line in found.summary["told"])


LAW = """
def my_law(num_params_total, num_tokens, *, E, A, alpha, B, beta):
    return E + A / num_params_total**alpha + B / num_tokens**beta
"""


def test_a_law_of_ones_own_that_was_edited_is_fitted_anew_and_its_forecast_withdrawn(tmp_path):
    path, directory = tmp_path / "mine.py", tmp_path / "out"
    path.write_text(LAW)
    asked = experiment(laws=(f"{path}:my_law",))
    before = launch(asked, directory, WithoutCheckpoints()).summary
    path.write_text(LAW.replace("+ B / num_tokens**beta", "* (1 + B / num_tokens**beta)"))
    test_chain.FITS.clear()  # which knows a law by its name
    found = launch(asked, directory, WithoutCheckpoints()).summary
    assert any("is withdrawn" in line for line in found["told"])
    assert numbers_of(found) == fresh(tmp_path, asked) != numbers_of(before)
    assert launch(asked, directory, WithoutCheckpoints()).summary["made_from"] == found["made_from"]


def test_another_experiment_in_a_directory_whose_runs_were_removed_reports_its_own_numbers(out, tmp_path):
    shutil.rmtree(out / "runs")
    other = replace(experiment(0.003), name="another")
    assert numbers_of(launch(other, out, WithoutCheckpoints()).summary) == fresh(tmp_path, other)


def test_a_fit_of_which_runs_had_failed_is_made_again_once_they_are_done(tmp_path, finished):
    directory = tmp_path / "out"

    class Broken(WithoutCheckpoints):
        broken = next(path.name for path in finished.glob("runs/d8-*-D6400"))

    assert launch(experiment(), directory, Broken()).exit_code == 3
    found = typed(directory, retry_failed=True)
    assert facts(directory) == facts(finished)
    assert found.exit_code == 3 and any("is late" in line for line in found.summary["told"])  # its target had run


def test_a_strangers_record_is_set_aside_and_counts_nowhere(finished, out):
    path = min(out.glob("runs/d8-*-D6400/record.json"))
    write_json(out / "runs" / "stranger" / "record.json", {**read_json(path), "run_id": "stranger", "loss": 9.0})
    assert "of no cell" in next(f.what for f in diagnose(out).findings if f.path == "runs/stranger")
    assert typed(out).exit_code == 0 and facts(out) == facts(finished) and not (out / "runs" / "stranger").exists()


@pytest.mark.parametrize(
    ("what", "said"),
    [("text", "holds runs of another text or program: .* --allow data"), ("release", "kleiber 1 -> 2.*versions")],
)
def test_another_text_or_release_beside_runs_is_refused_and_allowed_by_name(finished, tmp_path, what, said):
    directory, world = tmp_path / "out", Impatient()
    world.patience = 5
    launch(experiment(), directory, world)
    world = WithoutCheckpoints()
    setattr(world, what, 1 if what == "text" else "2")
    with pytest.raises(ValueError, match=f"(?s){said}"):
        launch(experiment(), directory, world)
    found = launch(experiment(), directory, world, allow=("data" if what == "text" else "versions",))
    assert numbers_of(found.summary) == fresh(tmp_path, experiment(), world)
    assert any(("another text" if what == "text" else "kleiber 1 -> 2") in line for line in found.summary["told"])


def forged(path: Path, **changes) -> None:
    """Writes another value with a whole seal."""
    write_json(path, {**read_json(path), **changes})


def edited(path: Path, **changes) -> None:
    """Writes another value and leaves the seal as it was."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def stripped(path: Path, **changes) -> None:
    """Writes another value and no seal, as a release without seals would."""
    path.write_text(json.dumps({**read_json(path), **changes}))


@pytest.mark.parametrize(
    ("write", "changes", "said"),
    [
        *((forged, {"loss": loss}, "its loss is|loss is") for loss in (float("nan"), None, -1.0)),
        *((forged, {"loss": loss}, "loss is '.*', expected") for loss in (True, "1.8", [1.8])),
        (forged, {"loss": 10**400}, "more than 63 bits"),
        *((forged, {name: 7}, f"{name} is '7'") for name in ("num_params_total", "num_tokens", "seed", "flops")),
        (forged, {"status": "pending"}, "its status is 'pending'"),
        (forged, {"status": "finished"}, "its status is 'finished'"),
        (forged, {"config_hash": "0" * 12}, "config_hash is '000000000000'"),
        *((write, {"loss": 1.5}, said) for write, said in ((edited, "differs from its seal"), (stripped, "no seal"))),
        (stripped, {}, "no seal"),
    ],
)
def test_a_record_of_other_values_is_refused_with_its_file_and_without_an_option_of_other_verbs(
    finished,
    out,
    write,
    changes,
    said,
):
    path = min(out.glob(("runs/d8-*-D6400" if write is forged else "runs/d32-*-D204800") + "/record.json"))
    write(path, **changes)
    with pytest.raises(ValueError, match=rf"{path}.*({said})") as refusal:
        typed(out)
    assert "--drop" not in str(refusal.value) and "emove" in str(refusal.value)
    assert {f.path for f in diagnose(out).findings if f.kind == "damaged"} == {path.relative_to(out).as_posix()}
    path.unlink()
    assert typed(out).exit_code == 0 and facts(out) == facts(finished)


def test_records_that_were_exchanged_are_refused_and_named(out):
    one, other = sorted(out.glob("runs/d8-*/record.json"))[:2]
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1]), other.write_bytes(contents[0])
    with pytest.raises(ValueError, match=r"record\.json: run_id is .* its config says"):
        typed(out)
    damaged = {f.path for f in diagnose(out).findings if f.kind == "damaged"}
    assert damaged == {path.relative_to(out).as_posix() for path in (one, other)}


def other_floor(fit: dict) -> dict:
    parameters = fit["parameters"]
    return {"parameters": {**parameters, "E": {**parameters["E"], "estimate": 1.5 * parameters["E"]["estimate"]}}}


FITS = {
    "z": lambda fit: {"state": {**fit["state"], "z": [z + 0.1 for z in fit["state"]["z"]]}},
    "E": other_floor,
    "rivals": lambda fit: {"rivals": [{}]},
    "covariance": lambda fit: {"state": {**fit["state"], "covariance": [[0.0]]}},
    "residual_rms": lambda fit: {"residual_rms": 0.5},
    "rolling_origin": lambda fit: {"rolling_origin": {**fit["rolling_origin"], "factor": 0.01}},
}


@pytest.mark.parametrize("write", [edited, stripped])
@pytest.mark.parametrize("what", FITS)
def test_a_fit_that_was_edited_is_refused_by_forecast_and_sweep_and_told_by_report_and_doctor(
    finished,
    out,
    capsys,
    write,
    what,
):
    path = out / "fit.json"
    write(path, **FITS[what](read_json(path)))
    assert main(["forecast", str(out), "--num-params", "1e5", "--num-tokens", "1e6"]) == 2
    assert "seal" in capsys.readouterr().err
    assert any("fit.json is damaged" in gap for gap in read_results(out).gaps)
    assert {f.path for f in diagnose(out).findings if f.kind == "damaged"} == {"fit.json"}
    with pytest.raises(ValueError, match=r"fit\.json .*[Rr]emove"):
        typed(out)
    path.unlink()
    assert typed(out).exit_code == 0 and facts(out) == facts(finished)


@pytest.mark.parametrize("content", ["[]", "3", "{}", "[" * 100_000, '{"law": 3}', "\xff", ""])
def test_a_fit_of_another_shape_is_one_line_of_forecast(tmp_path, capsys, content):
    (tmp_path / "fit.json").write_bytes(content.encode("latin-1"))
    assert main(["forecast", str(tmp_path / "fit.json"), "--num-params", "1e5", "--num-tokens", "1e6"]) == 2
    told = capsys.readouterr().err
    assert "fit.json" in told and told.count("\n") == 1


@pytest.mark.parametrize("write", [edited, stripped])
@pytest.mark.parametrize("changes", [{"runs": {"done": 999}}, {"exit_code": 0, "gate": []}, {"targets": []}, {}])
def test_a_result_that_was_edited_is_neither_printed_nor_reported(out, write, changes):
    path = out / "result.json"
    before = path.read_text()
    write(path, **changes)
    if path.read_text() == before or (write is edited and not changes):
        return
    with pytest.raises(ValueError, match=r"result\.json .*seal.*remove it"):
        typed(out)
    results = read_results(out)
    assert results.result == {} and any("result.json is damaged" in gap for gap in results.gaps)
    assert report_summary(Study(results))["verdict"] == "failed"
    assert {f.path for f in diagnose(out).findings if f.kind == "damaged"} == {"result.json"}


def test_a_table_without_its_seal_is_refused_by_fit_and_named_by_the_doctor(finished, out, capsys):
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(out / "table.parquet")
    column = table.column_names.index("loss")
    changed = table.set_column(column, "loss", pc.add(table["loss"], 0.3)).replace_schema_metadata(None)
    pq.write_table(changed, out / "table.parquet")
    assert main(["fit", str(out), "--no-in-depth"]) == 2
    assert "table.parquet" in (told := capsys.readouterr().err) and "no seal" in told
    assert {f.path for f in diagnose(out).findings if f.kind == "damaged"} == {"table.parquet"}
    (out / "table.parquet").unlink()
    assert typed(out).exit_code == 0 and facts(out) == facts(finished)


def test_a_directory_of_before_there_were_seals_is_read_as_it_stands_and_sealed_when_it_goes_on(finished, out, capsys):
    (out / "made_with.json").unlink()  # which is newer than seals
    for path in sorted([*out.rglob("*.json"), *out.glob("*.head")], key=lambda path: path.name == "experiment.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({name: content[name] for name in content if name not in ("sealed", "seal")}))
    log = out / "runs" / min((out / "runs").iterdir()).name / "metrics.jsonl"
    log.write_text('{"step": 1, "segment": "trunk", "loss": 3.0}\n')
    assert diagnose(out).is_healthy and facts(out) == facts(finished) and len(whole_rows(log)) == 1
    assert main(["forecast", str(out), "--num-params", "1e5", "--num-tokens", "1e6"]) == 0
    assert "note           its file has no seal" in capsys.readouterr().out
    found = typed(out)
    assert found.exit_code == 0 and facts(out) == facts(finished)
    assert "files of a release that sealed none are sealed from here on" in (out / "log.txt").read_text()
    assert diagnose(out).is_healthy and len(whole_rows(log)) == 1
    log.write_text('{"step": 1, "segment": "trunk", "loss": 2.0}\n')
    assert whole_rows(log) == []
    stripped(out / "fit.json")
    with pytest.raises(ValueError, match="no seal"):
        read_fits(out)


@pytest.mark.parametrize("lost", ["ledger.jsonl", "half", "edited"])
def test_a_ledger_that_lost_lines_is_no_held_law_in_the_report(out, lost):
    path = out / "ledger.jsonl"
    text = path.read_text()
    if lost == "ledger.jsonl":
        path.unlink()
    else:
        path.write_text(text[: len(text) // 2] if lost == "half" else text.replace("2", "3", 1))
    said = report_summary(Study(read_results(out)))
    assert said["verdict"] == "failed" and "prove nothing" in said["headline"] and not said["targets"]


@pytest.mark.parametrize(
    "line", ["[]", "3", "null", '"text"', '{"segment": 1, "step": 2}', '{"step": "2"}', "[" * 9999]
)
def test_a_log_and_a_note_of_another_kind_cost_their_line_only(tmp_path, line):
    log = Metrics(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        log.append({"step": step, "segment": "trunk", "loss": 2.0})
    log.path.write_text(log.path.read_text().replace("\n", f"\n{line}\n", 1))
    assert [row["step"] for row in whole_rows(log.path)] == [1, 2]
    assert log.truncate("trunk", 2) == 0.0 and line not in log.path.read_text()
    (tmp_path / "attempts.json").write_text(line)
    attempts = Attempts(tmp_path, "session")
    attempts.start(1)
    assert attempts.count == 1


def test_the_log_of_a_run_that_is_trained_anew_with_another_rate_has_no_row_of_the_old_one(out):
    trunk = out / "runs" / min(path.name for path in (out / "runs").glob("d8-*")).rpartition("-D")[0]
    Metrics(trunk / "metrics.jsonl").append({"step": 1, "segment": "trunk", "loss": 3.0})
    (trunk / "checkpoints" / "trunk" / "step_1").mkdir(parents=True)
    launch(experiment(0.003), out, WithoutCheckpoints(), allow=("optimizer.learning_rate",))
    assert not list((out / "runs").glob("*/metrics.jsonl")) and not (out / "runs" / trunk.name).exists()


def test_a_sweep_that_measured_nothing_is_not_done(tmp_path):
    asked, run = experiment(laws=(), targets=()), FakePool.run

    def diverging(pool, on_tick):
        code = run(pool, on_tick)
        for path in tmp_path.glob("runs/*/record.json"):
            forged(path, status="diverged", reason="the loss is not finite", loss=None)
        return code

    FakePool.run = diverging
    try:
        assert launch(asked, tmp_path, WithoutCheckpoints()).exit_code == 3
    finally:
        FakePool.run = run


FILES = (
    *("log.txt", "experiment.json", "fit.json", "result.json", "plan.json", "made_with.json", "table.parquet"),
    *("ledger.jsonl", "ledger.jsonl.head", "sweep.json", "allowed.json", "runs/d8-*-D6400/record.json"),
    *("runs/d32-*-D204800/record.json", "runs/d32-*/begun.json"),
)


def zeros(path: Path) -> None:
    os.symlink("/dev/zero", path)


@pytest.fixture
def in_time():
    """Ends a test that waits for a pipe."""

    def late(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("name", "make"), [*((name, os.mkfifo) for name in FILES), *((name, zeros) for name in FILES[:2])]
)
def test_nothing_waits_for_a_pipe_or_a_device_in_place_of_a_file(out, in_time, capsys, name, make):
    path = min(out.glob(name), default=out / name)
    path.unlink(missing_ok=True)
    make(path)
    assert path.relative_to(out).as_posix() in {f.path for f in diagnose(out).findings if f.kind == "damaged"}
    report_summary(Study(read_results(out))), checklist(read_results(out))
    main(["ledger", str(out)]), main(["fit", str(out), "--no-in-depth", "--starts", "2"])
    main(["forecast", str(out), "--num-params", "1e5", "--num-tokens", "1e6"])
    assert "Traceback" not in (told := capsys.readouterr()).out + told.err
    try:
        typed(out)
    except (ValueError, OSError) as refusal:
        assert path.name in str(refusal)
    for each in [path, *out.glob("ledger.jsonl.head")] if path.name == "ledger.jsonl" else [path]:
        each.unlink(missing_ok=True)
    assert typed(out).exit_code == (3 if path.name == "ledger.jsonl" else 0)  # the forecast is made again, too late


ESCAPE = "\x1b]0;owned\x07"


def with_escapes(data):
    """Returns JSON data with an escape sequence at the end of every text that people read."""
    if isinstance(data, dict):
        kept = ("law", "event", "target", "run_id", "status", "trunk_id", "hash", "previous_hash", "text", "fit")
        return {name: value if name in kept else with_escapes(value) for name, value in data.items()}
    if isinstance(data, list):
        return [with_escapes(each) for each in data]
    return f"{data}{ESCAPE}" if isinstance(data, str) and " " in data else data


def test_terminal_escapes_in_any_file_of_a_sweep_are_shown_as_codes(out, capsys):
    from kleiber.experiments.commands.report import _print
    from kleiber.experiments.report.build import ReportPaths
    from kleiber.experiments.sweeping.sweep import summary_lines
    from kleiber.experiments.terminal import tell

    fit = read_json(out / "fit.json")
    write_json(out / "fit.json", {**fit, "notes": [f"a note{ESCAPE}"], "source": f"a source{ESCAPE}"})
    for name in ("result.json", "plan.json"):
        write_json(out / name, with_escapes(read_json(out / name)))
    path = min(out.glob("runs/d8-*-D6400/record.json"))
    forged(path, status="failed", loss=None, reason=f"of bad luck{ESCAPE}")
    main(["doctor", str(out)])
    for verb in ("ledger", "fit", "ask", "forecast"):
        more = {"fit": ["--no-in-depth"], "forecast": ["--num-params", "1e5", "--num-tokens", "1e6"]}
        main([verb, str(out), *more.get(verb, [])])
    said = report_summary(Study(read_results(out)))
    _print(ReportPaths(out / "report.html", out / "report.ipynb", said, (f"a problem{ESCAPE}",)))
    tell("\n".join(summary_lines(read_json(out / "result.json"))))
    told = capsys.readouterr()
    assert ESCAPE[0] not in told.out + told.err and (told.out + told.err).count("\\x1b]0;owned") > 5


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_stream_takes_colours_of_a_terminal_and_no_sequence_of_a_stranger(is_terminal):
    from kleiber.experiments.terminal import _write_printable

    taken = []
    _write_printable(taken.append, is_terminal, f"\x1b[1;31mred\x1b[0m {ESCAPE} \x1b[2J \x1b_G \x9b5n")
    assert taken[0].count("\x1b") == (2 if is_terminal else 0) and "\x9b" not in taken[0] and "\x07" not in taken[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("line.csv", "loss,num_tokens\n" + "9" * 200_000, "field larger than field limit"),
        ("line.csv", "loss\n" + "9," * 60_000, "row 2 has 60001 fields, the header 1"),
        ("line.jsonl", '{"loss": ' + "9" * 200_000, "line 1 is no JSON object"),
        ("deep.jsonl", "[" * 100_000, "line 1 is no JSON object"),
        ("deep.json", '{"a":' * 100_000, "line 1 is no JSON object"),
        ("long.csv", "loss\n" + "9" * 3_000_000, "more than is read at once"),
        ("long.json", '{"loss": [' + "9," * 1_500_000, "more than is read at once"),
    ],
)
def test_a_table_of_one_endless_line_is_one_sentence(tmp_path, capsys, monkeypatch, name, content, said):
    monkeypatch.setattr("kleiber.files.MAX_TEXT_BYTES", 2_000_000)
    path = tmp_path / name
    path.write_text(content)
    assert main(["fit", str(path)]) == 2
    told = capsys.readouterr().err
    assert said in told and name in told and told.count("\n") == 1 and len(told) < 1000


def test_a_table_larger_than_is_read_at_once_is_refused_before_it_is_read(tmp_path, capsys):
    with open(tmp_path / "holes.csv", "wb") as file:
        file.truncate(600_000_000)  # of holes: it takes no space
    assert main(["fit", str(tmp_path / "holes.csv")]) == 2
    assert "holes.csv has 600 MB, more than is read at once" in capsys.readouterr().err


def test_a_parquet_table_of_more_rows_than_memory_holds_is_refused_before_it_is_read(tmp_path, capsys, monkeypatch):
    import psutil
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"loss": [2.5] * 1_000_000}), tmp_path / "equal.parquet")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 30_000_000}))
    assert main(["fit", str(tmp_path / "equal.parquet")]) == 2
    assert "does not fit in memory (1,000,000 rows take 0.0 GB" in capsys.readouterr().err


def test_an_out_that_is_no_utf8_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "miniature", "--out", os.fsdecode(b"caf\xe9")]) == 2
    assert "is not UTF-8, as a name or path must be" in capsys.readouterr().err


def test_what_a_kill_leaves_of_a_write_is_listed_and_harms_nothing(out):
    names = [".fit.json.4242", ".plan.json.4242", ".result.json.4242", "ledger.jsonl.head.tmp", ".ledger.jsonl.head.77"]
    for name in names:
        (out / name).write_text("{")
    assert {f.path for f in diagnose(out).findings if f.kind == "leftover"} == set(names)
    assert diagnose(out).is_healthy and typed(out).exit_code == 0


def test_a_flipped_bit_of_a_compiled_program_that_still_unpacks_is_found_whatever_packed_it(tmp_path, monkeypatch):
    """zstandard keeps no checksum: here a packer that keeps none stands for it, installed or not."""
    import sys
    import types

    from jax._src import compilation_cache

    from kleiber.experiments.sweeping.compiled import remove_damaged, seal_new

    class Packer:
        def compress(self, data):
            return b"packed" + data

        def decompress(self, data):
            return data.removeprefix(b"packed")

    fake = types.SimpleNamespace(ZstdCompressor=Packer, ZstdDecompressor=Packer)
    monkeypatch.setitem(sys.modules, "zstandard", fake)
    monkeypatch.setattr(compilation_cache, "zstandard", fake, raising=False)
    monkeypatch.setattr(compilation_cache, "zstd", None, raising=False)
    program = bytes(range(256)) * 8
    packed = compilation_cache.compress_executable(program)
    assert packed.startswith(b"packed") and compilation_cache.decompress_executable(packed) == program
    (tmp_path / "jit_step-cache").write_bytes(packed)
    seal_new(tmp_path)
    for bit in range(48, 8 * len(packed), 997):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "jit_step-cache").write_bytes(flipped)
        assert compilation_cache.decompress_executable(bytes(flipped)) != program  # believed without a digest
        assert remove_damaged(tmp_path, is_ours=True) == ["jit_step-cache"]
        (tmp_path / "jit_step-cache").write_bytes(packed)
        seal_new(tmp_path)


@pytest.mark.parametrize("content", ['{"name": "of another tool"}', "[]", '"text"'])
def test_an_experiment_of_another_program_is_not_written_over(tmp_path, content):
    (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(ValueError, match=r"is not empty and holds no sweep \(it has experiment\.json\)"):
        typed(tmp_path)
    assert (tmp_path / "experiment.json").read_text() == content
