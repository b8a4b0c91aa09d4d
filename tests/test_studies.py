"""Claims about whole studies: report and last line say what plain numpy reads off table.parquet."""

import html
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import studies

from kleiber.experiments import config_file
from kleiber.experiments.cli import main
from kleiber.experiments.directory.record import record_path
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.sweeping import sweep
from kleiber.model.config import ExpertsConfig
from kleiber.model.counts import num_params_total

Table = dict[str, np.ndarray]
LAW = """
def my_law(num_params_total, num_tokens, *, E, A, alpha, B, beta):
    return E + A / num_params_total**alpha + B / num_tokens**beta
"""


def told(folder: Path, experiment: Experiment, rows: list[dict], monkeypatch, capsys) -> tuple[str, str, Table]:
    """The text of the report, the end of what the terminal says, and the table, of a sweep whose runs are measured."""
    for row in rows:
        path = record_path(folder, row["run_id"])
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(row))
    monkeypatch.setattr(sweep, "prepare_data", lambda *_: None)
    monkeypatch.setattr(config_file, "load_experiment", lambda _: experiment)
    assert main(["sweep", "study.py", "--out", str(folder)]) in (0, 3)
    terminal = capsys.readouterr().out.split("report: ")[1]
    page = html.unescape(re.sub("<style>.*?</style>|<[^>]*>", "", (folder / "report.html").read_text(), flags=re.S))
    columns = pq.read_table(folder / "table.parquet").to_pydict()
    return page, terminal, {name: np.array(values, dtype=object) for name, values in columns.items()}


def check(page: str, terminal: str, last: list[str], basis: list[str]) -> None:
    """Both say all of it, the terminal what answers the question in its last line."""
    final = terminal.rstrip().splitlines()[-1]
    for words in last:
        assert words in final and words in page, (words, final)
    for words in basis:
        assert words in terminal and words in page, (words, terminal)


def runs_elsewhere(folder: Path) -> None:
    """Executes a finished report.ipynb as it lies, by Jupyter's own command, in another working directory."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    before = (folder / "report.ipynb").read_bytes()
    line = ["--to", "notebook", "--execute", "--output-dir", ".", str(folder / "report.ipynb")]
    environment = {name: value for name, value in os.environ.items() if name != "KLEIBER_SWEEP_DIR"}
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", *line], cwd=elsewhere, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert (folder / "report.ipynb").read_bytes() == before
    cells = json.loads((elsewhere / "report.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    told_again = "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert "Unfinished" not in told_again and folder.name in str(outputs)


def loss_at(table: Table, **levels) -> float:
    """The mean loss of the rows that have these levels."""
    rows = np.all([table[name] == level for name, level in levels.items()], axis=0)
    return float(np.mean(table["loss"][rows].astype(float)))


def test_the_best_rate_doubles_with_the_batch_and_the_notebook_of_no_law_runs_elsewhere(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "rates"
    page, terminal, table = told(folder, *studies.rates_and_batches(), monkeypatch, capsys)
    best, vertex = {}, {}
    for width in (32, 64):
        for batch in (2, 8):
            losses = [loss_at(table, d_model=width, batch_size=batch, learning_rate=rate) for rate in studies.RATES]
            best[batch, width] = studies.RATES[int(np.argmin(losses))]
            a, b, _ = np.polyfit(np.log(studies.RATES), np.log(losses), 2)
            vertex[batch, width] = -b / (2 * a)
    assert best[2, 32] == best[2, 64] and best[8, 32] == best[8, 64]  # the width moves nothing
    moves = [vertex[8, width] - vertex[2, width] for width in (32, 64)]
    check(
        page,
        terminal,
        [
            f"best learning_rate: {best[2, 32]:g} at batch_size 2, {best[8, 32]:g} at batch_size 8, at every d_model",
            f"it moves by × {math.exp(np.mean(moves)):.2f} [",
            "no move with d_model can be told",
        ],
        ["One seed", "two more seeds of every run"],
    )
    runs_elsewhere(folder)


def test_passes_and_decay_are_told_as_the_table_has_them(tmp_path, monkeypatch, capsys):
    page, terminal, table = told(tmp_path, *studies.repeats(), monkeypatch, capsys)
    decays, passes = (0.0, 0.1, 1.0), (1.0, 4.0, 16.0)
    loss = np.array([[loss_at(table, weight_decay=w, epochs=e) for w in decays] for e in passes])
    four, sixteen = loss[0] - loss[1], loss[1] - loss[2]
    best = [decays[i] for i in loss.argmin(1)]
    assert best[1] == best[2]
    fresh = sorted({int(n) for n, e in zip(table["num_tokens"], table["epochs"], strict=True) if e > 1})
    check(
        page,
        terminal,
        [
            f"best weight_decay: {best[0]:g} at epochs 1, {best[1]:g} at epochs 4 and 16",
            f"4 saves {four[0]:.3f} (weight_decay 0), {four[1]:.3f} (weight_decay 0.1) and {four[2]:.3f} (",
            f"16 saves {sixteen[0]:.3f} (weight_decay 0), {sixteen[1]:.3f} (weight_decay 0.1) and {sixteen[2]:.3f} (",
        ],
        ["no fresh-data line", f"{fresh[0]:,} and {fresh[1]:,} tokens of fresh text"],
    )


def test_tokenizers_are_compared_in_bits_per_byte_of_the_same_text(tmp_path, monkeypatch, capsys):
    page, terminal, table = told(tmp_path, *studies.tokenizers(), monkeypatch, capsys)

    def of(column: str, name: str, width: int) -> float:
        (row,) = np.flatnonzero((table["tokenizer"] == name) & (table["d_model"] == width))
        return float(table[column][row])

    pieces = "sentencepiece:1000"
    saved = [of("bits_per_byte", "bytes", d) - of("bits_per_byte", pieces, d) for d in (32, 64)]
    params = [np.sqrt(np.prod([of("num_params_total", name, d) for d in (32, 64)])) for name in ("bytes", pieces)]
    seen = [
        np.mean([of("num_tokens", n, d) * of("loss", n, d) / math.log(2) / of("bits_per_byte", n, d) for d in (32, 64)])
        for n in ("bytes", pieces)
    ]
    check(
        page,
        terminal,
        [f"{pieces} saves {saved[0]:.3f} (d_model 32) and {saved[1]:.3f} (d_model 64) bits per byte against bytes"],
        [
            f"bytes {params[0]:,.0f} and {pieces} {params[1]:,.0f}",
            f"so many bytes of text: bytes {seen[0]:,.0f} and {pieces} {seen[1]:,.0f}",
            f"same {table['num_validation_bytes'][0]:,} bytes of text",
        ],
    )


def test_experts_are_fitted_with_a_warning_for_the_router_and_the_dropped_choices(tmp_path, monkeypatch, capsys):
    trunks = tuple(
        studies.trunk(
            d, tokens=(50_000, 100_000, 200_000), shape={"experts": ExpertsConfig(e, 1)}, factors=(("num_experts", e),)
        )
        for d in (16, 32, 48)
        for e in (1, 4)
    )
    experiment = Experiment("moe", "What do 4 experts buy over 1, at three sizes?", trunks, laws=("experts",))
    rng = np.random.default_rng(0)

    def loss(cell, index: int) -> float:
        config = cell.config
        gain = 0.9 if config.model.experts.num_experts == 4 else 1.0
        value = 1.5 + gain * 25 / config.model.d_model + 120 / config.num_tokens[index] ** 0.5
        return value * math.exp(0.002 * rng.standard_normal())

    rows = studies.measured(experiment, loss)
    log = tmp_path / "runs" / trunk_cells(experiment, "fit")[0].trunk_id / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(
        json.dumps({"step": 1, "segment": "trunk", "num_tokens": 256, "loss": 3.0, "dropped_choices": 0.125}) + "\n"
    )
    page, terminal, table = told(tmp_path, experiment, rows, monkeypatch, capsys)
    fit = json.loads((tmp_path / "fit.json").read_text())
    assert fit["law"] == "experts"
    check(
        page,
        terminal,
        ["num_experts: 4 saves", "against 1"],
        ["router learns nothing from the loss", "up to 12.5% of the tokens' choices"],
    )
    amounts = [float(each) for each in re.findall(r"0\.\d+", re.search(r"num_experts: 4 saves (.*?) nats", page)[1])]
    gains = [
        loss_at(table, d_model=d, num_experts=1) - loss_at(table, d_model=d, num_experts=4) for d in (16, 32, 48)
    ]  # nine places: the size tells most of them apart
    assert amounts == pytest.approx(gains, abs=6e-4)


def test_arithmetic_that_cannot_be_told_apart_is_said_to_be_so(tmp_path, monkeypatch, capsys):
    page, terminal, table = told(tmp_path, *studies.dtypes(), monkeypatch, capsys)
    differences = np.array(
        [
            loss_at(table, d_model=d, seed=s, dtype="bfloat16") - loss_at(table, d_model=d, seed=s, dtype="float32")
            for d in (32, 64)
            for s in (0, 1)
        ]
    )
    half = 3.182446 * differences.std(ddof=1) / 2  # t of three degrees, the mean of four
    assert abs(differences.mean()) < half
    verb = "costs" if differences.mean() > 0 else "saves"
    said = f"bfloat16 {verb} {abs(differences.mean()):.4f} ± {half:.4f} nats per token against float32"
    check(page, terminal, [f"{said}: cannot be told from none (4 pairs, 8 runs)"], ["seeds included"])


def test_a_law_of_ones_own_answers_and_its_notebook_runs_elsewhere(tmp_path, monkeypatch, capsys):
    (tmp_path / "laws.py").write_text(LAW)
    monkeypatch.chdir(tmp_path)
    lengths = (100_000, 200_000, 400_000, 800_000)
    trunks = tuple(studies.trunk(d, tokens=lengths) for d in (16, 32, 64, 128))
    question = "How does loss fall with tokens and with width by my law?"
    experiment = Experiment("own", question, trunks, laws=("laws.py:my_law",))
    ripple = iter(np.exp(1e-3 * np.sin(np.arange(99) ** 2)))

    def loss(cell, index: int) -> float:
        size, tokens = num_params_total(cell.config.model), cell.config.num_tokens[index]
        return (1.2 + 300 / size**0.6 + 500 / tokens**0.5) * next(ripple)

    page, terminal, table = told(tmp_path / "out", experiment, studies.measured(experiment, loss), monkeypatch, capsys)
    size, tokens, found = (table[name].astype(float) for name in ("num_params_total", "num_tokens", "loss"))
    best = (math.inf,)
    for alpha in np.linspace(0.5, 0.7, 81):  # exponents by a grid, what is linear by least squares of the ratios
        for beta in np.linspace(0.4, 0.6, 81):
            ratios = np.stack([np.ones(16), size**-alpha, tokens**-beta], 1) / found[:, None]
            constants = np.linalg.lstsq(ratios, np.ones(16), rcond=None)[0]
            best = min(best, (float(np.sum((ratios @ constants - 1) ** 2)), alpha, beta, *constants))
    _, alpha, beta, _, A, B = best
    middle = np.exp(np.log(size).mean()), np.exp(np.log(tokens).mean())
    terms = A / middle[0] ** alpha, B / middle[1] ** beta
    worth = alpha * terms[0] / sum(terms), beta * terms[1] / sum(terms)
    final = terminal.rstrip().splitlines()[-1]
    for name, value in (("parameters", worth[0]), ("tokens", worth[1])):
        said = re.search(rf"1 % more {name} take ([\d.]+) %", final)
        assert said and float(said[1]) == pytest.approx(value, abs=0.02)
        assert said[0] in page
    runs_elsewhere(tmp_path / "out")
