"""Rules for the best learning rate and batch size: the fitted column is the optimum found at each cell."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Reference, Values, power, signed


def log_linear(p: Values, x: Values) -> np.ndarray:
    """Returns K num_params^a num_tokens^b [..., runs]."""
    return p["K"] * power(x["num_params_total"], p["a"]) * power(x["num_tokens"], p["b"])


def batch_size(p: Values, x: Values) -> np.ndarray:
    """Returns K num_tokens^b [..., runs], in tokens."""
    return p["K"] * power(x["num_tokens"], p["b"])


SWEEP = "7 learning rates x 5 batch sizes at each of 12 cells (N, D); a quadratic in log rate gives each optimum"
LAWS = (
    Law(
        id="learning_rate",
        title="best learning rate as a power of parameters and tokens",
        formula="lr = K N^a D^b (map loss to the column of best learning rates)",
        citation="Step Law, arXiv:2503.04715",
        variables=(NUM_PARAMS, NUM_TOKENS),
        parameters=(
            Parameter("K", "scale", scale=(("num_params_total", "-a"), ("num_tokens", "-b"))),
            signed("a", "exponent of parameters", (-1.5, 0.5)),
            signed("b", "exponent of tokens", (-0.5, 1.0)),
        ),
        linear=(("K",),),
        loss=log_linear,
        quantity="best learning rate",
        validity="batch re-tuned at each cell; with a fixed batch the exponent of tokens changes sign",
        references=(
            Reference(
                {"K": 1.79, "a": -0.713, "b": 0.307}, "Step Law; parameters without embeddings, 3,700 models", "V"
            ),
        ),
        sweep=SWEEP,
        pitfalls="drop cells whose optimum lies outside the rates tried",
    ),
    Law(
        id="batch_size",
        title="best batch size as a power of tokens",
        formula="B = K D^b tokens (map loss to the column of best batch sizes)",
        citation="Step Law, arXiv:2503.04715; that batch follows D and not N: Bergsma 2025, arXiv:2505.13738",
        variables=(NUM_TOKENS,),
        parameters=(
            Parameter("K", "scale", "tokens", scale=(("num_tokens", "-b"),)),
            signed("b", "exponent of tokens", (-0.5, 1.5)),
        ),
        linear=(("K",),),
        loss=batch_size,
        quantity="best batch size in tokens",
        validity="learning rate re-tuned at each batch size",
        references=(Reference({"K": 0.58, "b": 0.571}, "Step Law", "V"),),
        sweep=SWEEP,
    ),
)
