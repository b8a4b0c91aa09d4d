"""The ledger: forecasts come first, never change, and any tampering shows."""

import json

import pytest

from kleiber.scaling.forecasting.ledger import (
    GENESIS,
    Ledger,
    LedgerConflictError,
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
    assert ledger.verify() == 3
    ledger.path.write_text("".join(tamper(lines(ledger))))
    with pytest.raises(LedgerTamperedError):
        ledger.verify()
    with pytest.raises(LedgerTamperedError):
        ledger.register(target="another", **FORECAST)


def test_an_edit_with_its_hash_recomputed_breaks_the_chain(ledger):
    rows = lines(ledger)
    entry = json.loads(rows[0])
    entry["predicted_loss"] = 1.29
    entry["hash"] = canonical_hash(entry)
    ledger.path.write_text("".join([json.dumps(entry) + "\n", *rows[1:]]))
    with pytest.raises(LedgerTamperedError):
        ledger.verify()


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
    assert ledger.verify() == 4


def test_a_crash_between_line_and_head_is_no_tampering(ledger):
    head = ledger.head_path.read_text()
    ledger.outcome("big", "run-9", 1.24)
    ledger.head_path.write_text(head)
    assert ledger.verify() == 4


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
