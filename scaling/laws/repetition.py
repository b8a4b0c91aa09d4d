"""Laws of repeated data: how much a second look at the same tokens is worth."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, NUM_UNIQUE, Law, Parameter, Reference, Values, power
from kleiber.scaling.laws.additive import ALPHA, BETA, A, B, E, additive_terms


def effective_tokens(tokens: np.ndarray, unique: np.ndarray, half_life: np.ndarray) -> np.ndarray:
    """Returns U + U R* (1 - exp(-R / R*)) with R = tokens / U - 1 repeats, [..., runs]."""
    repeats = np.maximum(tokens / unique - 1, 0.0)
    return unique * (1 + half_life * (1 - np.exp(-repeats / half_life)))


def optimal_params_for(p: Values, unique: np.ndarray) -> np.ndarray:
    """Returns the compute-optimal parameters for that many tokens: alpha A N^-alpha = beta B D^-beta."""
    log_ratio = np.log(p["alpha"] * p["A"]) - np.log(p["beta"] * p["B"])
    return np.exp((log_ratio + p["beta"] * np.log(unique)) / p["alpha"])


def effective_params(p: Values, params: np.ndarray, unique: np.ndarray) -> np.ndarray:
    """Returns U_N + U_N R_N* (1 - exp(-R_N / R_N*)), where parameters beyond the best for U count less and less."""
    best = optimal_params_for(p, unique)
    useful = np.where(params < best.real, params, best)
    excess = params / useful - 1
    return useful * (1 + p["R_N"] * (1 - np.exp(-excess / p["R_N"])))


def data_constrained_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / N'^alpha + B / D'^beta with effective parameters and tokens, [..., runs]."""
    tokens = effective_tokens(x["num_tokens"], x["num_unique_tokens"], p["R_D"])
    params = effective_params(p, x["num_params_total"], x["num_unique_tokens"])
    return p["E"] + p["A"] * np.exp(-p["alpha"] * np.log(params)) + p["B"] * np.exp(-p["beta"] * np.log(tokens))


def repetition_penalty_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / N^alpha + B / D^beta + P R^rho (N / U)^nu with R = D / U - 1 repeats, [..., runs]."""
    repeats = np.maximum(x["num_tokens"] / x["num_unique_tokens"] - 1, 1e-300)
    crowding = x["num_params_total"] / x["num_unique_tokens"]
    return p["E"] + additive_terms(p, x) + p["P"] * power(repeats, p["rho"]) * power(crowding, p["nu"])


def _half_life(name: str, what: str) -> Parameter:
    return Parameter(name, what, start=(0.5, 100.0), bounds=(1e-3, 1e6))


MUENNIGHOFF = {name: float(np.exp(value)) for name, value in (("E", 0.6254804), ("A", 6.255414), ("B", 7.3049974))}
MUENNIGHOFF |= {"alpha": 0.3526596, "beta": 0.3526596, "R_D": 15.387756, "R_N": 5.309743}
LAWS = (
    Law(
        id="data_constrained",
        title="additive law in effective parameters and effective tokens",
        formula="L = E + A / N'^alpha + B / D'^beta, D' = U (1 + R_D (1 - exp(-(D/U - 1) / R_D))), N' alike",
        citation="Muennighoff et al. 2023, arXiv:2305.16264, equations 5 and 6",
        variables=(NUM_PARAMS, NUM_TOKENS, NUM_UNIQUE),
        parameters=(
            *(E, A),
            Parameter("B", B.meaning, start=(0.05, 20.0), scale=B.scale),
            *(ALPHA, BETA),
            _half_life("R_D", "repeats after which more repeats are worth little"),
            _half_life("R_N", "the same for parameters beyond the best for U"),
        ),
        linear=(("E",), ("A", "B")),
        loss=data_constrained_loss,
        validity="up to about 16 epochs with little weight decay; cannot describe harm from too many epochs",
        references=(Reference(MUENNIGHOFF, "Muennighoff et al. 2023, the authors' fit of 182 runs", "V"),),
        sweep="unique tokens x epochs {1, 2, 4, 8, 16, 32, 64} x at least 4 sizes, weight decay tuned",
        pitfalls="without tuned weight decay it measures missing regularisation; R_D and R_N trade off",
        limits=("one epoch and N below the best for U is chinchilla",),
    ),
    Law(
        id="repetition_penalty",
        title="additive law plus a penalty that grows with repeats",
        formula="L = E + A / N^alpha + B / D^beta + P R^rho (N / U)^nu, R = D / U - 1",
        citation="Lovelace 2026, arXiv:2605.01640 (the form with four more constants is its relative)",
        variables=(NUM_PARAMS, NUM_TOKENS, NUM_UNIQUE),
        parameters=(
            *(E, A, B, ALPHA, BETA),
            Parameter(
                "P", "size of the penalty", "nats per token", scale=(("num_params_total", "-nu"), ("num_tokens", "nu"))
            ),
            Parameter("rho", "how fast harm grows with repeats", start=(0.3, 3.0), bounds=(0.05, 10.0)),
            Parameter(
                "nu", "how fast harm grows with parameters per unique token", start=(0.1, 2.0), bounds=(1e-3, 10.0)
            ),
        ),
        linear=(("E",), ("A",), ("B",), ("P",)),
        loss=repetition_penalty_loss,
        validity="also where too many epochs hurt, which effective tokens cannot describe",
        sweep="as data_constrained, up to 64 epochs so that a turning point is seen",
        pitfalls="weight decay cuts the penalty by about 70%: tune it",
        limits=("one epoch (R = 0) is chinchilla",),
    ),
)
