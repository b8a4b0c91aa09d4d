"""No two labels of a figure touch, whatever the range of the runs, and every axis says at least two values."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from kleiber.scaling.figures.factors import local_exponents, profiles
from kleiber.scaling.figures.forecast import forecast_against_truth, hero
from kleiber.scaling.figures.law import optimal_frontier, parameters_by_law, residuals
from kleiber.scaling.figures.levels import Series, varied_levels
from kleiber.scaling.figures.runs import fitted_surface, isoflop_slices, loss_curves
from kleiber.scaling.figures.study import Curve, ForecastRun, Points, cost_model
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import Estimate
from kleiber.scaling.table.table import read_table

RANGES = (1.5, 4.0, 8.0, 30.0, 1e3, 1e6)
"""Largest over smallest size, and length, of the runs."""


def law(num_params, num_tokens):
    return 1.0 + 500 * np.asarray(num_params) ** -0.7 + 800 * np.asarray(num_tokens) ** -0.6


def band(num_params, num_tokens):
    return 0.99 * law(num_params, num_tokens), 1.01 * law(num_params, num_tokens)


def points_over(reach):
    sizes, lengths = np.geomspace(2e4, 2e4 * reach, 5), np.geomspace(4.2e5, 4.2e5 * reach, 3)
    size, tokens = (a.ravel() for a in np.meshgrid(sizes, lengths, indexing="ij"))
    noise = np.random.default_rng(0).normal(1, 0.002, len(size))
    return Points(size, tokens, 6 * size * tokens, law(size, tokens) * noise, tuple(f"n{n:.0f}" for n in size))


def targets_of(points):
    size, tokens = 2 * points.num_params.max(), 2 * points.num_tokens.max()
    loss = float(law(size, tokens))
    return [
        ForecastRun(name, size, tokens, 6 * size * tokens, 4.0, loss * 1.002, loss * 0.99, loss * 1.01, 0.9, loss)
        for name in ("wide", "long")
    ]


def fitted(points):
    columns = {"num_params_total": points.num_params, "num_tokens": points.num_tokens, "loss": points.loss}
    return fit_law(read_table({name: list(values) for name, values in columns.items()}), "chinchilla")


def curves(points, reach):
    steps = np.geomspace(points.num_tokens.min() / 10, points.num_tokens.max(), 80)
    return [Curve(f"n{n}", n, steps, law(n, steps), is_branch=False) for n in np.unique(points.num_params)]


def levels(points, reach):
    rates = np.geomspace(1.2e-3, 1.2e-3 * reach, 9)
    bowl = 1.5 * (1 + np.linspace(-1, 1, 9) ** 2 / 50)
    return [Series(panel, n, 1e6, rates, bowl) for panel in ("one", "two", "three") for n in (2e4, 4e4)]


def estimates(points, reach):
    spans = {name: (low * reach, low, 1.2 * low * reach) for name, low in zip("EAB", (0.9, 450.0, 7e5), strict=True)}
    spans |= {"alpha": (0.4, 0.39, 0.41), "beta": (0.3, 0.2, 0.4)}
    found = {name: Estimate(value, value / 9, interval) for name, (value, *interval) in spans.items()}
    return [SimpleNamespace(law=name, parameters=found, residual_rms=0.01) for name in "ab"]


def rivals(points, reach):
    return {"one": {"wide": law(2e4, 1e6) * reach, "long": 1.3}, "two": {"wide": 1.2, "long": 1.21}}


FIGURES = {
    "hero": lambda p, reach: hero(p, law, band, targets_of(p)),
    "curves": lambda p, reach: loss_curves(curves(p, reach), p),
    "slices": lambda p, reach: isoflop_slices(p, law),
    "surface": lambda p, reach: fitted_surface(p, law, targets_of(p)),
    "frontier": lambda p, reach: optimal_frontier(p, law, [law], cost_model(p), reach=8),
    "residuals": lambda p, reach: residuals(p, law),
    "parameters": lambda p, reach: parameters_by_law(estimates(p, reach)),
    "truth": lambda p, reach: forecast_against_truth(targets_of(p), rivals(p, reach)),
    "levels": lambda p, reach: varied_levels(levels(p, reach), "learning rate"),
}


def labels_of(line, renderer):
    """Boxes of the labels of an axis that are drawn."""
    low, high = sorted(line.get_view_interval())
    ticks = [tick for tick in [*line.get_major_ticks(), *line.get_minor_ticks()] if low <= tick.get_loc() <= high]
    shown = [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]
    return [label.get_window_extent(renderer) for label in shown]


def check(figure, most=13):
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    page = figure.bbox
    for axes in (axes for axes in figure.axes if axes.get_visible()):
        for line in (axes.xaxis, axes.yaxis):
            boxes = labels_of(line, renderer)
            for one, other in itertools.combinations(boxes, 2):
                assert not one.overlaps(other), f"{line.axis_name} of {axes.get_title(loc='left')!r}"
            assert len(boxes) <= most
            assert all(page.x0 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 <= box.y0 for box in boxes)
        if axes.xaxis.get_scale() == "log":
            assert len(labels_of(axes.xaxis, renderer)) >= 2 or not axes.xaxis.get_tick_params()["labelbottom"]


@pytest.mark.parametrize("reach", RANGES)
@pytest.mark.parametrize("name", FIGURES)
def test_no_two_labels_of_an_axis_touch_and_none_leaves_the_page(name, reach):
    check(FIGURES[name](points_over(reach), reach))


@pytest.mark.parametrize("reach", (8.0, 1e3))
@pytest.mark.parametrize("draw", (local_exponents, profiles))
def test_no_two_labels_touch_in_the_figures_of_one_fit(draw, reach):
    check(draw(fitted(points_over(reach))))
