"""The multi-factor product hypothesis: every factor of a training recipe has one constant exponent."""

from collections.abc import Callable

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_UNIQUE, Law, Parameter, Values, Variable, power, signed
from kleiber.scaling.laws.additive import E

FACTORS = (
    (NUM_PARAMS, "alpha"),
    (Variable(NUM_UNIQUE.name, NUM_UNIQUE.meaning, NUM_UNIQUE.unit), "beta"),
    (Variable("epochs", "passes over the training tokens", "1", neutral=1.0), "gamma"),
    (Variable("finetune_tokens", "distinct fine-tuning tokens", "tokens"), "delta"),
    (Variable("finetune_epochs", "passes over the fine-tuning tokens", "1", neutral=1.0), "zeta"),
    (Variable("weight_bits", "bits a weight is stored in", "bits", neutral=np.inf), "eta"),
)
"""Column and exponent of each factor; a factor may also be harmful, so exponents have either sign."""


def _loss(factors: tuple[tuple[Variable, str], ...]) -> Callable[[Values, Values], np.ndarray]:
    def loss(p: Values, x: Values) -> np.ndarray:
        """Returns E + K / product of factor^exponent, [..., runs]."""
        reducible = p["K"]
        for variable, exponent in factors:
            reducible = reducible * power(x[variable.name], -p[exponent])
        return p["E"] + reducible

    return loss


def product_law(names: tuple[str, ...], id: str = "product_of_factors") -> Law:
    """Returns the product law over some of the factors, by column name, for tables that vary only these.

    Raises:
      ValueError: for a column that is no factor.
    """
    known = {variable.name: (variable, exponent) for variable, exponent in FACTORS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no factor of the product law; factors: {', '.join(known)}.")
    factors = tuple(known[name] for name in names)
    scale = tuple((variable.name, exponent) for variable, exponent in factors)
    exponents = tuple(signed(exponent, f"exponent of {variable.name}", (-0.2, 1.0)) for variable, exponent in factors)
    return Law(
        id=id,
        title="product law over " + ", ".join(names),
        formula="L = E + K / (" + " ".join(f"{variable.name}^{exponent}" for variable, exponent in factors) + ")",
        citation="the multi-factor product hypothesis P = N^a D^b E^c d^d e^e eps^f with P = 1 / (L - E)",
        variables=tuple(variable for variable, _ in factors),
        parameters=(E, Parameter("K", "size of the reducible loss", scale=scale), *exponents),
        linear=(("E",), ("K",)),
        loss=_loss(factors),
        validity="a hypothesis to be tested against each factor's own law, never assumed",
        sweep="30 runs or more in a fractional factorial with centre points, epochs and unique tokens varied apart",
        pitfalls="near the compute-optimal line it returns two equal exponents whatever the truth is",
    )


LAWS = (product_law(tuple(variable.name for variable, _ in FACTORS)),)
