"""The saturating law: bounded above by the loss of a model that has learnt nothing, so it suits tiny models."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, NUM_UNIQUE, Law, Parameter, Values, power, softplus
from kleiber.scaling.laws.additive import ALPHA, BETA, E

NEWTON_STEPS = 10
"""Eight suffice for kappa 0.01 to 10 and ln h -40 to 40."""


def saturating_terms(p: Values, x: Values) -> np.ndarray:
    """Returns h = a / num_params^alpha + b / num_tokens^beta [..., runs]."""
    return p["a"] * power(x["num_params_total"], -p["alpha"]) + p["b"] * power(x["num_tokens"], -p["beta"])


def saturating_loss(p: Values, x: Values) -> np.ndarray:
    """Returns (E + L0 h) / (1 + h) with h = a / num_params^alpha + b / num_tokens^beta, [..., runs]."""
    h = saturating_terms(p, x)
    return (p["E"] + p["L0"] * h) / (1 + h)


def saturating_repeated_loss(p: Values, x: Values) -> np.ndarray:
    """Returns (E + L0 h) / (1 + h), h = a / N^alpha + b / D^beta + c N^gamma / U^delta, [..., runs]."""
    overfitting = p["c"] * power(x["num_params_total"], p["gamma"]) * power(x["num_unique_tokens"], -p["delta"])
    h = saturating_terms(p, x) + overfitting
    return (p["E"] + p["L0"] * h) / (1 + h)


def reducible_share(log_h: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """Returns y in (0, 1) with y / (1 - y)^kappa = h, for real or complex input.

    In t = ln(y / (1 - y)) the equation is -softplus(-t) + kappa softplus(t) = ln h, with a slope between kappa and 1,
    so Newton's steps from its straight ends settle quickly; the last ones carry an imaginary part along.
    """
    t = np.where(log_h.real < 0, log_h.real, log_h.real / kappa.real)
    for step in range(NEWTON_STEPS):
        is_early = step < NEWTON_STEPS - 2
        bend, target = (kappa.real, log_h.real) if is_early else (kappa, log_h)
        share = 1 / (1 + np.exp(-t))
        t = t - (bend * softplus(t) - softplus(-t) - target) / (bend * share + 1 - share)
    return 1 / (1 + np.exp(-t))


def saturating_kappa_loss(p: Values, x: Values) -> np.ndarray:
    """Returns L with y / (1 - y)^kappa = h, y = (L - E) / (L0 - E), h = a / N^alpha + b / D^beta, [..., runs]."""
    return p["E"] + (p["L0"] - p["E"]) * reducible_share(np.log(saturating_terms(p, x)), p["kappa"])


UNINFORMED = Parameter(
    "L0",
    "loss of a model that has learnt nothing: fix it to the unigram entropy if known",
    "nats per token",
    "identity",
    (0.0, 30.0),
)
SMALL_A = Parameter("a", "size of the parameter term", start=(1e-3, 10.0), scale=(("num_params_total", "alpha"),))
SMALL_B = Parameter("b", "size of the token term", start=(1e-3, 10.0), scale=(("num_tokens", "beta"),))
LAWS = (
    Law(
        id="saturating",
        title="additive law that saturates at the uninformed loss",
        formula="L = E + (L0 - E) h / (1 + h), h = a / N^alpha + b / D^beta",
        citation="Bryant and Liu 2026, arXiv:2605.09189, without the overfitting term",
        variables=(NUM_PARAMS, NUM_TOKENS),
        parameters=(E, UNINFORMED, SMALL_A, SMALL_B, ALPHA, BETA),
        linear=(("E",), ("L0",)),
        loss=saturating_loss,
        validity="from untrained to converged; the additive law is its limit for losses far below L0",
        sweep="as the additive law, with some runs near L0",
        pitfalls="L0 cannot be fitted from runs far below it: fix it; worst form in our own byte-level rehearsal",
        frontier=("alpha", "beta"),
        limits=("chinchilla with A = a (L0 - E), B = b (L0 - E) for small h",),
    ),
    Law(
        id="saturating_repeated",
        title="the same with an overfitting term for repeated data",
        formula="L = E + (L0 - E) h / (1 + h), h = a / N^alpha + b / D^beta + c N^gamma / U^delta",
        citation="Bryant and Liu 2026, arXiv:2605.09189",
        variables=(NUM_PARAMS, NUM_TOKENS, NUM_UNIQUE),
        parameters=(
            *(E, UNINFORMED, SMALL_A, SMALL_B, ALPHA, BETA),
            Parameter(
                "c",
                "size of overfitting",
                start=(1e-4, 1.0),
                scale=(("num_params_total", "-gamma"), ("num_tokens", "delta")),
            ),
            Parameter("gamma", "how overfitting grows with parameters", start=(0.05, 2.0), bounds=(1e-3, 10.0)),
            Parameter("delta", "how it falls with unique tokens", start=(0.05, 2.0), bounds=(1e-3, 10.0)),
        ),
        linear=(("E",), ("L0",)),
        loss=saturating_repeated_loss,
        validity="several epochs over one set, weight decay fixed",
        sweep="as data_constrained, with some runs near L0",
        pitfalls="nine constants: fix L0 to the unigram entropy",
        limits=("c = 0 is saturating",),
    ),
    Law(
        id="saturating_kappa",
        title="saturating law with the sharpness of its bend fitted",
        formula="(L - E) / (L0 - E) = y, y / (1 - y)^kappa = h, h = a / N^alpha + b / D^beta",
        citation="Alabdulmohsin et al. 2022, arXiv:2209.06640 (estimator M4), in the variables of arXiv:2605.09189",
        variables=(NUM_PARAMS, NUM_TOKENS),
        parameters=(
            *(E, UNINFORMED, SMALL_A, SMALL_B, ALPHA, BETA),
            Parameter("kappa", "0 for a power law, 1 for the saturating law", start=(0.1, 2.0), bounds=(0.01, 10.0)),
        ),
        linear=(("E",), ("L0",)),
        loss=saturating_kappa_loss,
        validity="from untrained to converged",
        sweep="as saturating",
        pitfalls="kappa needs runs near L0; with a small kappa losses stop at L0 abruptly",
        frontier=("alpha", "beta"),
        limits=("kappa = 1 is saturating", "kappa to 0 is chinchilla with A = a (L0 - E), B = b (L0 - E) while h < 1"),
    ),
)
