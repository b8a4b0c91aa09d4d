"""The generalised-mean family: one curvature constant q leads from a bottleneck over the sum to the product."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Reference, Values, power
from kleiber.scaling.laws.additive import ALPHA, BETA, EXPONENT, A, B, E

RATIO = (0.02, 50.0)
"""Starts for B / A after the variables are divided by their geometric means: which term is the larger."""


def mean_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + (u^(1/q) + v^(1/q))^q with u = A / num_params^alpha, v = B / num_tokens^beta, [..., runs]."""
    log_u = np.log(p["A"]) - p["alpha"] * np.log(x["num_params_total"])
    log_v = np.log(p["B"]) - p["beta"] * np.log(x["num_tokens"])
    larger = np.maximum(log_u.real, log_v.real)
    larger = np.where(np.isfinite(larger), larger, 0.0)
    total = np.exp((log_u - larger) / p["q"]) + np.exp((log_v - larger) / p["q"])
    return p["E"] + np.exp(larger + p["q"] * np.log(total))


def mean_gradient(p: Values, x: Values) -> tuple[np.ndarray, Values]:
    """Returns the loss [..., runs], and its derivative by E and by the logarithm of each other constant."""
    log_size, log_data = p["alpha"] * -np.log(x["num_params_total"]), p["beta"] * -np.log(x["num_tokens"])
    log_u, log_v = np.log(p["A"]) + log_size, np.log(p["B"]) + log_data
    log_total = np.logaddexp(log_u / p["q"], log_v / p["q"])
    reducible = np.exp(p["q"] * log_total)
    by_u, by_v = reducible * np.exp(log_u / p["q"] - log_total), reducible * np.exp(log_v / p["q"] - log_total)
    derivative = {
        "E": np.ones(1),
        "A": by_u,
        "B": by_v,
        "alpha": by_u * log_size,
        "beta": by_v * log_data,
        "q": reducible * p["q"] * log_total - by_u * log_u - by_v * log_v,
    }
    return p["E"] + reducible, derivative


def product_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + K / (num_params^alpha num_tokens^beta) [..., runs]."""
    return p["E"] + p["K"] * power(x["num_params_total"], -p["alpha"]) * power(x["num_tokens"], -p["beta"])


def kaplan_loss(p: Values, x: Values) -> np.ndarray:
    """Returns ((N_c / num_params)^(alpha_N / alpha_D) + D_c / num_tokens)^alpha_D [..., runs]."""
    ratio = p["alpha_N"] / p["alpha_D"]
    total = np.exp(ratio * (np.log(p["N_c"]) - np.log(x["num_params_total"]))) + p["D_c"] / x["num_tokens"]
    return np.exp(p["alpha_D"] * np.log(total))


LAWS = (
    Law(
        id="generalised_mean",
        title="generalised mean of a parameter term and a token term",
        formula="L = E + (u^(1/q) + v^(1/q))^q, u = A / N^alpha, v = B / D^beta",
        citation="a CES production function; the frame that holds the additive, the bottleneck and the product law",
        variables=(NUM_PARAMS, NUM_TOKENS),
        parameters=(
            *(E, A, Parameter("B", B.meaning, start=RATIO, scale=B.scale), ALPHA, BETA),
            Parameter(
                "q", "curvature: 1 is a sum, 0 a bottleneck, infinity a product", start=(0.25, 4.0), bounds=(0.02, 50.0)
            ),
        ),
        linear=(("E",), ("A", "B")),
        loss=mean_loss,
        gradient=mean_gradient,
        validity="as the additive law",
        sweep="40 runs off the compute-optimal line, tokens per parameter over two decades or more",
        pitfalls="q needs off-frontier runs: its error triples when isoFLOP slices span only 3 times either way",
        frontier=("alpha", "beta"),
        limits=("q = 1 is chinchilla", "E = 0 and q = alpha_D is kaplan"),
    ),
    Law(
        id="product",
        title="product law: every factor has one constant exponent",
        formula="L = E + K / (N^alpha D^beta)",
        citation="the multi-factor product hypothesis, the limit of the generalised mean for large q",
        variables=(NUM_PARAMS, NUM_TOKENS),
        parameters=(
            E,
            Parameter("K", "size of the reducible loss", scale=(("num_params_total", "alpha"), ("num_tokens", "beta"))),
            *(ALPHA, BETA),
        ),
        linear=(("E",), ("K",)),
        loss=product_loss,
        validity="near the compute-optimal line only, where any law looks like a product",
        sweep="runs far off the compute-optimal line, which tell it from the additive law",
        pitfalls="28% too low at 1000 times the compute when the truth is additive",
    ),
    Law(
        id="kaplan",
        title="joint law of parameters and tokens without an irreducible loss",
        formula="L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D",
        citation="Kaplan et al. 2020, arXiv:2001.08361, equation 1.5",
        variables=(NUM_PARAMS, NUM_TOKENS),
        parameters=(
            Parameter("alpha_N", "exponent of parameters", start=EXPONENT, bounds=(1e-4, 20.0)),
            Parameter("alpha_D", "exponent of tokens", start=EXPONENT, bounds=(1e-4, 20.0)),
            Parameter("N_c", "parameter scale", "parameters", start=(1e-6, 1e12), scale=(("num_params_total", 1.0),)),
            Parameter("D_c", "token scale", "tokens", start=(1e-6, 1e12), scale=(("num_tokens", 1.0),)),
        ),
        linear=(),
        loss=kaplan_loss,
        validity="parameters without embeddings; no irreducible loss, so it must fail at large scale",
        references=(
            Reference(
                {"alpha_N": 0.076, "alpha_D": 0.103, "N_c": 6.4e13, "D_c": 1.8e13},
                "Kaplan et al. 2020, table of the joint fit; parameters without embeddings",
                "V",
            ),
        ),
        sweep="as the additive law",
        pitfalls="fixed long cosine, head FLOPs left out, tiny models with a large vocabulary",
        frontier=("alpha_N", "alpha_D"),
        limits=("generalised_mean with E = 0 and q = alpha_D",),
    ),
)
