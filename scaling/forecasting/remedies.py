"""What to train next where a fit withholds the exponents that a best run follows from."""

import numpy as np

from kleiber.scaling.fitting.result import FitResult

ENOUGH = 0.5
"""Standard error of an exponent, as a share of it, from which on it is given (fitting/identifiability.py)."""
MOST = 100.0
"""Times the range there is, beyond which a rule of thumb names no range."""


def withheld_exponents(fit: FitResult) -> dict[str, str]:
    """Returns why each exponent of size, tokens or compute that is withheld is, by name."""
    powers = {power for each in fit.definition.parameters for _, power in each.scale}
    powers |= set(fit.definition.frontier or ())
    names = [name for name in fit.definition.names if name in powers]
    return {name: str(fit.parameters[name].withheld) for name in names if fit.parameters[name].withheld}


def what_to_train(fit: FitResult) -> str:
    """Returns which runs would let the exponents be given, in a sentence.

    A rule of thumb: the standard error of an exponent falls as the logarithm of the range of its variable grows, and as
    the root of the number of runs; `kleiber design` works it out.
    """
    said = dict.fromkeys(_of_exponent(fit, name, reason) for name, reason in withheld_exponents(fit).items())
    proposes = "kleiber design on this fit proposes which runs, for a budget and a target."
    return f"To train next: {'; and '.join(said)}. {proposes}"


def _of_exponent(fit: FitResult, name: str, reason: str) -> str:
    if reason.startswith("constant-ratio"):
        return "runs at a quarter and at four times their tokens per parameter"
    variable = next((v for each in fit.definition.parameters for v, power in each.scale if power == name), "")
    spread = float(np.ptp(np.log(fit.points[variable]))) if variable in fit.points else 0.0
    error = _relative_error(fit, name)
    if not reason.startswith("loose-") or not spread or not np.isfinite(error):
        return "runs over a tenfold range of size and of tokens, at three ratios of tokens to parameters or more"
    more = max(error / ENOUGH, 1.05)
    wider = min(spread * (more - 1), np.log(MOST))
    least = " or more" if spread * (more - 1) > np.log(MOST) else ""
    return (
        f"{variable} over a factor of about {np.exp(spread + wider):.2g}{least} in place of {np.exp(spread):.2g}, "
        f"small runs first, as they cost least; or {more**2:.2g} times as many runs over the range there is"
    )


def _relative_error(fit: FitResult, name: str) -> float:
    """Returns the standard error of an exponent over itself, of a constant fitted as a logarithm."""
    if fit.definition[name].transform != "log" or name not in fit.scaled.free:
        return np.inf
    index = fit.scaled.free.index(name)
    return float(np.sqrt(fit.uncertainty.covariance[index, index]))
