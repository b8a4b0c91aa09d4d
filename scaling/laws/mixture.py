"""Mixtures of domains and of modalities."""

import functools

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Values, Variable, power, signed
from kleiber.scaling.laws.additive import ALPHA, BETA, A, B, E, additive_terms

SHARE = Variable("share", "share of one domain in the training mixture", "1", may_be_zero=True)
UNIMODAL = Variable("unimodal_loss", "mean loss of two models that each saw one modality only", "nats per token")


def mixture_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + k exp(-t share) [..., runs]."""
    return p["E"] + p["k"] * np.exp(-p["t"] * x["share"])


def mixture_scaled_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + k exp(-t share) + A / N^alpha + B / D^beta [..., runs]."""
    return mixture_loss(p, x) + additive_terms(p, x)


def mixed_modal_loss(p: Values, x: Values) -> np.ndarray:
    """Returns unimodal_loss - C + A / N^alpha + B / D^beta [..., runs]."""
    return x["unimodal_loss"] - p["C"] + additive_terms(p, x)


SCALE = {"num_params_total": (NUM_PARAMS, A, ALPHA), "num_tokens": (NUM_TOKENS, B, BETA)}
"""Columns of `mixture_of` that are no shares: each adds its term of the additive law."""


@functools.cache
def mixture_of(names: tuple[str, ...], id: str) -> Law:
    """Returns the law of the shares of several domains, by column name: L = E + k exp(-sum_j t_j h_j), and with
    num_params_total or num_tokens among the names A / N^alpha or B / D^beta more."""
    shares, counts = [each for each in names if each not in SCALE], [each for each in SCALE if each in names]
    terms = [SCALE[name] for name in counts]

    def loss(p: Values, x: Values) -> np.ndarray:
        """Returns E + k exp(-sum of t share) and the terms of size and tokens, [..., runs]."""
        total = sum(p[f"t_{index + 1}"] * x[name] for index, name in enumerate(shares))
        sizes = sum(p[size.name] * power(x[count.name], -p[exponent.name]) for count, size, exponent in terms)
        return p["E"] + p["k"] * np.exp(-total) + sizes

    total = " + ".join(f"t_{index + 1} {name}" for index, name in enumerate(shares))
    more = "".join(f" + {size.name} / {name}^{turn.name}" for name, (_, size, turn) in zip(counts, terms, strict=True))
    return Law(
        id=id,
        title="loss on a domain by the shares of " + ", ".join(shares) + " with " * bool(counts) + ", ".join(counts),
        formula=f"L = E + k exp(-({total})){more}",
        citation="Ye et al. 2024, arXiv:2403.16952; with size and tokens as Shukor et al. 2025, arXiv:2507.09404",
        variables=(
            *(count for count, _, _ in terms),
            *(Variable(name, "share of a domain in the mixture", "1", may_be_zero=True) for name in shares),
        ),
        parameters=(
            *(E, SHARE_PARAMETERS[0]),
            *(
                signed(f"t_{i + 1}", f"what {name} does to the loss", (-3.0, 10.0), (-1e3, 1e3))
                for i, name in enumerate(shares)
            ),
            *(size for _, size, _ in terms),
            *(exponent for _, _, exponent in terms),
        ),
        linear=(("E",), ("k",), *((size.name,) for _, size, _ in terms)),
        loss=loss,
        validity="leave out one of the domains, as shares sum to 1; without size and tokens, one of each",
        sweep="4 mixtures for each domain and more, spread over the simplex, at 3 sizes and token counts",
        frontier=("alpha", "beta") if len(terms) == 2 else None,
    )


SHARE_PARAMETERS = (
    Parameter("k", "loss that the domain's absence costs", "nats per token"),
    Parameter("t", "how fast the domain's share pays", start=(0.3, 30.0), bounds=(1e-3, 1e3)),
)
LAWS = (
    Law(
        id="mixture",
        title="loss on a domain by its share of the mixture",
        formula="L = E + k exp(-t h)",
        citation="Ye et al. 2024, arXiv:2403.16952, one domain against the rest",
        variables=(SHARE,),
        parameters=(E, *SHARE_PARAMETERS),
        linear=(("E",), ("k",)),
        loss=mixture_loss,
        validity="one size and token count",
        sweep="shares {0, 0.05, 0.1, 0.2, 0.4, 0.7, 1}",
    ),
    Law(
        id="mixture_scaled",
        title="the same with size and tokens",
        formula="L = E + k exp(-t h) + A / N^alpha + B / D^beta",
        citation="after Ye et al. 2024, arXiv:2403.16952, and Shukor et al. 2025, arXiv:2507.09404 (additive)",
        variables=(NUM_PARAMS, NUM_TOKENS, SHARE),
        parameters=(E, *SHARE_PARAMETERS, A, B, ALPHA, BETA),
        linear=(("E",), ("k",), ("A",), ("B",)),
        loss=mixture_scaled_loss,
        validity="the best mixture does not depend on scale: test it",
        sweep="6 shares x 4 sizes x 3 token counts",
        limits=("k = 0 is chinchilla",),
    ),
    Law(
        id="mixed_modal",
        title="loss of a model of two modalities, from what each modality would reach by itself",
        formula="L = U - C + A / N^alpha + B / D^beta, U the mean unimodal loss at the same N and tokens of each",
        citation="Aghajanyan et al. 2023, arXiv:2301.03728",
        variables=(NUM_PARAMS, NUM_TOKENS, UNIMODAL),
        parameters=(Parameter("C", "largest synergy", "nats per token"), A, B, ALPHA, BETA),
        linear=(("C",), ("A",), ("B",)),
        loss=mixed_modal_loss,
        floor="",
        validity="losses of the two modalities averaged; N and D of the joint model",
        sweep="2 modalities: 4 sizes x 4 token counts of the joint model, and of each modality by itself",
        pitfalls="noise of the unimodal losses goes into the fit as if it were the joint model's",
        limits=("C = A = B = 0 is the mean of the unimodal losses",),
    ),
)
