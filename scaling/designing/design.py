"""Which runs to buy next: what a design of runs will be able to say, and the design that says most for a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kleiber.scaling.designing.purchases import FINAL_PRIOR, Form, Problem, criterion, information, search_design
from kleiber.scaling.fitting.estimates import transformed_gradient
from kleiber.scaling.fitting.identifiability import fisher
from kleiber.scaling.fitting.known import Known
from kleiber.scaling.fitting.noise import RunNoise, make_clusters, whiten
from kleiber.scaling.fitting.scaled_law import ScaledLaw, make_scaled_law
from kleiber.scaling.law import Law, Values
from kleiber.scaling.laws import get_law

SINGULAR = 1e14
"""Condition number of the Fisher matrix beyond which rounding decides, so that nothing is said."""


@dataclass(frozen=True)
class ExpectedErrors:
    """Standard errors that a design would give; infinite where it cannot identify the law at all."""

    standard_errors: dict[str, float]
    """Of each constant, in its own unit."""
    a: float | None
    """Of the exponent of compute-optimal parameters, where the law has one."""
    forecast: np.ndarray
    """float64 [targets], of the predicted mean log loss."""
    new_run: np.ndarray
    """float64 [targets], of one new run's log loss about its prediction: `forecast` and the noise of that run."""
    condition: float
    """Of the Fisher matrix in logarithms of the constants; sound designs have 1e5 to 1e6."""

    @property
    def is_singular(self) -> bool:
        """Whether the design says nothing about some direction of the constants."""
        return self.condition > SINGULAR


def independent_rows(rows: np.ndarray, trunk: Sequence[str] | np.ndarray | None, noise: RunNoise) -> np.ndarray:
    """Returns rows [runs, P], derivatives of log losses, turned so that errors are independent and of unit variance;
    without trunks [runs] each run has one of its own."""
    if trunk is None:
        return rows / noise.new_run
    ratio = np.array([(noise.tau / noise.point) ** 2])
    return whiten(rows[None], make_clusters(np.asarray(trunk)), ratio)[0] / noise.point


def expected_errors(
    law: str | Law,
    constants: Mapping[str, float],
    design_points: Values,
    noise: RunNoise,
    *,
    targets: Values | None = None,
    trunk: Sequence[str] | np.ndarray | None = None,
) -> ExpectedErrors:
    """Returns the standard errors to expect from a fit of planned runs, if the law and the noise are true.

    The generalised-least-squares (Fisher) covariance at the given constants: exact to first order in the noise.

    Args:
      law: id of a registered law, or a law.
      constants: the law's, in the units of the columns.
      design_points: the law's variables [runs].
      noise: of log losses.
      targets: the law's variables [targets] of runs to forecast.
      trunk: name of each run's trunk [runs]; None if each run has its own.
    """
    law = get_law(law)
    scaled = make_scaled_law(law, design_points)
    return _errors(scaled, scaled.working(constants), noise, trunk, targets)


def _errors(
    scaled: ScaledLaw, z: np.ndarray, noise: RunNoise, trunk: Sequence[str] | np.ndarray | None, targets: Values | None
) -> ExpectedErrors:
    """Returns the errors of a fit of the scaled law's own runs."""
    jacobian = scaled.log_loss_and_jacobian(z[None])[1][0]
    values = fisher(scaled, z, jacobian)[0]
    condition = float(values[0] / values[-1]) if values[-1] > 0 and len(jacobian) >= len(z) else np.inf
    rows = np.zeros((0, len(z)))
    if targets is not None:
        arrays = {name: np.atleast_1d(np.asarray(targets[name], np.float64)) for name in scaled.law.variable_names}
        rows = scaled.log_loss_and_jacobian(z[None], arrays)[1][0]
    if condition > SINGULAR:
        infinite = np.full(len(rows), np.inf)
        return ExpectedErrors(dict.fromkeys(scaled.free, np.inf), np.inf, infinite, infinite, condition)
    whitened = independent_rows(jacobian, trunk, noise)
    _, upper = np.linalg.qr(whitened / (size := np.linalg.norm(whitened, axis=0)))

    def error(contrast: np.ndarray) -> float:
        return float(np.linalg.norm(np.linalg.solve(upper.T, contrast / size)))

    errors, slopes = {}, {}
    for name in scaled.free:
        value, slopes[name], is_log = transformed_gradient(scaled, z, name)
        errors[name] = error(slopes[name]) * (value if is_log else 1.0)
    forecast = np.array([error(row) for row in rows])
    found = scaled.reported(z)
    a = None
    if scaled.law.frontier and set(scaled.law.frontier) <= set(scaled.free):
        first, second = scaled.law.frontier
        share = float(found[second] / (found[first] + found[second]))
        a = share * (1 - share) * error(slopes[second] - slopes[first])
    return ExpectedErrors(errors, a, forecast, np.hypot(forecast, noise.new_run), condition)


@dataclass(frozen=True)
class Pool:
    """Candidates to buy."""

    columns: Values
    """float64 [candidates], the laws' variables."""
    flops: np.ndarray
    """float64 [candidates], each as a run by itself."""
    trunk: np.ndarray | None = None
    """int [candidates]: candidates of equal number share the stable part of one run (see `Problem`)."""
    cooldown: float = 0.2


def make_pool(
    num_params: np.ndarray,
    num_tokens: np.ndarray,
    max_flops: float,
    *,
    ratio: tuple[float, float] = (0.0, np.inf),
    num_trunks: int = 0,
    cooldown: float = 0.2,
    flops_per_param_token: float = 6.0,
    levels: Mapping[str, Sequence[float]] | None = None,
) -> Pool:
    """Returns every combination of sizes and token counts that the limits allow. Raises ValueError if nothing is left.

    Args:
      num_params: sizes of the ladder.
      num_tokens: token counts.
      max_flops: largest single run.
      ratio: smallest and largest tokens per parameter.
      num_trunks: trunks (seeds) of each size whose branches share their stable part; 0 for runs by themselves.
      cooldown: share of a run that a branch trains by itself.
      flops_per_param_token: training FLOPs per parameter and token.
      levels: values of further variables, combined with every run; "epochs" sets num_unique_tokens.
    """
    params, tokens = (each.ravel() for each in np.meshgrid(num_params, num_tokens, indexing="ij"))
    size = np.repeat(np.arange(len(num_params)), len(num_tokens))
    flops = flops_per_param_token * params * tokens
    kept = (flops <= max_flops * (1 + 1e-9)) & (tokens >= ratio[0] * params) & (tokens <= ratio[1] * params)
    if not kept.any():
        raise ValueError(
            f"no run fits: sizes {min(num_params):.3g} to {max(num_params):.3g}, tokens {min(num_tokens):.3g} to "
            f"{max(num_tokens):.3g}, at most {max_flops:.3g} FLOPs, "
            f"{ratio[0]:.3g} to {ratio[1]:.3g} tokens a parameter."
        )
    columns = {"num_params_total": params[kept], "num_tokens": tokens[kept]}
    flops, trunk = flops[kept], size[kept]
    for name, values in (levels or {}).items():
        count, copies = len(flops), len(values)
        # Runs that differ in a further variable share no stable part.
        trunk = np.concatenate([trunk + level * (int(trunk.max()) + 1) for level in range(copies)])
        columns = {key: np.tile(each, copies) for key, each in columns.items()}
        flops, level_of = np.tile(flops, copies), np.repeat(np.asarray(values, np.float64), count)
        if name == "epochs":
            columns["num_unique_tokens"] = columns["num_tokens"] / level_of
        else:
            columns[name] = level_of
    if not num_trunks:
        return Pool(columns, flops, None, cooldown)
    trunk = np.concatenate([trunk + seed * (int(trunk.max()) + 1) for seed in range(num_trunks)])
    columns = {name: np.tile(values, num_trunks) for name, values in columns.items()}
    return Pool(columns, np.tile(flops, num_trunks), trunk, cooldown)


@dataclass(frozen=True)
class BoughtRuns:
    """A design: which runs, what they cost, and what they will say together with the runs already there."""

    columns: Values
    """float64 [runs], in the order in which to buy."""
    trunk: np.ndarray
    """Text [runs]; equal names share a trunk."""
    flops: float
    """Of the whole design, shared parts once."""
    expected: ExpectedErrors
    before: ExpectedErrors | None
    """From the runs already there alone."""
    path: list[float]
    """Expected standard error of the forecast (form disagreement included) after each purchase."""

    def __len__(self) -> int:
        return len(self.trunk)


def design_problem(
    known: Known,
    pool: Pool,
    targets: Values,
    rivals: Sequence[Known] = (),
    aim: str = "prediction",
    max_repeats: int = 10**9,
) -> Problem:
    """Returns the search problem of a law, candidates, targets and rival forms."""
    forms = []
    for index, each in enumerate([known, *rivals]):
        parts = []
        own = each.scaled.columns if known.has_runs else pool.columns
        for columns in (pool.columns, targets, own):
            arrays = {name: np.atleast_1d(np.asarray(value, np.float64)) for name, value in columns.items()}
            value, jacobian = each.scaled.log_loss_and_jacobian(each.z[None], arrays)
            rows = jacobian[0]
            if index:
                rows = np.column_stack([rows, known.predict(arrays) - value[0]])
            parts.append(rows)
        rows, wanted, there = parts
        base = np.zeros((rows.shape[1],) * 2)
        if known.has_runs:
            there = independent_rows(there, known.trunk, known.noise)
            base = there.T @ there
        forms.append(Form(rows, wanted, base, each.weight))
    variances = known.noise.point**2, known.noise.tau**2
    return Problem(pool.flops, tuple(forms), *variances, pool.trunk, pool.cooldown, max_repeats, aim)


def design_runs(
    known: Known,
    pool: Pool,
    targets: Values,
    budget: float,
    *,
    max_runs: int = 48,
    rivals: Sequence[Known] = (),
    aim: str = "prediction",
    stop_at: float = 0.0,
    max_repeats: int = 10**9,
) -> BoughtRuns:
    """Returns the runs to buy: greedy by gain over cost ** 0.4, then swapped until no swap helps. Raises ValueError if
    the budget buys nothing, or for an unknown aim.

    Args:
      known: the law designed for; see `kleiber.scaling.fitting.known`.
      pool: candidates and their costs.
      targets: the law's variables [targets] of the runs to forecast.
      budget: FLOPs.
      max_runs: runs at most.
      rivals: other forms, whose disagreement at the targets counts until the design would reject them.
      aim: "prediction" at the targets (I-optimal) or "constants" (D-optimal).
      stop_at: stop buying when the standard error of the forecast is this small.
      max_repeats: seeds of one cell at most; the best design for a law known to be true piles seeds on few cells,
        where nothing would show that the law is wrong.
    """
    if aim not in ("prediction", "constants"):
        raise ValueError(f"aim {aim!r}: choose prediction or constants.")
    problem = design_problem(known, pool, targets, rivals, aim, max_repeats)
    chosen, path = search_design(problem, budget, max_runs, stop_at**2)
    if not chosen:
        cheapest = float(problem.added_cost([]).min())
        raise ValueError(f"a budget of {budget:.3g} FLOPs buys no run; the cheapest candidate costs {cheapest:.3g}.")
    picks = np.array(chosen)
    columns = {name: values[picks] for name, values in pool.columns.items()}
    label = np.arange(len(picks)) if pool.trunk is None else pool.trunk[picks]
    trunk = np.array([f"new-{each}" for each in label])
    before = _errors(known.scaled, known.z, known.noise, known.trunk, targets) if known.has_runs else None
    if aim == "constants":
        whole = replace(problem, aim="prediction")
        path = [
            float(criterion(whole, [each[None] for each in information(whole, chosen[: k + 1])], FINAL_PRIOR)[0])
            for k in range(len(picks))
        ]
    expected = expected_from(known, columns, trunk, targets)
    return BoughtRuns(columns, trunk, problem.cost(chosen), expected, before, np.sqrt(path).tolist())


def expected_from(known: Known, columns: Values, trunk: np.ndarray | None, targets: Values) -> ExpectedErrors:
    """Returns the expected errors from the runs already there and new ones."""
    trunk = np.array([f"new-{index}" for index in range(len(next(iter(columns.values()))))]) if trunk is None else trunk
    names = known.scaled.law.variable_names
    joined = {name: np.asarray(columns[name], np.float64) for name in names}
    if known.has_runs:
        there = known.scaled.columns
        joined = {name: np.concatenate([there[name], joined[name]]) for name in names}
        own = known.trunk or tuple(f"run-{index}" for index in range(len(there[names[0]])))
        trunk = np.concatenate([[f"old-{each}" for each in own], trunk])
    return _errors(replace(known.scaled, columns=joined), known.z, known.noise, trunk, targets)
