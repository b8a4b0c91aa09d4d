"""The additive law of parameters and tokens, and its fewer-variable relative."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Reference, Values, power

EXPONENT = (0.02, 2.5)
"""Exponents of any published law of pre-training lie well inside."""

E = Parameter("E", "loss that no model and no data would remove", "nats per token", "identity")
A = Parameter("A", "size of the parameter term", scale=(("num_params_total", "alpha"),))
B = Parameter("B", "size of the token term", scale=(("num_tokens", "beta"),))
ALPHA = Parameter("alpha", "exponent of parameters", start=EXPONENT, bounds=(1e-4, 20.0))
BETA = Parameter("beta", "exponent of tokens", start=EXPONENT, bounds=(1e-4, 20.0))


def additive_terms(p: Values, x: Values) -> np.ndarray:
    """Returns A / num_params^alpha + B / num_tokens^beta [..., runs], what a larger model and more data take away."""
    return p["A"] * power(x["num_params_total"], -p["alpha"]) + p["B"] * power(x["num_tokens"], -p["beta"])


def additive_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / num_params^alpha + B / num_tokens^beta [..., runs], in nats per token."""
    return p["E"] + p["A"] * power(x["num_params_total"], -p["alpha"]) + p["B"] * power(x["num_tokens"], -p["beta"])


def additive_gradient(p: Values, x: Values) -> tuple[np.ndarray, Values]:
    """Returns the loss [..., runs], and its derivative by E and by the logarithm of each other constant."""
    log_size, log_data = p["alpha"] * -np.log(x["num_params_total"]), p["beta"] * -np.log(x["num_tokens"])
    u, v = p["A"] * np.exp(log_size), p["B"] * np.exp(log_data)
    derivative = {"E": np.ones(1), "A": u, "B": v, "alpha": u * log_size, "beta": v * log_data}
    return p["E"] + u + v, derivative


def power_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / num_params^alpha [..., runs], in nats per token."""
    return p["E"] + p["A"] * power(x["num_params_total"], -p["alpha"])


HOFFMANN = {"E": 1.6934, "A": 406.4, "B": 410.7, "alpha": 0.3392, "beta": 0.2849}
BESIROGLU = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
REFIT = "Besiroglu et al. 2024, arXiv:2404.10102 (refit of 240 points)"
LAWS = (
    Law(
        id="chinchilla",
        title="additive law of parameters and tokens",
        formula="L = E + A / N^alpha + B / D^beta",
        citation="Hoffmann et al. 2022, arXiv:2203.15556, section 3.3",
        variables=(NUM_PARAMS, NUM_TOKENS),
        parameters=(E, A, B, ALPHA, BETA),
        linear=(("E",), ("A",), ("B",)),
        loss=additive_loss,
        gradient=additive_gradient,
        validity="one recipe, one tokeniser, one pass over the data, learning rate tuned at each size",
        references=(Reference(HOFFMANN, "Hoffmann et al. 2022", "V"), Reference(BESIROGLU, REFIT, "V")),
        sweep="at least 24 runs: 5 sizes x 5 token counts over two decades each, off the compute-optimal line too",
        pitfalls="rounded exponents move the optimum by 1.6 times; fixed tokens per parameter identify no exponent",
        frontier=("alpha", "beta"),
    ),
    Law(
        id="power_law",
        title="power law in parameters with an offset",
        formula="L = E + A / N^alpha",
        citation="Kaplan et al. 2020, arXiv:2001.08361, equation 1.1, with an irreducible loss",
        variables=(NUM_PARAMS,),
        parameters=(E, A, ALPHA),
        linear=(("E",), ("A",)),
        loss=power_loss,
        validity="tokens not limiting; map num_params_total to any other single variable to fit that instead",
        sweep="at least 8 values over three decades",
        pitfalls="an offset and an exponent trade off over a short range",
    ),
)
