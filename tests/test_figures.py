"""Claims about the figures: what they draw is what was measured, and what they say follows from it."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from kleiber.scaling.figures.forecast import forecast_against_truth, forecast_claim, hero
from kleiber.scaling.figures.law import optimal_frontier, parameters_by_law, residuals
from kleiber.scaling.figures.levels import Series, best_level, varied_levels
from kleiber.scaling.figures.runs import fitted_surface, isoflop_slices, loss_curves
from kleiber.scaling.figures.study import (
    Curve,
    ForecastRun,
    Points,
    cost_model,
    frontier,
    loss_at_budget,
    smooth,
)
from kleiber.scaling.figures.style import claim_of, count, percent, size_colors
from kleiber.scaling.fitting.result import Estimate

SIZES = (2e4, 5e4, 1e5, 2.5e5)
ALPHA, BETA, A, B = 0.7, 0.6, 500.0, 800.0


def law(num_params, num_tokens):
    return 1.0 + A * np.asarray(num_params) ** -ALPHA + B * np.asarray(num_tokens) ** -BETA


def band(num_params, num_tokens):
    return 0.99 * law(num_params, num_tokens), 1.01 * law(num_params, num_tokens)


@pytest.fixture
def points() -> Points:
    """Two seeds of four sizes at three lengths on the law exactly, costing 6 FLOPs a parameter and token."""
    size, tokens, seed = (a.ravel() for a in np.meshgrid(SIZES, (5e5, 1e6, 2e6), (0, 1), indexing="ij"))
    trunks = tuple(f"n{n:.0f}-s{s:.0f}" for n, s in zip(size, seed, strict=True))
    return Points(size, tokens, 6 * size * tokens, law(size, tokens), trunks)


def target(name="wide", shift=0.002, low=0.99, high=1.01, observed=True) -> ForecastRun:
    loss = float(law(5e5, 4e6))
    predicted = loss * (1 + shift)
    ratio = 4.0
    return ForecastRun(
        name, 5e5, 4e6, 1.2e13, ratio, predicted, low * predicted, high * predicted, 0.9, loss if observed else None
    )


def dots(axis) -> int:
    """Measured points drawn on an axis: markers of lines without a line, and scatters."""
    lines = [line for line in axis.lines if line.get_marker() == "o"]
    return sum(len(line.get_xdata()) for line in lines) + sum(len(c.get_offsets()) for c in axis.collections)


def test_hero_draws_every_run_and_every_target(points):
    figure = hero(points, law, band, [target(), target("long")])
    main_axis, zoom = figure.axes
    runs = [line for line in main_axis.lines if line.get_label() in {count(n) for n in SIZES}]
    assert sum(len(line.get_xdata()) for line in runs) == len(points) == 24
    assert sum(line.get_marker() == "D" for line in zoom.lines) == 2


def test_hero_without_law_or_targets_still_shows_the_runs(points):
    figure = hero(points, None)
    assert dots(figure.axes[0]) == 24 and len(figure.axes) == 1
    assert claim_of(figure) == "24 runs measured, loss 1.216 to 1.792"


def test_a_single_run_is_a_figure_too():
    alone = Points(np.array([1e5]), np.array([1e6]), np.array([6e11]), np.array([1.5]), ("t",))
    hero(alone, None).draw_without_rendering()


def test_hero_shades_what_was_not_trained_from_the_largest_run_on(points):
    axis = hero(points, law, band, [target()]).axes[0]
    assert axis.patches[0].get_extents().transformed(axis.transData.inverted()).x0 == pytest.approx(points.flops.max())


@pytest.mark.parametrize(
    ("targets", "claim"),
    [
        ([target()], "Forecast +0.20 % at 4× compute, inside ±1.00 %"),
        ([target(shift=-0.03)], "Forecast −3.00 % at 4× compute, OUTSIDE ±1.00 %"),
        ([target(observed=False)], "Forecast registered at 4× compute, to ±1.00 %: not measured yet"),
        ([target(), target("b", 0.005)], "Forecasts within 0.50 % at 4× compute, both inside their intervals"),
        ([target(), target("b", 0.02)], "Forecasts within 2.00 % at 4× compute, only 1 of 2 inside their intervals"),
        ([], "The law is fitted; no forecast was registered"),
    ],
)
def test_the_headline_follows_from_the_targets(targets, claim):
    assert forecast_claim(targets).replace("\N{NO-BREAK SPACE}", " ") == claim


def test_a_size_has_one_colour_in_every_figure_targets_counted_in(points):
    every = [*SIZES, target().num_params]
    colors = size_colors(every)
    scattered = residuals(points, law, every).axes[0].collections[0]
    drawn = set(zip(points.num_params, map(to_hex, scattered.get_facecolors()), strict=True))
    assert drawn == {(size, colors[size]) for size in SIZES}
    lines = hero(points, law, band, [target()]).axes[0].lines
    on_hero = {line.get_label(): to_hex(line.get_color()) for line in lines}
    assert {size: on_hero[count(size)] for size in SIZES} == {size: colors[size] for size in SIZES}


def test_the_frontier_is_the_closed_form_when_compute_is_6nd(points):
    flops = np.array([1e11, 1e12, 1e13])
    sizes, tokens = frontier(law, lambda n: 6 * n, flops, (1e2, 1e8))
    # Hoffmann et al. 2022, equation 4.
    scale = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    np.testing.assert_allclose(sizes, scale * (flops / 6) ** (BETA / (ALPHA + BETA)), rtol=1e-3)
    np.testing.assert_allclose(6 * sizes * tokens, flops, rtol=1e-12)


def test_the_frontier_figure_states_the_exponent(points):
    figure = optimal_frontier(points, law, [law, law], cost_model(points), reach=4)
    assert f"power {BETA / (ALPHA + BETA):.2f} ± 0.00" in claim_of(figure)


@pytest.mark.parametrize("cost", [lambda n: 6 * n + 90 * np.sqrt(n), lambda n: 6 * n * (1 + (n > 6e4))])
def test_cost_is_read_off_the_runs_whether_smooth_or_not(points, cost):
    counted = Points(
        points.num_params, points.num_tokens, cost(points.num_params) * points.num_tokens, points.loss, points.trunk
    )
    sizes = np.array(SIZES)
    np.testing.assert_allclose(cost_model(counted)(sizes), cost(sizes), rtol=0.03)


def test_a_size_is_read_only_between_its_own_runs(points):
    cost = cost_model(points)
    inside = loss_at_budget(points, law, cost, 5e4, 6 * 5e4 * 1.5e6)
    assert inside == pytest.approx(law(5e4, 1.5e6), rel=1e-6)
    assert loss_at_budget(points, law, cost, 5e4, 6 * 5e4 * 4e6) is None


def test_slices_show_only_sizes_that_bracket_a_budget(points):
    axis = isoflop_slices(points, law, num_budgets=3).axes[0]
    assert 3 <= dots(axis) <= 3 * len(SIZES)
    assert sum(line.get_marker() == "D" for line in axis.lines) == 3


def test_residuals_of_exact_runs_vanish_and_a_bend_is_named(points):
    assert "no bend" in claim_of(residuals(points, law))
    bent = points.loss * np.exp(0.01 * np.log(points.num_params / 7e4) ** 2)
    noisy = Points(points.num_params, points.num_tokens, points.flops, bent, points.trunk)
    assert "bend with size" in claim_of(residuals(noisy, law))
    assert dots(residuals(points, law).axes[0]) == 24


def test_surface_places_every_run_and_target(points):
    axis = fitted_surface(points, law, [target()]).axes[0]
    drawn = sum(len(line.get_xdata()) for line in axis.lines if line.get_marker() == "o")
    assert drawn == 24 and sum(line.get_marker() == "D" for line in axis.lines) == 1


def test_curves_get_one_panel_a_size_and_count_trunks_and_branches(points):
    tokens = np.geomspace(1e4, 2e6, 300)
    curves = [Curve(f"{n}", n, tokens, law(n, tokens), is_branch=False) for n in SIZES]
    curves += [Curve(f"{n}-D", n, tokens[-30:], 0.95 * law(n, tokens[-30:]), is_branch=True) for n in SIZES]
    figure = loss_curves(curves, points)
    assert len(figure.axes) == 4 and claim_of(figure) == "4 trunks, 4 cooldowns, none lost"
    assert "1 point lost" in claim_of(loss_curves(curves, points, num_failed=1))


def test_smoothing_keeps_a_flat_curve_flat_and_drops_what_is_not_a_number():
    loss = np.full(500, 2.0)
    loss[7] = np.nan
    tokens, smoothed = smooth(Curve("t", 1.0, np.arange(500.0), loss, is_branch=False), bins=40)
    assert len(tokens) <= 40 and np.all(smoothed == 2.0)


def test_rivals_that_disagree_are_the_claim_of_the_parameter_figure():
    first = {"E": Estimate(1.0, 0.05, (0.9, 1.1)), "alpha": Estimate(0.7, 0.05, (0.6, 0.8))}
    nothing = Estimate(np.nan, np.nan, (np.nan, np.nan), withheld="constant-ratio: one ratio.")
    second = {"E": nothing, "alpha": Estimate(0.5, 0.1, (0.3, 0.7))}
    fits = [("chinchilla", first), ("generalised_mean", second)]
    figure = parameters_by_law(
        [SimpleNamespace(law=name, parameters=found, residual_rms=0.003) for name, found in fits]
    )
    assert claim_of(figure).startswith("Exponents move by 40 % with the form")
    assert [text.get_text() for text in figure.axes[0].texts] == ["withheld"]


def test_a_baseline_that_wins_is_said_so_and_dollar_signs_are_text():
    figure = forecast_against_truth([target("a $x_{ & $")], {"rival $y": {"a $x_{ & $": target().observed}})
    figure.canvas.draw()
    assert "rival $y forecasts better" in claim_of(figure)


def test_the_best_level_is_the_vertex_of_the_parabola_that_made_the_losses():
    rates = 0.004 * 2 ** np.arange(0, 3.5, 0.5)
    series = [
        Series("", size, 5e5, rates, 1.5 * np.exp(0.02 * np.log2(rates / best) ** 2))
        for size, best in ((2e4, 0.011), (2.4e5, 0.0155))
    ]
    assert best_level(series[0]) == pytest.approx(0.011, rel=1e-6)
    octaves = np.log2(0.0155 / 0.011)
    assert claim_of(varied_levels(series, "learning rate")) == (
        f"Over 12× parameters the best learning rate moves {octaves:.2f} octaves"
    )


def test_a_lowest_loss_at_the_end_of_the_range_gives_no_best_level():
    rates = np.array([0.001, 0.002, 0.004])
    series = Series("", 2e4, 5e5, rates, np.array([1.5, 1.4, 1.3]))
    assert best_level(series) is None
    assert "end of the range" in claim_of(varied_levels([series], "learning rate"))


@pytest.mark.parametrize(
    ("fraction", "words"), [(-0.0043, "−0.43 %"), (0.012, "+1.20 %"), (0.175, "+18 %"), (0.0, "+0.00 %")]
)
def test_percentages_are_rounded_sensibly_with_a_true_minus(fraction, words):
    assert percent(fraction, signed=True).replace("\N{NO-BREAK SPACE}", " ") == words
