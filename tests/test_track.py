"""Trackers: they show what the logs hold, once, and neither a broken nor a slow one is felt by what trains."""

import json
import threading
import time
from pathlib import Path

import pytest

from kleiber.experiments.importing.sources import read_runs
from kleiber.experiments.tracking import follower
from kleiber.experiments.tracking.follower import Follower, following
from kleiber.experiments.tracking.tracker import check_tracker, open_tracker
from kleiber.files import write_json
from kleiber.train.watch.metrics import Metrics, rows_after


class Remembers:
    """A tracker of a user's own."""

    def __init__(self, directory=None):
        self.told = []

    def begin(self, run, config):
        self.told.append(("begin", run, config.get("optimizer.learning_rate")))

    def log(self, run, step, values):
        self.told.append((run, step, values))

    def end(self, run):
        self.told.append(("end", run))

    def close(self):
        self.told.append(("close",))


TRUNK = {"optimizer": {"learning_rate": 0.5, "beta2": None}, "num_tokens": [64, 128], "seed": 1}


@pytest.fixture
def directory(tmp_path):
    """Returns a sweep's directory with a trunk of two points, of which one is measured."""
    runs = tmp_path / "runs"
    write_json(runs / "t" / "config.json", TRUNK)
    for step, segment in ((1, "trunk"), (2, "branch_64"), (3, "branch_64"), (2, "trunk")):
        log(tmp_path, step, segment)
    measured(tmp_path, 64, 3)
    return tmp_path


def log(directory, step, segment="trunk"):
    row = {"step": step, "num_tokens": 32 * step, "loss": 4.0 - step, "shares": [1], "bad": float("nan")}
    Metrics(directory / "runs" / "t" / "metrics.jsonl").append({**row, "segment": segment})


def measured(directory, num_tokens, num_steps):
    folder = directory / "runs" / f"t-D{num_tokens}"
    write_json(folder / "config.json", {"num_tokens": num_tokens, "trunk": TRUNK})
    record = {"trunk_id": "t", "num_steps": num_steps, "loss": 2.5, "bits_per_byte": None}
    write_json(folder / "record.json", record)


def shown(directory, tracker=None, warn=pytest.fail):
    tracker = tracker or Remembers()
    with Follower(directory, "own", lambda: tracker, warn):
        pass
    return tracker.told


def test_a_tracker_is_shown_each_row_and_point_once_over_launches(directory):
    assert shown(directory) == [
        ("begin", "t", 0.5),
        ("t", 1, {"num_tokens": 32.0, "loss": 3.0}),
        ("begin", "t/branch_64", 0.5),
        ("t/branch_64", 2, {"num_tokens": 64.0, "loss": 2.0}),
        ("t/branch_64", 3, {"num_tokens": 96.0, "loss": 1.0}),
        ("t", 2, {"num_tokens": 64.0, "loss": 2.0}),
        ("begin", "t-D64", 0.5),
        ("t-D64", 3, {"validation_loss": 2.5}),
        ("end", "t-D64"),
        ("end", "t/branch_64"),
        ("close",),
    ]
    assert shown(directory) == []
    log(directory, 2)  # again, as a resume does
    log(directory, 4)
    measured(directory, 128, 4)
    told = shown(directory)
    assert [each for each in told if each[0] == "t"] == [("t", 4, {"num_tokens": 128.0, "loss": 0.0})]
    assert told[-2:] == [("end", "t"), ("close",)]


def test_rows_are_shown_while_they_come(directory, monkeypatch):
    monkeypatch.setattr(follower, "LOOK_SECONDS", 0.01)
    tracker = Remembers()
    with Follower(directory, "own", lambda: tracker, pytest.fail):
        log(directory, 7)
        deadline = time.monotonic() + 60
        while ("t", 7, {"num_tokens": 224.0, "loss": -3.0}) not in tracker.told and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ("close",) not in tracker.told
    assert tracker.told[-1] == ("close",)
    assert ("t", 7, {"num_tokens": 224.0, "loss": -3.0}) in tracker.told


def test_a_broken_tracker_is_told_of_once_and_a_slow_one_is_left(directory, monkeypatch):
    class Broken(Remembers):
        def log(self, run, step, values):
            raise RuntimeError("no\nroute to host")

    warnings = []
    shown(directory, Broken(), warnings.append)
    assert warnings == ["tracker own failed and is left out from here on: RuntimeError: no route to host"]

    freed = threading.Event()

    class Slow(Remembers):
        def begin(self, run, config):
            freed.wait(60)

    monkeypatch.setattr(follower, "LEAVE_SECONDS", 0.05)
    shown(directory, Slow(), warnings.append)
    freed.set()
    assert warnings[1:] == ["tracker own is slow: what it has not shown yet is shown when the sweep goes on"]


def test_a_log_is_read_a_little_at_a_time_and_anew_when_it_has_become_shorter(directory):
    path = directory / "runs" / "t" / "metrics.jsonl"
    length = len(path.read_text().splitlines()[0]) + 1
    rows, place = rows_after(path, 0, most_bytes=length + 5)
    assert [row["step"] for row in rows] == [1] and place == length
    with open(path, "a") as file:
        file.write('{"step": 9')  # a line that is being written
    rows, place = rows_after(path, place)
    assert [row["step"] for row in rows] == [2, 3, 2] and rows_after(path, place) == ([], place)
    Metrics(path).keep_only("trunk", 1)
    assert [row["step"] for row in rows_after(path, place)[0]] == [1]


def test_tensorboard_shows_the_curves_and_the_points(directory):
    with following(directory, ["tensorboard"], pytest.fail):
        pass
    _, runs = read_runs(directory / "tensorboard")
    found = {run.name: [(row["step"], row.get("loss")) for row in run.rows] for run in runs}
    assert found == {"t": [(1, 3.0), (2, 2.0)], "t/branch_64": [(2, 2.0), (3, 1.0)], "t-D64": [(3, None)]}
    assert all(run.config["optimizer.learning_rate"] == 0.5 for run in runs)
    assert runs[-1].rows[0]["validation_loss"] == 2.5 or runs[1].rows[0]["validation_loss"] == 2.5


def test_a_tracker_may_be_a_class_of_a_users_own_and_a_name_that_is_none_is_refused(directory, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import json\nclass Mine:\n    def __init__(self, directory):\n        self.path = directory / 'mine.jsonl'\n"
        "    def begin(self, run, config): pass\n    def end(self, run): pass\n    def close(self): pass\n"
        "    def log(self, run, step, values):\n"
        "        with open(self.path, 'a') as file: file.write(json.dumps([run, step]) + '\\n')\n"
    )
    check_tracker(f"{path}:Mine")
    with following(directory, [f"{path}:Mine"], pytest.fail):
        pass
    lines = [json.loads(line) for line in (directory / "mine.jsonl").read_text().splitlines()]
    assert lines == [["t", 1], ["t/branch_64", 2], ["t/branch_64", 3], ["t", 2], ["t-D64", 3]]
    for name, told in ((f"{path}:Mein", "did you mean 'Mine'"), ("tensorbord", "did you mean 'tensorboard'")):
        with pytest.raises(ValueError, match=told):
            check_tracker(name)
    assert open_tracker("tensorboard", Path("x")).folder == Path("x/tensorboard")
