"""Fits and comparisons as compact text for people."""

from collections.abc import Sequence

from kleiber.scaling.fitting.result import FitResult


def fit_report(fit: FitResult) -> str:
    """Returns one fit as text: constants with intervals, noise, alarms, and what was left out."""
    lines = [f"{fit.law}: {fit.definition.formula}", f"  {fit.num_points} points from {fit.source}"]
    lines += [f"  note: {note}" for note in fit.notes]
    for name, each in fit.parameters.items():
        if each.withheld:
            lines.append(f"  {name:<8} withheld ({each.withheld.split(':')[0]})")
        elif each.fixed:
            lines.append(f"  {name:<8} {each.estimate:.6g} (fixed)")
        else:
            low, high = each.interval_95
            text = f"  {name:<8} {each.estimate:.6g} +- {each.standard_error:.2g}   95% [{low:.5g}, {high:.5g}]"
            lines.append(text + ("   at its bound" if each.at_bound else ""))
    if fit.optimum.get("a") is not None:
        low, high = fit.optimum["a_interval_95"]
        lines.append(
            f"  optimum  N ~ C^a, D ~ C^b: a {fit.optimum['a']:.4f} 95% [{low:.3f}, {high:.3f}], "
            f"b {fit.optimum['b']:.4f}"
        )
    noise = fit.noise
    shared = f", tau {noise.tau:.3%} shared by each of {noise.num_clusters} {noise.cluster}" if noise.cluster else ""
    name = fit.objective_name + (f" delta {fit.delta:.3g}" if fit.delta else "")
    lines.append(f"  {name} objective {fit.objective:.7g}, residual rms {fit.residual_rms:.3%}, AICc {fit.aicc:.1f}")
    lines.append(f"  noise    sigma {noise.sigma:.3%} a point{shared}")
    starts = fit.starts
    lines.append(
        f"  starts   {starts.tried} tried, {starts.polished} polished, {starts.failed} failed, "
        f"{starts.agreeing} reached the best optimum"
    )
    ident = fit.identifiability
    lines.append(f"  identifiability: condition {ident.condition:.2g}; weakest direction: {ident.weakest_in_words()}")
    lines += [f"  ALARM {alarm}" for alarm in ident.alarms]
    return "\n".join(lines)


def comparison_report(fits: Sequence[FitResult], weights: Sequence[float]) -> str:
    """Returns several fits of the same runs side by side, best first."""
    best = min(fit.aicc for fit in fits)
    lines = [f"{'law':<18}{'AICc - best':>12}{'weight':>9}{'residual rms':>14}{'points':>8}"]
    for fit, weight in sorted(zip(fits, weights, strict=True), key=lambda pair: pair[0].aicc):
        lines.append(f"{fit.law:<18}{fit.aicc - best:>12.1f}{weight:>9.3f}{fit.residual_rms:>14.3%}{fit.num_points:>8}")
    return "\n".join(lines)
