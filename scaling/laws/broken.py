"""Smoothly broken power law of compute."""

import numpy as np

from kleiber.scaling.law import Law, Parameter, Values, Variable, power, signed, softplus
from kleiber.scaling.laws.additive import E

FLOPS = Variable("flops", "training compute (map any other single variable to it)", "FLOPs")


def broken_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A C^-c0 (1 + (C / d)^(1/f))^(-c1 f) [..., runs]."""
    log_x = np.log(x["flops"])
    bend = (log_x - np.log(p["d"])) / p["f"]
    return p["E"] + p["A"] * power(x["flops"], -p["c0"]) * np.exp(-p["c1"] * p["f"] * softplus(bend))


LAWS = (
    Law(
        id="broken",
        title="power law of compute with one smooth break",
        formula="L = E + A C^-c0 (1 + (C / d)^(1/f))^(-c1 f)",
        citation="Caballero et al. 2023, arXiv:2210.14891, one break",
        variables=(FLOPS,),
        parameters=(
            E,
            Parameter("A", "size before the break", scale=(("flops", "c0"),)),
            Parameter("c0", "slope before the break", start=(0.02, 1.0), bounds=(1e-4, 20.0)),
            signed("c1", "slope added by the break", (-0.5, 0.5), (-20.0, 20.0)),
            Parameter("d", "where the break is", "FLOPs", start=(1e-3, 1e3), scale=(("flops", 1.0),)),
            Parameter("f", "width of the break", start=(0.1, 2.0), bounds=(0.02, 20.0)),
        ),
        linear=(("E",), ("A",)),
        loss=broken_loss,
        validity="only with three points or more past the break",
        sweep="a dozen values over four decades, dense around the break, the largest held out",
        pitfalls="six constants for one variable fit anything in range",
        limits=("c1 = 0 is a power law",),
    ),
)
