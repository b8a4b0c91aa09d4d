"""The saturating law: bounded above by the loss of a model that has learnt nothing, so it suits tiny models."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Values, power
from kleiber.scaling.laws.additive import ALPHA, BETA, E


def saturating_loss(p: Values, x: Values) -> np.ndarray:
    """Returns (E + L0 h) / (1 + h) with h = a / num_params^alpha + b / num_tokens^beta, [..., runs]."""
    h = p["a"] * power(x["num_params_total"], -p["alpha"]) + p["b"] * power(x["num_tokens"], -p["beta"])
    return (p["E"] + p["L0"] * h) / (1 + h)


LAWS = (
    Law(
        id="saturating",
        title="additive law that saturates at the uninformed loss",
        formula="L = E + (L0 - E) h / (1 + h), h = a / N^alpha + b / D^beta",
        citation="Bryant and Liu 2026, arXiv:2605.09189, without the overfitting term",
        variables=(NUM_PARAMS, NUM_TOKENS),
        parameters=(
            E,
            Parameter(
                "L0",
                "loss of a model that has learnt nothing: fix it to the unigram entropy if known",
                "nats per token",
                "identity",
                (0.0, 30.0),
            ),
            Parameter("a", "size of the parameter term", start=(1e-3, 10.0), scale=(("num_params_total", "alpha"),)),
            Parameter("b", "size of the token term", start=(1e-3, 10.0), scale=(("num_tokens", "beta"),)),
            ALPHA,
            BETA,
        ),
        linear=(("E",), ("L0",)),
        loss=saturating_loss,
        validity="from untrained to converged; the additive law is its limit for losses far below L0",
        sweep="as the additive law, with some runs near L0",
        pitfalls="L0 cannot be fitted from runs far below it: fix it; worst form in our own byte-level rehearsal",
        frontier=("alpha", "beta"),
        limits=("chinchilla with A = a (L0 - E), B = b (L0 - E) for small h",),
    ),
)
