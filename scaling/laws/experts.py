"""Mixtures of experts: laws of active parameters and of how many experts share the work."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Values, Variable, power, signed
from kleiber.scaling.laws.additive import ALPHA, BETA, A, B, E

EXPERTS = Variable("num_experts_effective", "effective number of experts, 1 for a dense model", "1", neutral=1.0)
GRANULARITY = Variable("granularity", "how many times smaller an expert is than a dense layer", "1", neutral=1.0)


def effective_experts(experts: np.ndarray, start: float, largest: float) -> np.ndarray:
    """Returns the effective number of experts: 1/e = 1/(experts - 1 + 1/(1/start - 1/largest)) + 1/largest.

    Source: Clark et al. 2022, arXiv:2202.01169.
    """
    return 1 / (1 / (np.asarray(experts) - 1 + 1 / (1 / start - 1 / largest)) + 1 / largest)


def experts_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A e^delta / N^(alpha + gamma ln e) + B e^omega / D^(beta + zeta ln e) [..., runs]."""
    log_e = np.log(x["num_experts_effective"])
    log_u = p["delta"] * log_e - (p["alpha"] + p["gamma"] * log_e) * np.log(x["num_params_total"])
    log_v = p["omega"] * log_e - (p["beta"] + p["zeta"] * log_e) * np.log(x["num_tokens"])
    return p["E"] + p["A"] * np.exp(log_u) + p["B"] * np.exp(log_v)


def routed_loss(p: Values, x: Values) -> np.ndarray:
    """Returns K N^(-alpha + gamma ln e) / e^beta with e effective experts, [..., runs]."""
    log_params, log_e = np.log(x["num_params_total"]), np.log(x["num_experts_effective"])
    return p["K"] * np.exp(-p["alpha"] * log_params - p["beta"] * log_e + p["gamma"] * log_params * log_e)


def routed_floor_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A e^mu / N^alpha with e effective experts, [..., runs]."""
    return p["E"] + p["A"] * power(x["num_params_total"], -p["alpha"]) * power(x["num_experts_effective"], p["mu"])


def granularity_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + (g / G^gamma + A) / N^alpha + B / D^beta [..., runs]."""
    size = p["g"] * power(x["granularity"], -p["gamma"]) + p["A"]
    return p["E"] + size * power(x["num_params_total"], -p["alpha"]) + p["B"] * power(x["num_tokens"], -p["beta"])


MOVE = (-0.3, 0.3)
"""Starts of what experts change."""
LAWS = (
    Law(
        id="experts",
        title="additive law whose sizes and exponents move with the number of experts",
        formula="L = E + A e^delta / N^(alpha + gamma ln e) + B e^omega / D^(beta + zeta ln e)",
        citation="Ludziejewski et al. 2025, arXiv:2502.05172",
        variables=(NUM_PARAMS, NUM_TOKENS, EXPERTS),
        parameters=(
            *(E, Parameter("A", A.meaning), Parameter("B", B.meaning), ALPHA, BETA),
            signed("gamma", "how experts change alpha", MOVE),
            signed("delta", "how experts change A", MOVE),
            signed("zeta", "how experts change beta", MOVE),
            signed("omega", "how experts change B", MOVE),
        ),
        linear=(("E",), ("A",), ("B",)),
        loss=experts_loss,
        validity="N counts parameters active for a token; one router, one capacity",
        sweep="experts {1, 2, 4, 8, 16, 32} x 4 active sizes x 4 token counts",
        pitfalls="that routing helps less at size depended on a fixed number of tokens",
        limits=("one expert is chinchilla",),
    ),
    Law(
        id="routed",
        title="power law in parameters whose exponent moves with the number of experts",
        formula="ln L = ln K - alpha ln N - beta ln e + gamma ln N ln e",
        citation="Clark et al. 2022, arXiv:2202.01169; e by effective_experts",
        variables=(NUM_PARAMS, EXPERTS),
        parameters=(
            Parameter("K", "scale", "nats per token"),
            Parameter("alpha", "exponent of parameters", start=(0.01, 0.5), bounds=(1e-4, 5.0)),
            signed("beta", "exponent of experts at N = 1", MOVE),
            signed("gamma", "how much less experts help at size", (-0.02, 0.02), (-1.0, 1.0)),
        ),
        linear=(("K",),),
        loss=routed_loss,
        validity="one number of tokens; N counts parameters active for a token; no irreducible loss",
        sweep="experts {1, 2, 4, 8, ..., 512} x 6 sizes",
        pitfalls="that experts help less at size depended on a fixed number of tokens",
        limits=("one expert is a power law without an offset",),
    ),
    Law(
        id="routed_floor",
        title="power law in parameters and experts above an irreducible loss",
        formula="L = E + A e^mu / N^alpha",
        citation="after Clark et al. 2022, arXiv:2202.01169, with an irreducible loss; e by effective_experts",
        variables=(NUM_PARAMS, EXPERTS),
        parameters=(E, A, ALPHA, signed("mu", "what experts do", (-0.3, 0.1), (-2.0, 2.0))),
        linear=(("E",), ("A",)),
        loss=routed_floor_loss,
        validity="one number of tokens; N counts parameters active for a token",
        sweep="experts {1, 2, 4, 8, ..., 512} x 6 sizes",
        limits=("one expert is power_law",),
    ),
    Law(
        id="granularity",
        title="additive law whose parameter term falls with finer experts",
        formula="L = E + (g / G^gamma + A) / N^alpha + B / D^beta",
        citation="Krajewski et al. 2024, arXiv:2402.07871",
        variables=(NUM_PARAMS, NUM_TOKENS, GRANULARITY),
        parameters=(
            *(E, A, B, ALPHA, BETA),
            Parameter("g", "part of the parameter term that finer experts remove", scale=A.scale),
            Parameter("gamma", "exponent of granularity", start=(0.1, 3.0), bounds=(0.01, 20.0)),
        ),
        linear=(("E",), ("A",), ("B",), ("g",)),
        loss=granularity_loss,
        validity="one expansion rate; N counts all parameters as the source does",
        sweep="granularity {1, 2, 4, 8, 16} x 4 sizes x 4 token counts",
        limits=("g = 0 is chinchilla",),
    ),
)
