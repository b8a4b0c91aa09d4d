"""Encoder-decoders: the two sides have exponents of their own."""

import numpy as np

from kleiber.scaling.law import NUM_TOKENS, Law, Parameter, Values, Variable, power, signed
from kleiber.scaling.laws.additive import BETA, EXPONENT, B, E

ENCODER = Variable("num_params_encoder", "parameters of the encoder, tables left out", "parameters")
DECODER = Variable("num_params_decoder", "parameters of the decoder, tables left out", "parameters")
SIZE = Parameter(
    "A", "size of the term of both sides", scale=(("num_params_encoder", "p_e"), ("num_params_decoder", "p_d"))
)
SIDES = (
    Parameter("p_e", "exponent of the encoder", start=EXPONENT, bounds=(1e-4, 20.0)),
    Parameter("p_d", "exponent of the decoder", start=EXPONENT, bounds=(1e-4, 20.0)),
)
SLOPES = (
    signed("p_e", "slope of log loss in the encoder", (-0.1, 0.3)),
    signed("p_d", "slope of log loss in the decoder", (-0.1, 0.3)),
)


def slopes_loss(p: Values, x: Values) -> np.ndarray:
    """Returns K / (num_params_encoder^p_e num_params_decoder^p_d) [..., runs], in nats per target token."""
    of_sides = power(x["num_params_encoder"], -p["p_e"]) * power(x["num_params_decoder"], -p["p_d"])
    return p["K"] * of_sides


def sides_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / (num_params_encoder^p_e num_params_decoder^p_d) [..., runs], in nats per target token."""
    of_sides = power(x["num_params_encoder"], -p["p_e"]) * power(x["num_params_decoder"], -p["p_d"])
    return p["E"] + p["A"] * of_sides


def sides_and_tokens_loss(p: Values, x: Values) -> np.ndarray:
    """Returns the same and B / num_tokens^beta [..., runs]."""
    return sides_loss(p, x) + p["B"] * power(x["num_tokens"], -p["beta"])


LAWS = (
    Law(
        id="encoder_decoder_slopes",
        title="what the loss falls by when either side grows, over a short range",
        formula="L = K / (N_e^p_e N_d^p_d)",
        citation="our own: the law of Ghorbani et al. 2021, arXiv:2109.07740, where no floor can be told",
        variables=(ENCODER, DECODER),
        parameters=(Parameter("K", "scale", "nats per token", scale=SIZE.scale), *SLOPES),
        linear=(("K",),),
        loss=slopes_loss,
        floor="",
        validity="one corpus, one number of tokens, both sides of one width; no irreducible loss, so a short range",
        sweep="every pair of 3 encoder depths and 3 decoder depths",
        pitfalls="a side that is too large for the tokens has a negative slope, which more tokens turn",
        limits=("it is encoder_decoder with E = 0",),
    ),
    Law(
        id="encoder_decoder",
        title="power law of encoder and decoder, each with its own exponent",
        formula="L = E + A / (N_e^p_e N_d^p_d)",
        citation="Ghorbani et al. 2021, arXiv:2109.07740, equation 1",
        variables=(ENCODER, DECODER),
        parameters=(E, SIZE, *SIDES),
        linear=(("E",), ("A",)),
        loss=sides_loss,
        validity="one corpus, one number of tokens, both sides of one width",
        sweep="every pair of 3 encoder depths and 3 decoder depths, or more",
        pitfalls="with both sides of one depth throughout only p_e + p_d can be told",
    ),
    Law(
        id="encoder_decoder_tokens",
        title="power law of encoder and decoder, and a term of target tokens",
        formula="L = E + A / (N_e^p_e N_d^p_d) + B / D^beta",
        citation="our own: Ghorbani et al. 2021, arXiv:2109.07740, with the token term of Hoffmann et al. 2022",
        variables=(ENCODER, DECODER, NUM_TOKENS),
        parameters=(E, SIZE, *SIDES, B, BETA),
        linear=(("E",), ("A",), ("B",)),
        loss=sides_and_tokens_loss,
        validity="one corpus, both sides of one width",
        sweep="every pair of 3 encoder depths and 3 decoder depths, at 3 token counts each",
        limits=("B = 0 is encoder_decoder",),
    ),
)
