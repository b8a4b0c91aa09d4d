"""The ledger: forecasts come first, never change, and any tampering shows."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from kleiber.experiments.cli import main
from kleiber.experiments.directory.doctor import diagnose
from kleiber.files import write_json
from kleiber.scaling.forecasting import ledger as ledger_module
from kleiber.scaling.forecasting.anchor import check_heads
from kleiber.scaling.forecasting.ledger import (
    GENESIS,
    Ledger,
    LedgerConflictError,
    LedgerError,
    LedgerTamperedError,
    UnknownTargetError,
    canonical_hash,
)

FORECAST = {
    "num_params_total": 1000,
    "num_tokens": 2_000_000,
    "flops": 1.2e10,
    "compute_ratio": 4.0,
    "law": "chinchilla",
    "predicted_loss": 1.25,
    "interval": (1.2, 1.3),
}


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.register(target="big", **FORECAST)
    ledger.register(target="wide", **{**FORECAST, "predicted_loss": 1.28}, baselines={"last_point": 1.5})
    ledger.outcome("wide", "run-7", 1.31)
    return ledger


def lines(ledger):
    return ledger.path.read_text().splitlines(keepends=True)


def test_entries_have_exactly_the_contracted_keys(ledger):
    forecast, _, outcome = ledger.entries()
    assert list(forecast) == [
        "event", "target", "num_params_total", "num_tokens", "flops", "compute_ratio", "law", "predicted_loss",
        "interval", "level", "registered_at", "hash", "previous_hash",
    ]  # fmt: skip
    assert list(outcome) == [
        "event", "target", "run_id", "observed_loss", "signed_error", "inside", "hash", "previous_hash",
    ]  # fmt: skip
    assert outcome["signed_error"] == pytest.approx(1.28 / 1.31 - 1)
    assert outcome["inside"] is False


def test_each_line_is_chained_to_the_one_before(ledger):
    first, second, third = ledger.entries()
    assert first["previous_hash"] == GENESIS
    assert second["previous_hash"] == first["hash"]
    assert third["previous_hash"] == second["hash"] == canonical_hash(second)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda rows: [rows[0].replace("1.25", "1.31"), *rows[1:]],
        lambda rows: rows[1:],
        lambda rows: [rows[0], rows[2]],
        lambda rows: [rows[1], rows[0], rows[2]],
        lambda rows: rows[:-1],
        lambda rows: [*rows[:-1], rows[-1][:40]],
        lambda rows: [],
    ],
    ids=["edited", "first removed", "middle removed", "reordered", "last removed", "last cut", "emptied"],
)
def test_tampering_is_detected(ledger, tamper):
    assert len(ledger.entries()) == 3
    ledger.path.write_text("".join(tamper(lines(ledger))))
    with pytest.raises(LedgerTamperedError):
        ledger.entries()
    with pytest.raises(LedgerTamperedError):
        ledger.register(target="another", **FORECAST)


def test_an_edit_with_its_hash_recomputed_breaks_the_chain(ledger):
    rows = lines(ledger)
    entry = json.loads(rows[0])
    entry["predicted_loss"] = 1.29
    entry["hash"] = canonical_hash(entry)
    ledger.path.write_text("".join([json.dumps(entry) + "\n", *rows[1:]]))
    with pytest.raises(LedgerTamperedError):
        ledger.entries()


def test_registering_the_same_forecast_again_changes_nothing(ledger):
    before = ledger.path.read_bytes()
    assert ledger.register(target="big", **FORECAST) == ledger.entries()[0]
    assert ledger.outcome("wide", "run-7", 1.31) == ledger.entries()[2]
    assert ledger.path.read_bytes() == before


def test_a_forecast_or_outcome_cannot_be_replaced(ledger):
    with pytest.raises(LedgerConflictError, match="predicted_loss"):
        ledger.register(target="big", **{**FORECAST, "predicted_loss": 1.26})
    with pytest.raises(LedgerConflictError):
        ledger.outcome("wide", "run-8", 1.30)


def test_an_outcome_needs_a_forecast(ledger):
    with pytest.raises(UnknownTargetError, match="'small'"):
        ledger.outcome("small", "run-1", 1.0)


def test_a_line_half_written_by_a_crash_is_removed_by_the_next_append(ledger):
    with ledger.path.open("a") as stream:
        stream.write('{"event": "forec')
    ledger.outcome("big", "run-9", 1.24)
    assert len(ledger.entries()) == 4


@pytest.mark.parametrize("content", [b"a thesis, in one line", b"\0" * 99, b'{"loss": 2.5}', b"\xff\xfe"])
def test_a_file_that_is_no_ledger_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="notes is no ledger, and what it holds is left as it is"):
        Ledger(path).register(target="big", **FORECAST)
    assert path.read_bytes() == content


def test_a_crash_between_line_and_head_is_no_tampering(ledger):
    head = ledger.head_path.read_text()
    ledger.outcome("big", "run-9", 1.24)
    ledger.head_path.write_text(head)
    assert len(ledger.entries()) == 4


def test_scoreboard_counts_error_coverage_and_skill(ledger):
    ledger.outcome("big", "run-9", 1.24)
    board = ledger.scoreboard()
    errors = [1.25 / 1.24 - 1, 1.28 / 1.31 - 1]
    assert board["mean_absolute_error"] == pytest.approx((errors[0] - errors[1]) / 2)
    assert board["coverage"] == 0.5
    assert board["skill"]["last_point"] == pytest.approx(1 - abs(errors[1]) / (1.5 / 1.31 - 1))


def test_history_follows_the_outcomes_in_the_order_they_came(ledger):
    # The fixture wrote down wide's outcome before big's.
    ledger.outcome("big", "run-9", 1.24)
    history = ledger.scoreboard()["history"]
    assert [row["target"] for row in history] == ["wide", "big"]
    assert history[0]["mean_absolute_error"] == pytest.approx(1 - 1.28 / 1.31)
    assert history[1]["mean_absolute_error"] == pytest.approx(ledger.scoreboard()["mean_absolute_error"])


TOGETHER = """
import multiprocessing, sys
from kleiber.scaling.forecasting.ledger import Ledger

folder, num_ledgers, num_processes, num_each = sys.argv[1], *map(int, sys.argv[2:])
processes = multiprocessing.get_context("fork")
gate = processes.Barrier(num_processes)
about = dict(num_params_total=10, num_tokens=20, flops=1.0, compute_ratio=4.0, law="chinchilla", predicted_loss=1.25)

def work(number):
    for index in range(num_ledgers):
        gate.wait()
        for each in range(num_each):
            Ledger(f"{folder}/{index}.jsonl").register(target=f"{number}-{each}", **about, interval=(1.2, 1.3))

workers = [processes.Process(target=work, args=[number]) for number in range(num_processes)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
sys.exit(max(worker.exitcode for worker in workers))
"""


@pytest.mark.parametrize(("num_ledgers", "num_processes", "num_each"), [(100, 2, 1), (20, 4, 5)])
def test_processes_that_register_at_once_lose_and_break_nothing(tmp_path, num_ledgers, num_processes, num_each):
    numbers = [str(n) for n in (num_ledgers, num_processes, num_each)]
    subprocess.run([sys.executable, "-c", TOGETHER, str(tmp_path), *numbers], check=True, timeout=300)
    expected = {f"{number}-{each}" for number in range(num_processes) for each in range(num_each)}
    for index in range(num_ledgers):
        entries = Ledger(tmp_path / f"{index}.jsonl").entries()
        assert len(entries) == len(expected) and {entry["target"] for entry in entries} == expected
    assert not [path.name for path in tmp_path.iterdir() if ".tmp" in path.name or path.name.startswith(".")]


def test_command_lines_that_register_at_once_all_register(tmp_path, capsys):
    rows = [f"{n},{d},{1.7 + 400 / n**0.34 + 410 / d**0.28}" for n in (1e6, 1e7, 1e8) for d in (2e7, 5e8, 1e10)]
    (tmp_path / "runs.csv").write_text("\n".join(["num_params_total,num_tokens,loss", *rows]))
    assert main(["fit", str(tmp_path / "runs.csv"), "--json"]) == 0
    (tmp_path / "fit.json").write_text(capsys.readouterr().out)
    line = [sys.executable, "-m", "kleiber.experiments.cli", "forecast", str(tmp_path / "fit.json")]
    line += ["--num-params", "1e9", "--num-tokens", "2e10", "--register", str(tmp_path / "ledger.jsonl")]
    running = [subprocess.Popen([*line, "--name", f"run{n}"], stdout=subprocess.DEVNULL) for n in range(4)]
    assert [process.wait(timeout=120) for process in running] == [0] * 4
    assert sorted(entry["target"] for entry in Ledger(tmp_path / "ledger.jsonl").entries()) == [
        "run0", "run1", "run2", "run3",
    ]  # fmt: skip


def test_a_reader_beside_a_writer_never_cries_tampering(ledger, monkeypatch):
    lines_of = ledger._lines

    def lines_after_another_wrote():
        monkeypatch.setattr(ledger, "_lines", lines_of)
        found = ledger._lines()
        Ledger(ledger.path).outcome("big", "run-9", 1.24)
        return found

    monkeypatch.setattr(ledger, "_lines", lines_after_another_wrote)
    assert len(ledger.entries()) == 3
    assert len(ledger.entries()) == 4


def test_a_forecast_of_a_run_that_had_begun_is_marked_late_and_scored_apart(ledger, capsys):
    entry = ledger.register(target="begun", **FORECAST, begun_at="2026-01-02T03:04:05+00:00")
    assert (entry["late"], entry["begun_at"]) == (True, "2026-01-02T03:04:05+00:00")
    before = ledger.scoreboard()
    ledger.outcome("begun", "run-9", 1.25)
    board = ledger.scoreboard()
    # One of the fixture's two forecasts has an outcome, and it lies outside; a late hit changes none of that.
    assert (board["num_forecasts"], board["num_scored"], board["coverage"]) == (2, 1, 0.0)
    assert board["mean_absolute_error"] == before["mean_absolute_error"] and board["history"] == before["history"]
    assert (board["late"]["num_scored"], board["late"]["coverage"]) == (1, 1.0)
    assert main(["ledger", str(ledger.path)]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if "LATE: its run had begun" in line] == ["begun"]
    assert "1 late, made after the run had begun: not counted" in said


def test_a_forecast_in_time_does_not_become_late_when_it_is_registered_again(ledger):
    again = ledger.register(target="big", **FORECAST, begun_at="2026-01-02T03:04:05+00:00")
    assert again == ledger.entries()[0] and "late" not in again


def test_a_ledger_that_is_gone_while_its_head_is_left_is_told_by_ledger_and_doctor(ledger, capsys):
    ledger.path.unlink()
    assert main(["ledger", str(ledger.path)]) == 2
    assert "3 lines were written, 0 whole ones are left" in capsys.readouterr().err
    (ledger.path.parent / "experiment.json").write_text("{}")
    assert any("3 lines were written, 0 whole" in finding.what for finding in diagnose(ledger.path.parent).findings)


def test_a_ledger_cut_in_half_is_refused_as_cut(ledger):
    os.truncate(ledger.path, ledger.path.stat().st_size // 2)
    with pytest.raises(LedgerTamperedError, match="3 lines were written, 1 whole ones are left: the end was cut"):
        ledger.entries()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event": "retracted"}, "line 4 has the event 'retracted', expected one of forecast, outcome"),
        ({"event": None}, "line 4 has the event None"),
        ({"target": None}, "line 4 is no whole outcome: it has no target"),
        ({"event": "forecast"}, "line 4 is no whole forecast: it has no num_params_total, num_tokens"),
    ],
)
def test_a_whole_line_of_another_version_is_a_sentence(ledger, capsys, change, message):
    entry = {**ledger.entries()[-1], **change, "previous_hash": ledger.entries()[-1]["hash"]}
    entry = {key: value for key, value in entry.items() if value is not None}
    entry["hash"] = canonical_hash(entry)
    with ledger.path.open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
    with pytest.raises(LedgerError, match=message):
        ledger.scoreboard()
    assert main(["ledger", str(ledger.path)]) == 2
    assert "line 4" in capsys.readouterr().err


@pytest.mark.parametrize("is_first", [False, True])
def test_a_clock_that_went_back_registers_nothing(tmp_path, monkeypatch, is_first):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    if not is_first:
        ledger.register(target="big", **FORECAST)

    class Past(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) - timedelta(days=3000)

    monkeypatch.setattr(ledger_module, "datetime", Past)
    with pytest.raises(LedgerError, match="this machine's clock says 20"):
        ledger.register(target="wide", **FORECAST)
    assert len(ledger.entries()) == (0 if is_first else 1)


def test_a_link_planted_for_the_heads_temporary_file_is_not_written_through(ledger, tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "ledger.jsonl.head.tmp").symlink_to(tmp_path / "victim")
    ledger.outcome("big", "run-9", 1.24)
    assert (tmp_path / "victim").read_text() == "precious"


def test_terminal_escapes_of_a_ledger_are_shown_as_codes(ledger, capsys):
    ledger.register(target="\x1b]0;owned\x07", **FORECAST)
    assert main(["ledger", str(ledger.path)]) == 0
    assert "\x1b" not in (said := capsys.readouterr().out) and "\\x1b]0;owned" in said


def test_a_withdrawn_forecast_stays_in_the_chain_and_is_never_scored(ledger):
    ledger.withdraw("wide", "its runs changed")
    with pytest.raises(UnknownTargetError):
        ledger.outcome("wide", "run-8", 1.3)
    ledger.register(target="wide", **{**FORECAST, "predicted_loss": 1.21}, made_for={"run_id": "run-8", "fit": "ab"})
    ledger.outcome("wide", "run-8", 1.25)
    board = ledger.scoreboard()
    assert len(ledger.entries()) == 6 and (board["num_forecasts"], board["num_withdrawn"], board["num_scored"]) == (
        2,
        1,
        1,
    )
    assert [(r["withdrawn"], r["observed_loss"]) for r in board["targets"]] == [
        (None, None), ("its runs changed", None), (None, 1.25),
    ]  # fmt: skip


def test_an_anchor_shows_an_edit_under_a_chain_computed_anew(ledger, tmp_path, capsys):
    note = tmp_path / "note.txt"
    assert main(["ledger", str(ledger.path), "--anchor", str(note)]) == 0
    ledger.register(target="later", **FORECAST)
    assert main(["ledger", str(ledger.path), "--check-anchor", str(note)]) == 0
    entries, previous = ledger.entries(), GENESIS
    entries[0]["predicted_loss"] = 1.21
    for entry in entries:
        entry["previous_hash"] = previous
        entry["hash"] = previous = canonical_hash(entry)
    ledger.path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    ledger.head_path.write_text(json.dumps({"lines": len(entries), "hash": previous}))
    assert len(ledger.entries()) == 4
    assert main(["ledger", str(ledger.path), "--check-anchor", str(note)]) == 2
    assert "line 3 is not the one that" in capsys.readouterr().err


@pytest.mark.parametrize(
    "place",
    [
        *("d8/begun.json", "d8-D64/record.json", "d8/checkpoints/trunk/step_9/manifest.json"),
        "population-2-abcdef/checkpoints/branch_64/step_9/manifest.json",
    ],
)
def test_a_head_noted_as_a_run_began_shows_an_edit_under_a_chain_computed_anew(tmp_path, place):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    head = ledger.register(target="big", **FORECAST, made_for={"run_id": "d8-D64"})["hash"]
    note = {"extra": {"ledger_heads": {"d8": head, "d9": None}}} if "manifest" in place else {"ledger_head": head}
    write_json(tmp_path / "runs" / place, note)
    assert check_heads(ledger) == ledger.entries()
    (entry,) = ledger.entries()
    entry["predicted_loss"] = 1.21
    entry["hash"] = canonical_hash(entry)
    ledger.path.write_text(json.dumps(entry) + "\n")
    ledger.head_path.write_text(json.dumps({"lines": 1, "hash": entry["hash"]}))
    assert len(ledger.entries()) == 1
    with pytest.raises(LedgerTamperedError, match="forecast of big is not the one that stood there when its run began"):
        check_heads(ledger)
