"""The multi-power law: the loss anywhere along a learning-rate schedule, from how far and when the rate fell."""

import numpy as np

from kleiber.scaling.law import Law, Parameter, Values, Variable, signed
from kleiber.scaling.laws.additive import E

NODES, WEIGHTS = (0.5 * (each + add) for each, add in zip(np.polynomial.legendre.leggauss(12), (1.0, 0.0), strict=True))
"""Gauss-Legendre points and weights on [0, 1] for the sum over all falls of the rate, which is taken as an integral."""
STEP = Variable("step", "optimiser steps done", "steps")
NUM_STEPS = Variable("num_steps", "steps at which the rate reaches its end", "steps", setting=True)
COOLDOWN_START = Variable("cooldown_start", "step at which the rate begins to fall", "steps", setting=True)
PEAK_RATE = Variable("peak_rate", "largest learning rate", "1", setting=True)
FINAL_RATIO = Variable("final_ratio", "last rate over the largest", "1", may_be_zero=True, setting=True)
SHAPE = Variable("cooldown_shape", "0 linear, 1 cosine, 2 square root", "1", may_be_zero=True, setting=True)
WARMUP_STEPS = Variable("warmup_steps", "steps of linear warm-up", "steps", may_be_zero=True, setting=True)


def fallen(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Returns the share of the fall that is done at the share x of the cooldown."""
    return np.select([shape < 0.5, shape < 1.5], [x, 0.5 - 0.5 * np.cos(np.pi * x)], np.sqrt(x))


def when_fallen(share: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Returns the share of the cooldown at which a share of the fall is done."""
    return np.select([shape < 0.5, shape < 1.5], [share, np.arccos(1 - 2 * share) / np.pi], share**2)


def area(x: np.ndarray, final: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Returns the integral from 0 to x of the rate over its peak along the cooldown."""
    under = np.select([shape < 0.5, shape < 1.5], [x**2 / 2, x / 2 - np.sin(np.pi * x) / (2 * np.pi)], 2 / 3 * x**1.5)
    return x - (1 - final) * under


def multi_power_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A S1^-alpha - B sum_k fall_k (1 - (1 + C rate_k^-gamma S_k)^-beta), [..., runs].

    S1 is the sum of the rate so far, S_k since the k-th fall.
    """
    peak, final, shape = x["peak_rate"], x["final_ratio"], x["cooldown_shape"]
    length = np.maximum(x["num_steps"] - x["cooldown_start"], 1.0)
    now = np.clip((x["step"] - x["cooldown_start"]) / length, 0.0, 1.0)
    stable = np.minimum(x["step"], x["cooldown_start"]) - 0.5 * np.minimum(x["warmup_steps"], x["step"])
    done = peak * length * area(now, final, shape)
    total = peak * stable + done
    depth = fallen(now, shape)
    shares = NODES * depth[:, None]  # [runs, nodes]
    since = done[:, None] - (peak * length)[:, None] * area(
        when_fallen(shares, shape[:, None]), final[:, None], shape[:, None]
    )
    log_rate = np.log(peak[:, None] * (1 - (1 - final[:, None]) * shares))
    fall = (1 - final) * peak * depth
    reach = p["C"][..., None] * np.exp(-p["gamma"][..., None] * log_rate) * np.maximum(since, 0.0)
    gain = 1 - np.exp(-p["beta"][..., None] * np.log1p(reach))
    return p["E"] + p["A"] * np.exp(-p["alpha"] * np.log(total)) - p["B"] * fall * (gain @ WEIGHTS)


SOONER = (("peak_rate", "gamma"), ("peak_rate", -1.0))
LAWS = (
    Law(
        id="multi_power",
        title="loss along a schedule, each fall of the rate with a gain that saturates",
        formula="L = E + A S1^-alpha - B sum_k (r_(k-1) - r_k) (1 - (1 + C r_k^-gamma S_k)^-beta)",
        citation="Luo et al. 2025, arXiv:2503.12811",
        variables=(STEP, NUM_STEPS, COOLDOWN_START, PEAK_RATE, FINAL_RATIO, SHAPE, WARMUP_STEPS),
        parameters=(
            E,
            Parameter("A", "size of the learning term", scale=(("peak_rate", "alpha"),)),
            Parameter("B", "gain for each unit the rate falls", "nats per rate", scale=(("peak_rate", -1.0),)),
            Parameter("alpha", "exponent of the area", start=(0.05, 1.5), bounds=(1e-4, 20.0)),
            Parameter("C", "how soon a fall pays", start=(1e-5, 1.0), scale=SOONER),
            Parameter("beta", "how the gain saturates", start=(0.1, 2.0), bounds=(1e-3, 20.0)),
            signed("gamma", "how much sooner at a small rate", (0.0, 1.0), (-3.0, 5.0)),
        ),
        linear=(("E",), ("A",), ("B",)),
        loss=multi_power_loss,
        floor="",
        validity="one model size and batch; after warm-up; a rate that is level and then falls once",
        sweep="two or three schedules (level, cosine, early cooldown), 30 points or more along each, tested on another",
        pitfalls="points of one curve are correlated: use --cluster with a column that names the curve",
        limits=("a level rate (step before cooldown_start) is a power law in S1",),
    ),
)
