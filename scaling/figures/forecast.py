"""The two figures about the forecast: the whole study on one page, and the errors beside simple baselines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.scaling.figures import style
from kleiber.scaling.figures.study import Band, Cost, ForecastRun, Points, Predict, cost_model, frontier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND = ("best for the compute", "forecast, interval", "measured")
"""Entries of the hero's legend that follow the sizes, in order."""
MAX_FULL_LABELS = 2
"""Targets that fit beside each other with size, length and compute under each; more are named only."""


def hero(
    points: Points, predict: Predict | None, band: Band | None = None, targets: Sequence[ForecastRun] = ()
) -> "Figure":
    """Draws loss against compute: runs, fitted frontier with its band, and each forecast with its outcome.

    Args:
      points: the fitted runs.
      predict: the fitted law, or None to show the runs alone.
      band: interval of a new run, drawn around the frontier.
      targets: registered forecasts, measured or not.
    """
    colors = style.size_colors([*points.num_params, *(t.num_params for t in targets)])
    claim = forecast_claim(targets) if predict is not None or targets else _loss_claim(points)
    with style.claimed_figure(10.2, 5.2, claim, _hero_detail(points, targets, predict is not None)) as figure:
        if targets:
            axis, zoom = figure.subplots(1, 2, width_ratios=(2.7, 1))
            _draw_errors(zoom, targets, colors)
        else:
            axis = figure.subplots()
        _draw_frame(axis, points, targets)
        if predict is not None:
            _draw_law(axis, points, predict, band, targets, colors)
        for size in points.drawn_sizes:
            mine = points.drawn.num_params == size
            dots = points.drawn.flops[mine], points.drawn.loss[mine]
            style.draw_dots(axis, *dots, colors[size], markersize=5.5, label=style.count(size))
        _draw_targets(axis, targets, colors)
        _draw_legend(axis)
    return figure


def _loss_claim(points: Points) -> str:
    low, high = points.loss.min(), points.loss.max()
    return f"{style.plural(len(points), 'run').capitalize()} measured, loss {low:.3f} to {high:.3f}"


def forecast_claim(targets: Sequence[ForecastRun]) -> str:
    """Returns the headline of a study: how far off the forecasts were, at what distance, inside what interval."""
    if not targets:
        return "The law is fitted; no forecast was registered"
    errors = [t.signed_error for t in targets if t.signed_error is not None]
    width = style.percent(max(t.half_width for t in targets))
    ratios = sorted({round(t.compute_ratio, 1) for t in targets})
    distance = f"{ratios[0]:g}×" if len(ratios) == 1 else f"{ratios[0]:g}–{ratios[-1]:g}×"
    if not errors:
        noun = "Forecast" if len(targets) == 1 else f"{len(targets)} forecasts"
        return f"{noun} registered at {distance} compute, to ±{width}: not measured yet"
    inside = sum(bool(t.is_inside) for t in targets)
    if len(errors) == len(targets) == 1:
        place = "inside" if inside else "OUTSIDE"
        return f"Forecast {style.percent(errors[0], signed=True)} at {distance} compute, {place} ±{width}"
    worst = style.percent(max(abs(error) for error in errors))
    pending = f", {len(targets) - len(errors)} not measured yet" if len(errors) < len(targets) else ""
    everyone = "both" if inside == 2 else f"all {inside}"
    share = everyone if inside == len(errors) else f"only {inside} of {len(errors)}"
    return f"Forecasts within {worst} at {distance} compute, {share} inside their intervals{pending}"


def forecast_answer(targets: Sequence[ForecastRun]) -> str:
    """Returns what was asked for in numbers: forecast, interval and measurement of the farthest target."""
    farthest = max(targets, key=lambda t: (t.observed is not None, t.compute_ratio))
    one = f"forecast {farthest.predicted:.4g} [{farthest.low:.4g}, {farthest.high:.4g}]"
    if farthest.observed is None or farthest.signed_error is None:
        one += ", not measured"
    else:
        place = "inside" if farthest.is_inside else "OUTSIDE"
        one += f", measured {farthest.observed:.4g} ({style.percent(farthest.signed_error, signed=True)}, {place})"
    return f"{farthest.name}, the farthest of {len(targets)} targets: {one}" if len(targets) > 1 else f"F{one[1:]}"


def _hero_detail(points: Points, targets: Sequence[ForecastRun], is_fitted: bool) -> str:
    sizes, done = len(np.unique(points.num_params)), "fitted" if is_fitted else "measured"
    runs, most = style.plural(len(points), "run"), style.compute(points.flops.max())
    text = f"{runs} of {style.plural(sizes, 'size')} {done}, up to {most} FLOPs"
    if targets:
        level = f"{100 * targets[0].level:g} %"
        text += f"; forecasts written down with their {level} intervals before their runs started"
    return text + points.drawn_note + (points.sizes_note if is_fitted else "")


def _draw_frame(axis: "Axes", points: Points, targets: Sequence[ForecastRun]) -> None:
    """Sets the axes and shades the compute that no fitted run has reached."""
    edge = float(points.flops.max())
    low, high = points.flops.min() / 1.5, 1.8 * max([edge, *(t.flops for t in targets)])
    top, bottom = points.loss.max(), min([points.loss.min(), *(t.low for t in targets)])
    spread = max(top / bottom, 1.05)
    axis.set(xscale="log", xlim=(low, high), xlabel="training compute (FLOPs, counted)")
    axis.set(yscale="log", ylim=(bottom * spread**-0.09, top * spread**0.05), ylabel="validation loss (nats per token)")
    style.loss_ticks(axis.yaxis)
    style.compute_ticks(axis.xaxis)
    if targets:
        axis.axvspan(edge, high, color=style.UNTRAINED, linewidth=0, zorder=0)
        axis.axvline(edge, color=style.FORECAST, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        is_wide = np.log(high / edge) > 0.3 * np.log(high / low)  # room for the words in the shade, or else before it
        at, side = (edge * (high / low) ** 0.01, "left") if is_wide else (edge / (high / low) ** 0.01, "right")
        look: dict[str, Any] = {"transform": axis.get_xaxis_transform(), "ha": side, "va": "top", "fontsize": 9.5}
        axis.text(at, 0.985, "not trained when the\nforecast was written", color=style.FORECAST, **look)


def _draw_law(
    axis: "Axes",
    points: Points,
    predict: Predict,
    band: Band | None,
    targets: Sequence[ForecastRun],
    colors: dict[float, str],
) -> None:
    """Draws the law at each size over its runs, dashed on to the targets, and the frontier with its band."""
    cost = cost_model(points, targets)
    for size in points.drawn_sizes:
        lengths = points.num_tokens[points.num_params == size]
        _draw_size(axis, predict, cost, size, (lengths.min(), lengths.max()), colors[size])
    for target in targets:
        mine = points.num_params == target.num_params
        per_token = float(cost(np.array([target.num_params]))[0])
        start = points.num_tokens[mine].max() if mine.any() else points.flops.max() / per_token
        if start < target.num_tokens:
            span = (start, target.num_tokens)
            _draw_size(axis, predict, cost, target.num_params, span, colors[target.num_params], linestyle="--")
    budgets = np.geomspace(*axis.get_xlim(), 60)
    sizes, tokens = frontier(predict, cost, budgets, (points.num_params.min() / 30, max(colors) * 30))
    if band is not None:
        axis.fill_between(budgets, *band(sizes, tokens), color=style.INK, alpha=0.15, linewidth=0, zorder=2)
    axis.plot(budgets, predict(sizes, tokens), color=style.INK, linewidth=2, zorder=3, label=LEGEND[0])


def _draw_size(
    axis: "Axes", predict: Predict, cost: Cost, size: float, span: tuple[float, float], color: str, linestyle: str = "-"
) -> None:
    sizes, tokens = np.full(40, size), np.geomspace(*span, 40)
    spent = tokens * cost(sizes)
    axis.plot(spent, predict(sizes, tokens), color=color, linewidth=1.2, alpha=0.8, linestyle=linestyle, zorder=2)


def _draw_legend(axis: "Axes") -> None:
    """Lists the sizes first, then the law, the forecast and the outcome; in the corner under the
    runs, unless one of them or the law is there."""
    handles, labels = axis.get_legend_handles_labels()
    last = [handles[labels.index(name)] for name in LEGEND if name in labels]
    first = [handle for handle in handles if handle not in last]
    lines = [line.get_xydata() for line in axis.lines if line.get_label() in labels]
    places = axis.transAxes.inverted().transform(axis.transData.transform(np.concatenate(lines)))
    is_free = not np.any((places < (0.33, 0.08 + 0.06 * len(labels))).all(axis=1) & (places > 0).all(axis=1))
    axis.legend(
        handles=first + last,
        loc="lower left" if is_free else "center right",
        title="parameters",
        title_fontsize=9.5,
        alignment="left",
    )


def _draw_targets(axis: "Axes", targets: Sequence[ForecastRun], colors: dict[float, str]) -> None:
    for index, target in enumerate(targets):
        names = LEGEND[1:] if index == 0 else (None, None)
        style.draw_forecast(axis, target.flops, target.low, target.predicted, target.high, label=names[0])
        if target.observed is not None:
            color = colors[target.num_params]
            style.draw_measured(axis, target.flops, target.observed, color, markersize=5.5, label=names[1])


def _draw_errors(axis: "Axes", targets: Sequence[ForecastRun], colors: dict[float, str]) -> None:
    """Draws each forecast around its measurement in per cent (or around itself until there is one)."""
    for place, target in enumerate(targets):
        truth = target.observed or target.predicted
        low, middle, high = (100 * (loss / truth - 1) for loss in (target.low, target.predicted, target.high))
        style.draw_forecast(axis, place, low, middle, high)
        if target.observed is not None:
            style.draw_measured(axis, place, 0, colors[target.num_params])
    axis.axhline(0, color=style.INK, linewidth=1, zorder=1)
    if len(targets) <= MAX_FULL_LABELS:
        axis.set_xticks(range(len(targets)), [_target_label(t) for t in targets], fontsize=8.8)
    else:
        names = [style.plain(t.name if len(t.name) <= 16 else t.name[:15] + "…") for t in targets]
        axis.set_xticks(range(len(targets)), names, fontsize=8.8, rotation=60, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.6, len(targets) - 0.4)
    reach = max(abs(v) for v in axis.get_ylim()) * 1.1
    axis.set_ylim(-reach, reach)
    axis.grid(axis="x", visible=False)
    is_tested = any(target.observed is not None for target in targets)
    axis.set_ylabel("forecast minus measured (%)" if is_tested else "interval around the forecast (%)")
    axis.set_title("the forecasts, enlarged", fontsize=9.5, color="#666666", loc="left")


def _target_label(target: ForecastRun) -> str:
    params, tokens = style.count(target.num_params), style.count(target.num_tokens)
    return f"{params} params\n{tokens} tokens\n{target.compute_ratio:.1f}× compute"


def forecast_against_truth(
    targets: Sequence[ForecastRun],
    rivals: dict[str, dict[str, float]],
    names: dict[str, str] | None = None,
    sizes: Sequence[float] = (),
) -> "Figure":
    """Draws the signed error of the registered law, its rivals and simple baselines on every measured target.

    Args:
      targets: registered forecasts; those not measured are left out.
      rivals: method -> {target name: forecast loss}, other laws and baselines, shown in this order.
      names: method -> words for the axis; a method that is not there is named by its key.
      sizes: all sizes of the study, so that a size keeps its colour.
    """
    done = [t for t in targets if t.observed is not None]
    names = names or {}
    rows = {"registered forecast": {t.name: t.predicted for t in done}, **rivals}
    errors = {
        method: [losses[t.name] / t.observed - 1 for t in done if t.name in losses and t.observed]
        for method, losses in rows.items()
    }
    errors = {method: values for method, values in errors.items() if values}
    height = 1.9 + 0.42 * max(len(errors), 1.1 * len(done), 2)
    detail = "signed error of the forecast loss; bar: the registered interval"
    with style.claimed_figure(10.2, height, _skill_claim(errors, names), detail) as figure:
        axis = figure.subplots()
        colors = style.size_colors([*sizes, *(t.num_params for t in done)])
        markers = "oDs^vP*X"
        for row, method in enumerate(errors):
            for index, target in enumerate(done):
                if target.name not in rows[method] or not target.observed:
                    continue
                y = row + 0.22 * (index - (len(done) - 1) / 2) / max(1, (len(done) - 1) / 2)
                low, error, high = (
                    100 * (loss / target.observed - 1) for loss in (target.low, rows[method][target.name], target.high)
                )
                if method == "registered forecast":
                    bar: dict[str, Any] = {"linewidth": 6, "alpha": 0.25, "solid_capstyle": "butt"}
                    axis.plot([low, high], [y, y], color=style.FORECAST, zorder=2, **bar)
                dot: dict[str, Any] = {"markersize": 8, "markeredgecolor": style.INK, "markeredgewidth": 0.7}
                label = style.plain(_one_line(target)) if row == 0 else None
                mark, color = markers[index % len(markers)], colors[target.num_params]
                axis.plot(error, y, mark, color=color, zorder=3, label=label, **dot)
        axis.axvline(0, color=style.INK, linewidth=1, zorder=1)
        axis.set_yticks(range(len(errors)), [style.plain(names.get(method, method)) for method in errors])
        axis.set_ylim(len(errors) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("forecast minus measured, % of the measured loss (0: exact)")
        _mark_scale(axis, errors)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.3)
    return figure


def _mark_scale(axis: "Axes", errors: dict[str, list[float]]) -> None:
    """Uses a symmetric-log axis when a baseline's error would squeeze the law's into a line."""
    worst = 100 * max((abs(v) for values in errors.values() for v in values), default=1.0)
    if worst > 8:
        axis.set_xscale("symlog", linthresh=2, linscale=1.4)
        low = 1.3 * min(100 * min(v for values in errors.values() for v in values), -1)
        high = 1.3 * max(100 * max(v for values in errors.values() for v in values), 1)
        axis.set_xlim(low, high)
        style.signed_ticks(axis.xaxis)


def _one_line(target: ForecastRun) -> str:
    return f"{target.name}\n{style.count(target.num_params)} params, {style.count(target.num_tokens)} tokens"


def _skill_claim(errors: dict[str, list[float]], names: dict[str, str]) -> str:
    rms = {method: float(np.sqrt(np.mean(np.square(values)))) for method, values in errors.items()}
    own = rms.pop("registered forecast", None)
    if own is None:
        return "No target has been measured yet"
    if not rms:
        return f"The registered forecast is {style.percent(own)} off (root mean square)"
    best = min(rms, key=lambda method: rms[method])
    name, mine, found = names.get(best, best), style.percent(own), style.percent(rms[best])
    if rms[best] < own:
        return f"{name} forecasts better than the registered one: {found} off against {mine}"
    return f"The registered forecast is {mine} off, the best of the others {found} ({name})"
