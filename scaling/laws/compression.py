"""Precision, sparsity and low rank: laws that turn stored parameters into effective ones."""

from collections.abc import Callable

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Reference, Values, Variable, power
from kleiber.scaling.laws.additive import ALPHA, BETA, A, B, E, additive_terms

WEIGHT_BITS = Variable("weight_bits", "bits of a weight in training", "bits", neutral=np.inf)
ACTIVATION_BITS = Variable("activation_bits", "bits of an activation in training", "bits", neutral=np.inf)
KV_BITS = Variable("kv_bits", "bits of a key or value in training", "bits", neutral=np.inf)
POST_BITS = Variable("post_training_bits", "bits of a weight after rounding the finished model", "bits", neutral=np.inf)
SPARSITY = Variable("sparsity", "share of weights that are zero", "1", may_be_zero=True, neutral=0.0)
RANK_SHARE = Variable("rank_share", "rank over width of low-rank weights, 1 for full rank", "1", neutral=1.0)
KUMAR = "Kumar et al. 2024, arXiv:2411.04330, table of the joint fit"
KUMAR_BASE = {"E": 2.7648, "A": 4.299e3, "B": 1.806e4, "alpha": 0.4965, "beta": 0.4965}


FRANTAR = {"E": 4.517, "a_S": 294.0, "c_S": 468.0, "B": 2.37e8**0.890, "alpha": 0.392, "beta": 0.890, "b_S": 0.821}


def kept_share(bits: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Returns 1 - exp(-bits / gamma), the share of the parameters that count at this precision."""
    return 1 - np.exp(-bits / gamma)


def precision_loss(tensors: tuple[tuple[str, str], ...]) -> Callable[[Values, Values], np.ndarray]:
    """Returns the loss function for columns of bits and their constants."""

    def loss(p: Values, x: Values) -> np.ndarray:
        """Returns E + A / N_eff^alpha + B / D^beta, N_eff = N times the kept share of each tensor, [..., runs]."""
        log_params = np.log(x["num_params_total"])
        for column, gamma in tensors:
            log_params = log_params + np.log(kept_share(x[column], p[gamma]))
        return p["E"] + p["A"] * np.exp(-p["alpha"] * log_params) + p["B"] * power(x["num_tokens"], -p["beta"])

    return loss


def post_training_loss(p: Values, x: Values) -> np.ndarray:
    """Returns the additive loss plus C D^gamma_D / N^gamma_N exp(-bits / gamma) [..., runs]."""
    damage = p["C"] * power(x["num_tokens"], p["gamma_D"]) * power(x["num_params_total"], -p["gamma_N"])
    return p["E"] + additive_terms(p, x) + damage * np.exp(-x["post_training_bits"] / p["gamma"])


def sparsity_loss(p: Values, x: Values) -> np.ndarray:
    """Returns (a_S (1 - S)^b_S + c_S) / N^alpha + B / D^beta + E, N the non-zero parameters, [..., runs]."""
    density = np.maximum(1 - x["sparsity"], 1e-12)
    size = p["a_S"] * power(density, p["b_S"]) + p["c_S"]
    return p["E"] + size * power(x["num_params_total"], -p["alpha"]) + p["B"] * power(x["num_tokens"], -p["beta"])


def low_rank_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / (num_params rank_share^rho)^alpha + B / num_tokens^beta [..., runs]."""
    log_params = np.log(x["num_params_total"]) + p["rho"] * np.log(x["rank_share"])
    return p["E"] + p["A"] * np.exp(-p["alpha"] * log_params) + p["B"] * power(x["num_tokens"], -p["beta"])


def low_rank_floor_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / num_params^alpha + B / num_tokens^beta + kappa / rank_share^nu [..., runs]."""
    return p["E"] + additive_terms(p, x) + p["kappa"] * power(x["rank_share"], -p["nu"])


def _gamma(name: str, what: str) -> Parameter:
    return Parameter(name, f"bits at which 63% of {what} count", "bits", start=(0.3, 8.0), bounds=(0.02, 100.0))


LAWS = (
    Law(
        id="precision",
        title="additive law with parameters that count less at few bits",
        formula="L = E + A / (N (1 - exp(-P / gamma_w)))^alpha + B / D^beta",
        citation="Kumar et al. 2024, arXiv:2411.04330, weights only",
        variables=(NUM_PARAMS, NUM_TOKENS, WEIGHT_BITS),
        parameters=(E, A, B, ALPHA, BETA, _gamma("gamma_w", "the parameters")),
        linear=(("E",), ("A",), ("B",)),
        loss=precision_loss((("weight_bits", "gamma_w"),)),
        validity="trained at that precision",
        references=(Reference({**KUMAR_BASE, "gamma_w": 2.6745}, KUMAR, "V"),),
        sweep="bits {3, 4, 6, 8, 16} x 4 sizes x 4 token counts, the same learning rate",
        pitfalls="not a power law in bits",
        limits=("many bits is chinchilla",),
    ),
    Law(
        id="precision_all",
        title="the same with weights, activations and keys and values each at its precision",
        formula="L = E + A / (N prod_t (1 - exp(-P_t / gamma_t)))^alpha + B / D^beta",
        citation="Kumar et al. 2024, arXiv:2411.04330",
        variables=(NUM_PARAMS, NUM_TOKENS, WEIGHT_BITS, ACTIVATION_BITS, KV_BITS),
        parameters=(
            *(E, A, B, ALPHA, BETA),
            _gamma("gamma_w", "the parameters"),
            _gamma("gamma_a", "the activations"),
            _gamma("gamma_kv", "keys and values"),
        ),
        linear=(("E",), ("A",), ("B",)),
        loss=precision_loss((("weight_bits", "gamma_w"), ("activation_bits", "gamma_a"), ("kv_bits", "gamma_kv"))),
        validity="trained at these precisions",
        references=(Reference({**KUMAR_BASE, "gamma_w": 2.6745, "gamma_a": 2.2102, "gamma_kv": 0.9578}, KUMAR, "V"),),
        sweep="each tensor's bits varied apart",
        limits=("many bits is chinchilla",),
    ),
    Law(
        id="precision_post_training",
        title="additive law plus the damage of rounding a finished model",
        formula="L = E + A / N^alpha + B / D^beta + C D^gamma_D / N^gamma_N exp(-P / gamma)",
        citation="Kumar et al. 2024, arXiv:2411.04330",
        variables=(NUM_PARAMS, NUM_TOKENS, POST_BITS),
        parameters=(
            *(E, A, B, ALPHA, BETA),
            Parameter("C", "size of the damage", scale=(("num_params_total", "gamma_N"), ("num_tokens", "-gamma_D"))),
            Parameter("gamma_D", "how damage grows with tokens", start=(0.05, 2.0), bounds=(1e-3, 10.0)),
            Parameter("gamma_N", "how damage shrinks with parameters", start=(0.05, 2.0), bounds=(1e-3, 10.0)),
            _gamma("gamma", "the damage is avoided"),
        ),
        linear=(("E",), ("A",), ("B",), ("C",)),
        loss=post_training_loss,
        validity="rounding after training, no calibration",
        references=(
            Reference({**KUMAR_BASE, "C": 0.0598, "gamma_D": 0.5068, "gamma_N": 0.3439, "gamma": 0.5907}, KUMAR, "V"),
        ),
        sweep="free: round every saved model to {2, 3, 4, 6, 8} bits",
        limits=("many bits is chinchilla",),
    ),
    Law(
        id="sparsity",
        title="additive law in non-zero parameters whose size falls with density",
        formula="L = E + (a_S (1 - S)^b_S + c_S) / N^alpha + B / D^beta",
        citation="Frantar et al. 2023, arXiv:2309.08520",
        variables=(NUM_PARAMS, NUM_TOKENS, SPARSITY),
        parameters=(
            E,
            Parameter("a_S", "part of the parameter term that sparsity removes", scale=A.scale),
            Parameter("c_S", "part that stays", scale=A.scale),
            *(B, ALPHA, BETA),
            Parameter("b_S", "exponent of density", start=(0.1, 3.0), bounds=(0.01, 20.0)),
        ),
        linear=(("E",), ("a_S",), ("c_S",), ("B",)),
        loss=sparsity_loss,
        validity="N counts non-zero parameters; trained long enough for the sparsity",
        references=(
            Reference(FRANTAR, "Frantar et al. 2023, vision transformers, authors' notebook, units converted", "V"),
        ),
        sweep="sparsity {0, 0.5, 0.75, 0.875, 0.9375} x 4 sizes x 4 token counts",
        limits=("S = 0 is chinchilla with A = a_S + c_S",),
    ),
    Law(
        id="low_rank",
        title="additive law with parameters that count less at low rank",
        formula="L = E + A / (N (r / d)^rho)^alpha + B / D^beta",
        citation="a hypothesis: effective parameters of weights of rank r in width d; no law is accepted yet",
        variables=(NUM_PARAMS, NUM_TOKENS, RANK_SHARE),
        parameters=(
            *(E, A, B, ALPHA, BETA),
            Parameter("rho", "how effective parameters fall with rank", start=(0.05, 2.0), bounds=(1e-3, 20.0)),
        ),
        linear=(("E",), ("A",), ("B",)),
        loss=low_rank_loss,
        validity="N counts the parameters of the dense model; learning rate tuned at each rank",
        sweep="rank over width {1/32, 1/16, 1/8, 1/4, 1/2, 1} x 4 sizes x 4 token counts; fit low_rank_floor beside it",
        pitfalls="a floor set by the rank looks the same over a short range: see low_rank_floor",
        limits=("full rank is chinchilla",),
    ),
    Law(
        id="low_rank_floor",
        title="additive law plus a floor set by the rank",
        formula="L = E + A / N^alpha + B / D^beta + kappa / (r / d)^nu",
        citation="a hypothesis, the rival of low_rank",
        variables=(NUM_PARAMS, NUM_TOKENS, RANK_SHARE),
        parameters=(
            *(E, A, B, ALPHA, BETA),
            Parameter("kappa", "loss that full rank leaves", "nats per token"),
            Parameter("nu", "how fast the floor rises at low rank", start=(0.05, 3.0), bounds=(1e-3, 20.0)),
        ),
        linear=(("E",), ("A",), ("B",), ("kappa",)),
        loss=low_rank_floor_loss,
        validity="as low_rank",
        sweep="as low_rank",
        pitfalls="kappa and E trade off: at full rank only their sum is seen",
        limits=("kappa = 0 is chinchilla",),
    ),
)
