"""A sweep that others look at: what they see is what lies there, and looking changes nothing."""

import http.client
import io
import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from kleiber.experiments.cli import main
from kleiber.experiments.config_file import to_data
from kleiber.experiments.experiment import Experiment, Target
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.sweeping.trunk_run import write_record
from kleiber.experiments.watching.page import Server, page
from kleiber.experiments.watching.screen import screen
from kleiber.experiments.watching.state import Watch
from kleiber.files import checked_line, sealed_text, write_json
from kleiber.model.config import ModelConfig
from kleiber.scaling.forecasting.ledger import Ledger
from kleiber.train.config import OptimizerConfig, TrainConfig


def train(seed):
    return TrainConfig(ModelConfig(8, 1, 1), OptimizerConfig(0.01), (10_240, 20_480), seed=seed)


EXPERIMENT = Experiment(
    "seen", "Is it </script><script>alert(1)</script>?", tuple(map(train, (1, 2, 3, 4))),
    (Target("larger", replace(train(9), num_tokens=(40_960,))),),
)  # fmt: skip


@pytest.fixture
def directory(tmp_path):
    """A sweep in the middle: one trunk done, one failed, one at work, one waiting, and a forecast."""
    write_json(tmp_path / "experiment.json", to_data(EXPERIMENT))
    done, failed, running = trunk_cells(EXPERIMENT, "fit")[:3]
    for tokens, planned in done.planned.items():
        write_record(tmp_path, done, tokens, replace(planned, status="done", loss=2.0 + 1e4 / tokens))
    for tokens, planned in failed.planned.items():
        write_record(tmp_path, failed, tokens, replace(planned, status="failed", reason="\x1b[31mbad luck"))
    folder = tmp_path / "runs" / running.trunk_id
    folder.mkdir()
    half = running.trained_tokens / 2
    (folder / "progress.json").write_text(
        sealed_text({"trained_tokens": half, "loss": 2.5, "tokens_per_second": 100.0})
    )
    rows = [{"step": n, "num_tokens": 1024 * n, "loss": 5.0 / n, "segment": "trunk"} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(map(checked_line, rows)))
    (cell,) = trunk_cells(EXPERIMENT, "target")
    (planned,) = cell.planned.values()
    Ledger(tmp_path / "ledger.jsonl").register(
        target="larger", num_params_total=planned.num_params_total, num_tokens=planned.num_tokens,
        flops=planned.flops, compute_ratio=2.0, law="chinchilla", predicted_loss=2.1, interval=(2.0, 2.2), level=0.9,
        baselines={}, made_for={"run_id": planned.run_id},
    )  # fmt: skip
    (tmp_path / "log.txt").write_text("12:00:00 seen in x\n12:00:05 [fit] 2/8 points | about 3 to 4 min left\n")
    return tmp_path


def test_all_that_a_sweep_has_is_seen(directory):
    state = Watch(directory).look()
    assert state["points"] == [4, 9]
    assert state["statuses"] == {"done": 1, "failed": 1, "running": 1, "waiting": 2}
    assert state["said"] == "[fit] 2/8 points | about 3 to 4 min left"
    (running,) = [cell for cell in state["cells"] if cell["status"] == "running"]
    assert (running["share"], running["loss"], running["tokens_per_second"]) == (0.5, 2.5, 100.0)
    (curve,) = state["curves"]
    assert curve["points"] == [[1024, 5.0], [2048, 2.5]]
    (forecast,) = state["forecasts"]
    assert [forecast[name] for name in ("target", "low", "predicted", "high", "observed")] == [
        "larger", 2.0, 2.1, 2.2, None,
    ]  # fmt: skip
    assert state["ledger"][0]["hash"] and state["state"].startswith("stopped")
    told = {(each["what"].partition(": ")[2], each["type"]) for each in state["wrong"]}
    assert ("failed: \x1b[31mbad luck", "kleiber sweep ... --retry-failed tries it again") in told


def test_what_comes_later_is_seen_at_the_next_look(directory):
    watch = Watch(directory)
    watch.look()
    cell = trunk_cells(EXPERIMENT, "fit")[2]
    for tokens, planned in cell.planned.items():
        write_record(directory, cell, tokens, replace(planned, status="done", loss=3.0))
    with open(directory / "runs" / cell.trunk_id / "metrics.jsonl", "a") as log:
        log.write(checked_line({"step": 3, "num_tokens": 3072, "loss": float("nan"), "segment": "trunk"}))
        log.write(checked_line({"step": 4, "num_tokens": 4096, "loss": 1.5, "segment": "trunk"}))
    waiting = trunk_cells(EXPERIMENT, "fit")[3].trunk_id
    (directory / "runs" / waiting).mkdir()
    told = {"trained_tokens": 5, "loss": float("nan"), "tokens_per_second": 1.0}
    (directory / "runs" / waiting / "progress.json").write_text(sealed_text(told))
    state = watch.look()
    assert state["points"] == [6, 9] and state["curves"][0]["points"][-1] == [4096, 1.5]
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    text = (
        (Path(__file__).parent.parent / "docs" / "json.md").read_text().split("## kleiber watch")[1].split("\n## ")[0]
    )
    rows = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert set(state) == set(re.findall(r"`(\w+)`", rows))


def test_whoever_looks_writes_nothing(directory, capsys):
    def listing():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.rglob("*")}

    before = listing()
    assert main(["watch", str(directory), "--json"]) == 0 and main(["watch", str(directory), "--once"]) == 0
    assert listing() == before
    assert main(["watch", str(directory / "runs")]) == 2
    assert "is no sweep's" in capsys.readouterr().err


def test_a_driver_that_is_at_work_and_one_that_was_killed_are_told_apart(directory):
    holder = {"pid": os.getpid(), "host": os.uname().nodename, "since": "now", "released": False}
    (directory / "sweep.json").write_text(sealed_text(holder))
    assert Watch(directory).look()["state"].startswith(f"at work (pid {os.getpid()}")
    (directory / "sweep.json").write_text(sealed_text({**holder, "pid": 2**22 + 1}))
    os.utime(directory / "sweep.json", (time.time() - 100, time.time() - 100))
    state = Watch(directory).look()
    assert state["state"].startswith("stopped")
    assert any("was killed" in each["what"] and "again" in each["type"] for each in state["wrong"])


def test_where_runs_are_heading_is_a_column_once_one_is_known(directory):
    state, shown = Watch(directory).look(), []
    for expected in (None, {"loss": 1.2, "low": 1.1, "high": 1.3, "level": 0.9, "share": 0.5}):
        state["cells"][0]["expected"] = expected
        Console(file=(out := io.StringIO()), width=160).print(screen(state, ""))
        shown.append(out.getvalue())
    assert "heading for" not in shown[0] and "heading for" in shown[1] and "1.2000 [1.1000, 1.3000]" in shown[1]


def test_a_terminal_shows_control_characters_of_a_run_as_codes(directory):
    out = io.StringIO()
    Console(file=out, width=160).print(screen(Watch(directory).look(), "http://here"))
    assert "\x1b" not in out.getvalue() and "\\x1b[31mbad luck" in out.getvalue()
    assert "4/9 points; cells:" in out.getvalue() and "forecast of larger: 2.1000 [2.0000, 2.2000]" in out.getvalue()


def test_an_exported_page_holds_the_state_and_no_text_of_a_run_ends_its_script(directory, tmp_path):
    path = tmp_path / "page.html"
    assert main(["watch", str(directory), "--export", str(path)]) == 0
    text = path.read_text()
    (data,) = re.findall(r'<script type="application/json" id="state">(.*)</script>', text)
    assert json.loads(data)["question"] == EXPERIMENT.question and json.loads(data)["is_live"] is False
    assert text.count("</script>") == 2 and "alert(1)</script>" not in text


def asked(server, path, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_page_is_for_this_machine_and_elsewhere_for_who_has_the_token(directory):
    server = Server(Watch(directory), "127.0.0.1", 0)
    server.serve()
    assert server.address == f"http://127.0.0.1:{server.port}/"
    code, text = asked(server, "/")
    assert code == 200 and text == page({**json.loads(asked(server, "/state.json")[1]), **at(text)}, is_live=True)
    assert asked(server, "/", host="evil.example")[0] == 403  # a name of another site that means this machine
    assert asked(server, "/experiment.json")[0] == 404 and asked(server, "/", "POST")[0] == 501
    with pytest.raises(ValueError, match="give another --port"):
        Server(Watch(directory), "127.0.0.1", server.port)
    open_to_all = Server(Watch(directory), "0.0.0.0", 0)
    open_to_all.serve()
    token = urlsplit(open_to_all.address).query
    assert asked(open_to_all, "/state.json")[0] == 403 and asked(open_to_all, "/state.json?token=x")[0] == 403
    assert len(token) > 20 and asked(open_to_all, f"/state.json?{token}")[0] == 200
    for each in (server, open_to_all):
        each.close()


def at(text):
    return {"at": re.search(r'"at": "([^"]*)"', text)[1]}
