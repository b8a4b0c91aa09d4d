"""Loss along and after a learning-rate schedule."""

import numpy as np

from kleiber.scaling.law import Law, Parameter, Values, Variable, power
from kleiber.scaling.laws.additive import E

LR_SUM = Variable("lr_sum", "sum of the learning rate over the steps so far", "steps x rate")
ANNEAL_AREA = Variable(
    "anneal_area", "momentum-weighted sum of the falls of the rate", "steps x rate", may_be_zero=True
)


def schedule_areas(learning_rates: np.ndarray, memory: float = 0.999) -> tuple[np.ndarray, np.ndarray]:
    """Returns (lr_sum, anneal_area) [steps] of a schedule, the columns of the law `annealing`.

    S1 = sum of the rate; S2 = sum over i of sum over k <= i of (rate_{k-1} - rate_k) memory^(i - k).
    """
    rates = np.asarray(learning_rates, np.float64)
    falls = np.concatenate([[0.0], rates[:-1] - rates[1:]])
    momentum, area = 0.0, np.empty_like(rates)
    for step, fall in enumerate(falls):
        momentum = memory * momentum + fall
        area[step] = momentum
    return np.cumsum(rates), np.cumsum(area)


def annealing_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A S1^-alpha - C S2 [..., runs]."""
    return p["E"] + p["A"] * power(x["lr_sum"], -p["alpha"]) - p["C"] * x["anneal_area"]


LAWS = (
    Law(
        id="annealing",
        title="loss after a schedule, from its area and its falls",
        formula="L = E + A / S1^alpha - C S2",
        citation="Tissue et al. 2024, arXiv:2408.11029",
        variables=(LR_SUM, ANNEAL_AREA),
        parameters=(
            E,
            Parameter("A", "size of the learning term", scale=(("lr_sum", "alpha"),)),
            Parameter("alpha", "exponent of the area", start=(0.02, 2.5), bounds=(1e-4, 20.0)),
            Parameter("C", "gain for each unit of annealing", bounds=(0.0, 1e6)),
        ),
        linear=(("E",), ("A",), ("C",)),
        loss=annealing_loss,
        floor="",
        validity="one model size; after warm-up",
        sweep="two or three schedules (constant, cosine, two-step), tested on warm-up-stable-decay",
        pitfalls="points of a curve are correlated: use --cluster",
        limits=("a constant rate (S2 = 0) is a power law in S1",),
    ),
)
