"""The loss around the best setting: a bowl over its logarithm, whose lowest point may move with size and tokens."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Values, Variable, signed
from kleiber.scaling.laws.additive import ALPHA, BETA, A, B, E, additive_loss

RATE = Variable("learning_rate", "peak learning rate (map any other positive setting to it)", "1")
BATCH = Variable("batch_size", "sequences or tokens of a batch", "as given")


def away(p: Values, x: Values) -> np.ndarray:
    """Returns ln(learning_rate / (K N^a D^b)), how far a rate is from the best, [..., runs]."""
    moves = p["a"] * np.log(x["num_params_total"]) + p["b"] * np.log(x["num_tokens"])
    return np.log(x["learning_rate"]) - np.log(p["K"]) - moves


def basin_loss(p: Values, x: Values) -> np.ndarray:
    """Returns L_best + h ln(learning_rate / best)^2 [..., runs]."""
    return p["L_best"] + p["h"] * (np.log(x["learning_rate"]) - np.log(p["best"])) ** 2


def basin_scaled_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / N^alpha + B / D^beta + h ln(learning_rate / (K N^a D^b))^2 [..., runs]."""
    return additive_loss(p, x) + p["h"] * away(p, x) ** 2


def basin_batch_loss(p: Values, x: Values) -> np.ndarray:
    """Returns the same with a best rate that follows the batch, and j ln(batch_size / (M D^m))^2 more, [..., runs]."""
    rate = away(p, x) - p["g"] * np.log(x["batch_size"])
    batch = np.log(x["batch_size"]) - np.log(p["M"]) - p["m"] * np.log(x["num_tokens"])
    return additive_loss(p, x) + p["h"] * rate**2 + p["j"] * batch**2


H = Parameter("h", "what a rate off by a factor e costs", "nats per token")
MOVES = (
    signed("a", "exponent of parameters in the best rate", (-1.0, 0.5)),
    signed("b", "exponent of tokens in the best rate", (-0.5, 0.5)),
)
K_SCALE = (("learning_rate", 1.0), ("num_params_total", "-a"), ("num_tokens", "-b"))
VALIDITY = "rates within about four times the best: beyond, the bowl is steeper to the right, and runs diverge"
LAWS = (
    Law(
        id="basin",
        title="loss around the best learning rate, or another setting, of one size and token count",
        formula="L = L_best + h ln(r / best)^2",
        citation="second order in ln r around the optimum",
        variables=(RATE,),
        parameters=(
            Parameter("L_best", "loss at the best rate", "nats per token", "identity"),
            H,
            Parameter("best", "the best rate", "as given", start=(0.05, 20.0), scale=(("learning_rate", 1.0),)),
        ),
        linear=(("L_best",), ("h",)),
        loss=basin_loss,
        floor="",
        validity=VALIDITY,
        sweep="5 rates or more, a factor of 2 apart, with the best well inside, and 2 seeds of the middle ones",
        pitfalls="a diverged run pulls the bowl: --drop it",
        limits=("h = 0 is a constant",),
    ),
    Law(
        id="basin_scaled",
        title="additive law with the regret of a learning rate whose best moves with parameters and tokens",
        formula="L = E + A / N^alpha + B / D^beta + h ln(r / (K N^a D^b))^2",
        citation="after the Step Law, arXiv:2503.04715: its rule for the best rate, second order in ln r around it",
        variables=(NUM_PARAMS, NUM_TOKENS, RATE),
        parameters=(
            *(E, A, B, ALPHA, BETA, H),
            Parameter("K", "scale of the best rate", "as given", start=(0.1, 10.0), scale=K_SCALE),
            *MOVES,
        ),
        linear=(("E",), ("A",), ("B",), ("h",)),
        loss=basin_scaled_loss,
        validity=f"one batch, or one that follows from tokens; {VALIDITY}",
        sweep="5 rates at each of 4 sizes x 4 token counts",
        limits=("h = 0 is chinchilla",),
    ),
    Law(
        id="basin_batch",
        title="additive law with the regret of learning rate and batch, the best rate moving with the batch too",
        formula="L = E + A / N^alpha + B / D^beta + h ln(r / (K N^a D^b S^g))^2 + j ln(S / (M D^m))^2, S the batch",
        citation="after the Step Law, arXiv:2503.04715: its rules for rate and batch, second order around them",
        variables=(NUM_PARAMS, NUM_TOKENS, RATE, BATCH),
        parameters=(
            *(E, A, B, ALPHA, BETA, H),
            Parameter("j", "what a batch off by a factor e costs", "nats per token"),
            Parameter(
                *("K", "scale of the best rate", "as given"), start=(0.1, 10.0), scale=(*K_SCALE, ("batch_size", "-g"))
            ),
            *MOVES,
            signed("g", "exponent of the batch in the best rate", (0.0, 1.0)),
            Parameter(
                *("M", "scale of the best batch", "as given"),
                start=(0.1, 10.0),
                scale=(("batch_size", 1.0), ("num_tokens", "-m")),
            ),
            signed("m", "exponent of tokens in the best batch", (0.0, 1.0)),
        ),
        linear=(("E",), ("A",), ("B",), ("h",), ("j",)),
        loss=basin_batch_loss,
        validity=VALIDITY,
        sweep="5 rates x 4 batches at each of 3 sizes x 4 token counts",
        limits=("j = g = 0 is basin_scaled",),
    ),
)
