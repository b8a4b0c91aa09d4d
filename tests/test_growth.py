"""Claims about very many records and about starting: what is loaded, what is drawn, and that it equals the slow way."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from kleiber.experiments.config_file import to_data
from kleiber.experiments.directory.record import planned_records, record_path, write_table
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.planning.plan import make_plan
from kleiber.experiments.report.drawing import Study
from kleiber.experiments.report.results import MOST_CURVES, curves_of, read_results, trunks_with_curves
from kleiber.experiments.report.tables import MOST_ROWS, run_table
from kleiber.files import checked_line, write_json
from kleiber.scaling.designing.design import independent_rows
from kleiber.scaling.figures.forecast import hero
from kleiber.scaling.figures.law import residuals
from kleiber.scaling.figures.runs import isoflop_slices
from kleiber.scaling.figures.study import MOST_MARKS, Points, even_rows
from kleiber.scaling.fitting.identifiability import design_alarms
from kleiber.scaling.fitting.noise import RunNoise, make_clusters, whiten
from kleiber.scaling.fitting.scaled_law import make_scaled_law
from kleiber.scaling.fitting.uncertainty import clustered_uncertainty
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.reading import parquet_values
from sections.growth import growth_exponent
from sections.synthetic import synthetic_experiment, synthetic_records


def loaded_by(code: str) -> set[str]:
    """Returns the top-level modules that a fresh process has after running code."""
    script = f"{code}\nimport sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return set(json.loads(out.splitlines()[-1]))


def test_help_loads_none_of_the_libraries():
    loaded = loaded_by("from kleiber.experiments.cli import main\nmain(['--help'])")
    assert not loaded & {"jax", "flax", "optax", "numpy", "scipy", "tyro", "rich"}


def test_the_driver_of_a_run_waits_neither_for_jax_nor_for_scipy():
    assert not loaded_by("import kleiber.experiments.sweeping.sweep, kleiber.experiments.commands.train") & {
        "jax",
        "scipy",
    }


@pytest.fixture(scope="module")
def many() -> Points:
    """5,000 runs of 1,000 trunks of 7 sizes, one of them with a wild loss."""
    rng = np.random.default_rng(0)
    params = np.repeat(np.geomspace(1e4, 1e7, 7)[rng.integers(0, 7, 1000)], 5)
    tokens = params * np.tile([3.0, 10.0, 30.0, 100.0, 300.0], 1000)
    loss = law(params, tokens) * np.exp(0.004 * rng.standard_normal(5000))
    loss[1234] = 9.0
    return Points(params, tokens, 6 * params * tokens, loss, tuple(f"t{row // 5}" for row in range(5000)))


def law(num_params, num_tokens):
    return 1.0 + 490 * np.asarray(num_params) ** -0.73 + 750 * np.asarray(num_tokens) ** -0.57


def marks(figure) -> int:
    """Dots and bars of a figure, whatever draws them."""
    lines = sum(len(line.get_xdata()) for axis in figure.axes for line in axis.lines if line.get_marker() == "o")
    short = sum(len(axis.lines) for axis in figure.axes)
    return lines + short + sum(len(c.get_offsets()) for axis in figure.axes for c in axis.collections)


def test_figures_of_many_runs_hold_a_bounded_number_of_marks_and_say_so(many):
    for figure, panels in ((hero(many, law), 1), (residuals(many, law), 3)):
        assert marks(figure) < (MOST_MARKS + 400) * panels
        assert "2,000 of 5,000 runs drawn" in figure.texts[1].get_text()


def test_figures_of_many_sizes_draw_24_and_say_so(many):
    params = np.repeat(np.geomspace(1e4, 1e7, 40), 5)
    tokens = params * np.tile([3.0, 10.0, 30.0, 100.0, 300.0], 40)
    points = Points(params, tokens, 6 * params * tokens, law(params, tokens), ("t",) * 200)
    for figure in (hero(points, law), isoflop_slices(points, law)):
        assert "24 of 40 sizes drawn" in figure.texts[1].get_text()
    assert "sizes drawn" not in hero(many, law).texts[1].get_text()  # of seven all are


def test_the_wildest_run_is_among_those_drawn(many):
    heights = [y for c in residuals(many, law).axes[0].collections for _, y in c.get_offsets()]
    assert max(heights) == pytest.approx(100 * np.log(9.0 / law(many.num_params[1234], many.num_tokens[1234])))


def test_few_runs_are_all_drawn_in_their_own_order(many):
    some = many.rows(np.arange(100))
    assert some.drawn is some and some.drawn_note == ""
    assert even_rows(np.array([3.0, 1.0, 2.0])).tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep of 2,500 records in its table, with step logs of its trunks."""
    directory, experiment = tmp_path_factory.mktemp("many"), synthetic_experiment(2500)
    records = synthetic_records(experiment)
    write_json(directory / "experiment.json", to_data(experiment))
    write_table(directory, records)
    row = {"step": 1, "num_tokens": 512, "segment": "trunk", "loss": 5.0}
    for trunk in {r.trunk_id for r in records}:
        (directory / "runs" / trunk).mkdir(parents=True)
        (directory / "runs" / trunk / "metrics.jsonl").write_text(checked_line(row))
    return directory, records


def test_the_report_lists_a_bounded_number_of_runs_and_says_so(sweep):
    page = run_table(Study(read_results(sweep[0]))).html
    assert page.count("<tr>") == MOST_ROWS + 1 and "of 2,500; table.parquet holds them all" in page


def test_curves_are_read_of_a_bounded_number_of_trunks_of_every_size(sweep):
    results = read_results(sweep[0])
    sizes = trunks_with_curves(results)
    curves = curves_of(results, sizes)
    assert len(sizes) == 500 and len(curves) <= MOST_CURVES
    assert {curve.num_params for curve in curves} == set(sizes.values())


def test_reading_a_table_gives_the_records_that_were_written(sweep):
    directory, records = sweep
    extra = {**records[0].to_json(), "run_id": "later", "seed": 7, "status": "failed", "reason": "lost"}
    write_json(record_path(directory, "later"), extra)
    read = {r["run_id"]: r for r in read_results(directory).records}
    assert read.pop("later")["reason"] == "lost"
    assert read == {r.run_id: r.to_json() for r in records}


@pytest.mark.parametrize("values", [["a", None, "b", "a"], [1, None], [1.5, 2.0], [True, False], [[1], [2]], []])
def test_a_column_is_read_as_to_pylist_gives_it(values):
    import pyarrow as pa

    assert parquet_values(pa.chunked_array([pa.array(values), pa.array(values)])) == values + values


def test_a_plan_names_each_point_as_the_record_of_the_point_alone_does():
    experiment = synthetic_experiment(60)
    points = {p["run_id"]: p for p in make_plan(experiment, 2).points()}
    for cell in trunk_cells(experiment, "fit"):
        for num_tokens, name in cell.run_ids.items():
            one = replace(cell.config, num_tokens=(num_tokens,))
            (alone,) = planned_records("growth", "fit", one).values()
            ids = {"run_id": name, "trunk_id": cell.trunk_id, "config_hash": points[name]["config_hash"]}
            assert {**alone.to_json(), **ids}.items() <= points[name].items()


def test_whitening_by_sums_is_the_inverse_root_of_the_covariance():
    rng, ratio = np.random.default_rng(1), 3.7
    labels = rng.integers(0, 9, 40)
    covariance = np.eye(40) + ratio * (labels[:, None] == labels[None, :])
    values, vectors = np.linalg.eigh(covariance)
    rows = rng.standard_normal((40, 4))
    found = whiten(rows[None], make_clusters(labels), np.array([ratio]))[0]
    np.testing.assert_allclose(found, (vectors / np.sqrt(values)) @ vectors.T @ rows, atol=1e-12)


def test_uncertainty_by_sums_is_that_of_matrices_of_runs_by_runs():
    rng, sigma2, tau2 = np.random.default_rng(2), 2e-6, 5e-6
    labels, jacobian = rng.integers(0, 8, 30), rng.standard_normal((30, 3))
    same = (labels[:, None] == labels[None, :]).astype(float)
    covariance = sigma2 * np.eye(30) + tau2 * same
    inverse = np.linalg.inv(covariance)
    projector = inverse - inverse @ jacobian @ np.linalg.solve(jacobian.T @ inverse @ jacobian, jacobian.T @ inverse)
    parts = (np.eye(30), same)
    information = [[0.5 * np.trace(projector @ a @ projector @ b) for b in parts] for a in parts]
    found = clustered_uncertainty(
        jacobian,
        np.zeros(len(labels)),
        make_clusters(labels),
        np.array([sigma2, tau2]),
        np.ones(3, bool),
        np.arange(len(labels)),
    )
    np.testing.assert_allclose(found.variance_covariance, np.linalg.inv(information), rtol=1e-9)
    plain = found.root @ found.root.T
    np.testing.assert_allclose(plain, np.linalg.inv(jacobian.T @ inverse @ jacobian), rtol=1e-9)


def test_planned_rows_weigh_as_the_inverse_of_their_covariance():
    rng, noise = np.random.default_rng(3), RunNoise(0.002, 0.004)
    trunk, rows = np.repeat(np.arange(6), 3), np.random.default_rng(4).standard_normal((18, 3))
    for labels in (rng.permutation(trunk), None):
        same = np.eye(18) if labels is None else labels[:, None] == labels[None, :]
        covariance = noise.tau**2 * same + noise.point**2 * np.eye(18)
        turned = independent_rows(rows, labels, noise)
        np.testing.assert_allclose(turned.T @ turned, rows.T @ np.linalg.solve(covariance, rows), rtol=1e-9)


def test_ratios_that_lie_densely_are_different_ratios():
    tokens = np.geomspace(1e7, 1e9, 200)
    params = 1e16 / tokens  # one budget, ratios 0.01 to 100 apart by less than a tenth each
    model = make_scaled_law(get_law("chinchilla"), {"num_params_total": params, "num_tokens": tokens})
    assert "few-ratios" not in design_alarms(model)
    two = np.tile([1e7, 1e9], 100)
    model = make_scaled_law(get_law("chinchilla"), {"num_params_total": 1e16 / two, "num_tokens": two})
    assert "few-ratios" in design_alarms(model)


def test_growth_is_told_from_what_is_above_the_start():
    rows = {count: {"cpu_seconds": 2.0 + 1e-3 * count} for count in (0, 1_000, 100_000)}
    assert growth_exponent(rows) == pytest.approx(1.0)
    assert growth_exponent({10: {"cpu_seconds": 1.0}, 1_000: {"cpu_seconds": 1.0}, 9_999: {"cpu_seconds": 1.2}}) is None


@pytest.mark.parametrize("law", ["chinchilla", "kaplan", "saturating", "product"])
def test_a_law_of_very_many_runs_of_few_designs_is_what_it_is_of_each_run_by_itself(law):
    rng = np.random.default_rng(0)
    columns = {"num_params_total": 1e6 * rng.integers(1, 6, 6000), "num_tokens": 1e8 * rng.integers(1, 5, 6000)}
    scaled = make_scaled_law(get_law(law), columns)
    designs, which = scaled._designs
    assert which is not None and len(designs["num_tokens"]) == 20
    z = np.full((2, len(scaled.free)), 0.3) + 0.1 * rng.random((2, len(scaled.free)))
    together, apart = scaled.log_loss_and_jacobian(z), scaled.log_loss_and_jacobian(z, columns)
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)
    np.testing.assert_allclose(scaled.log_loss(z), apart[0], rtol=1e-13)
