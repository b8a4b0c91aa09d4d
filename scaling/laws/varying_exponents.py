"""Laws whose exponent of tokens moves with the size of the model."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Values, power, signed


def farseer_loss(p: Values, x: Values) -> np.ndarray:
    """Returns exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1), [..., runs]."""
    size, log_tokens = x["num_params_total"], np.log(x["num_tokens"])
    floor = np.exp(p["a3"] * power(size, p["gamma"]) + p["b3"])
    log_part = p["a2"] * power(size, p["beta"]) + p["b2"]
    exponent = np.exp(p["a1"] * power(size, p["alpha"]) + p["b1"])
    return floor + np.exp(log_part - exponent * log_tokens)


def farseer_gradient(p: Values, x: Values) -> tuple[np.ndarray, Values]:
    """Returns the loss and its derivative by each constant, each [..., runs]."""
    size, log_size, log_tokens = x["num_params_total"], np.log(x["num_params_total"]), np.log(x["num_tokens"])
    by_gamma, by_beta, by_alpha = (power(size, p[name]) for name in ("gamma", "beta", "alpha"))
    floor = np.exp(p["a3"] * by_gamma + p["b3"])
    exponent = np.exp(p["a1"] * by_alpha + p["b1"])
    part = np.exp(p["a2"] * by_beta + p["b2"] - exponent * log_tokens)
    moved = -part * exponent * log_tokens
    derivative = {"b3": floor, "a3": floor * by_gamma, "gamma": floor * p["a3"] * by_gamma * log_size}
    derivative |= {"b2": part, "a2": part * by_beta, "beta": part * p["a2"] * by_beta * log_size}
    derivative |= {"b1": moved, "a1": moved * by_alpha, "alpha": moved * p["a1"] * by_alpha * log_size}
    return floor + part, derivative


WIDE = (-60.0, 60.0)


def _slope(name: str, what: str, exponent: str) -> Parameter:
    return signed(name, what, (-2.0, 2.0), WIDE, (("num_params_total", f"-{exponent}"),))


LAWS = (
    Law(
        id="farseer",
        title="power law in tokens whose floor, size and exponent each follow the parameters",
        formula="L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)",
        citation="Li et al. 2025, arXiv:2506.10972 (form from memory: compare with the source before quoting)",
        variables=(NUM_PARAMS, NUM_TOKENS),
        parameters=(
            _slope("a3", "how the floor moves with size", "gamma"),
            signed("gamma", "power of size in it", (-0.3, 0.3), (-2.0, 2.0)),
            signed("b3", "logarithm of the floor at no size", (-1.0, 2.0), WIDE),
            _slope("a2", "how the token term moves with size", "beta"),
            signed("beta", "power of size in it", (-0.3, 0.3), (-2.0, 2.0)),
            signed("b2", "logarithm of the token term at no size", (0.0, 12.0), WIDE),
            _slope("a1", "how the exponent of tokens moves with size", "alpha"),
            signed("alpha", "power of size in it", (-0.3, 0.3), (-2.0, 2.0)),
            signed("b1", "logarithm of the exponent at no size", (-3.0, 0.0), WIDE),
        ),
        linear=(),
        loss=farseer_loss,
        gradient=farseer_gradient,
        validity="60 runs or more; nine constants over-fit fewer",
        sweep="8 sizes or more, each with 5 token counts or more over two decades",
        pitfalls="slopes and levels trade off wherever a power of size is small: constants are seldom identified",
        limits=("a1 = a2 = 0 and a3 = 0 is a power law in tokens with an offset",),
    ),
)
