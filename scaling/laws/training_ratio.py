"""Over-training, vocabulary, replicas: laws where a ratio or a second count of parameters matters."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Values, Variable, power, signed
from kleiber.scaling.laws.additive import ALPHA, BETA, EXPONENT, A, B, E
from kleiber.scaling.laws.broken import FLOPS

TOKENS_PER_PARAM = Variable("tokens_per_param", "tokens over parameters", "1")
NON_EMBEDDING = Variable("num_params_non_embedding", "trainable parameters without embeddings and head", "parameters")
EMBEDDING = Variable("num_params_embedding", "vocabulary times width", "parameters")
REPLICAS = Variable("num_replicas", "workers that synchronise rarely", "1", neutral=1.0)


def overtraining_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + (a M^eta + b M^-eta) C^-eta, M tokens per parameter, [..., runs]."""
    ratio = power(x["tokens_per_param"], p["eta"])
    return p["E"] + (p["a"] * ratio + p["b"] / ratio) * power(x["flops"], -p["eta"])


def vocabulary_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / N_nv^alpha + A_v / N_v^alpha_v + B / D^beta [..., runs]."""
    body = p["A"] * power(x["num_params_non_embedding"], -p["alpha"])
    words = p["A_v"] * power(x["num_params_embedding"], -p["alpha_v"])
    return p["E"] + body + words + p["B"] * power(x["num_tokens"], -p["beta"])


def replica_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A M^mu / N^alpha with M replicas, [..., runs]."""
    return p["E"] + p["A"] * power(x["num_params_total"], -p["alpha"]) * power(x["num_replicas"], p["mu"])


LAWS = (
    Law(
        id="overtraining",
        title="loss by compute and tokens per parameter",
        formula="L = E + (a M^eta + b M^-eta) C^-eta, M = D / N",
        citation="Gadre et al. 2024, arXiv:2403.08540",
        variables=(FLOPS, TOKENS_PER_PARAM),
        parameters=(
            E,
            Parameter("a", "size of the parameter term", scale=(("flops", "eta"),)),
            Parameter("b", "size of the token term", scale=(("flops", "eta"),)),
            Parameter("eta", "exponent of compute", start=(0.02, 1.2), bounds=(1e-4, 10.0)),
        ),
        linear=(("E",), ("a",), ("b",)),
        loss=overtraining_loss,
        validity="parameters and tokens have equal exponents",
        sweep="4 budgets x tokens per parameter from 5 to 640",
        limits=("with C = 6 N D it is chinchilla with alpha = beta = 2 eta, A = a 6^-eta, B = b 6^-eta",),
    ),
    Law(
        id="vocabulary",
        title="additive law with the vocabulary's parameters apart",
        formula="L = E + A / N_nv^alpha + A_v / N_v^alpha_v + B / D^beta",
        citation="Tao et al. 2024, arXiv:2407.13623",
        variables=(NON_EMBEDDING, EMBEDDING, NUM_TOKENS),
        parameters=(
            E,
            Parameter("A", A.meaning, scale=(("num_params_non_embedding", "alpha"),)),
            Parameter("A_v", "size of the vocabulary term", scale=(("num_params_embedding", "alpha_v"),)),
            B,
            ALPHA,
            Parameter("alpha_v", "exponent of vocabulary parameters", start=EXPONENT, bounds=(1e-4, 20.0)),
            BETA,
        ),
        linear=(("E",), ("A",), ("A_v",), ("B",)),
        loss=vocabulary_loss,
        validity="bits per byte or unigram-normalised loss only: losses per token of two vocabularies do not compare",
        sweep="5 vocabularies x 4 bodies x 3 token counts",
    ),
    Law(
        id="delayed_sync",
        title="power law in parameters with rarely synchronising replicas",
        formula="L = E + A M^mu / N^alpha",
        citation="Charles et al. 2025, arXiv:2503.09799, with an irreducible loss",
        variables=(NUM_PARAMS, REPLICAS),
        parameters=(E, A, ALPHA, signed("mu", "what replicas cost", (-0.1, 0.2), (-2.0, 2.0))),
        linear=(("E",), ("A",)),
        loss=replica_loss,
        validity="equal tokens per parameter; outer rate and momentum re-tuned for each number of replicas",
        sweep="4 sizes x replicas {1, 2, 4, 8}",
        limits=("one replica is power_law",),
    ),
)
