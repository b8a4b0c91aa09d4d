"""Fine-tuning and distillation."""

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, Law, Parameter, Values, Variable, power, signed, softplus
from kleiber.scaling.laws.additive import ALPHA, BETA, EXPONENT, A, B, E, additive_terms

FINETUNE = Variable("finetune_tokens", "distinct fine-tuning tokens", "tokens")
TEACHER = Variable("teacher_loss", "loss of the teacher", "nats per token")
SUPERVISED = Variable("supervised_loss", "loss of the same student without a teacher", "nats per token")


def transfer_tokens(p: Values, x: Values) -> np.ndarray:
    """Returns k finetune_tokens^a num_params^b, the tokens that pre-training was worth, [..., runs]."""
    return p["k"] * power(x["finetune_tokens"], p["a"]) * power(x["num_params_total"], p["b"])


def finetune_loss(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / (num_params^alpha finetune_tokens^beta) [..., runs]."""
    return p["E"] + p["A"] * power(x["num_params_total"], -p["alpha"]) * power(x["finetune_tokens"], -p["beta"])


def finetune_sum(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / num_params^alpha + B / finetune_tokens^beta [..., runs]."""
    return (
        p["E"] + p["A"] * power(x["num_params_total"], -p["alpha"]) + p["B"] * power(x["finetune_tokens"], -p["beta"])
    )


def finetune_transfer(p: Values, x: Values) -> np.ndarray:
    """Returns E + A / num_params^alpha + B / (D_f + D_T)^beta, D_T = k D_f^(1-c) num_params^b [..., runs]."""
    log_worth = np.log(p["k"]) - p["c"] * np.log(x["finetune_tokens"]) + p["b"] * np.log(x["num_params_total"])
    log_tokens = np.log(x["finetune_tokens"]) + softplus(log_worth)
    return p["E"] + p["A"] * power(x["num_params_total"], -p["alpha"]) + p["B"] * np.exp(-p["beta"] * log_tokens)


def distillation_loss(p: Values, x: Values) -> np.ndarray:
    """Returns L_T + L_T^-c0 (1 + (L_T / (L_S d1))^(1/f1))^(-c1 f1) (A / N^alpha + B / D^beta)^gamma, [..., runs]."""
    log_teacher = np.log(x["teacher_loss"])
    bend = (log_teacher - np.log(x["supervised_loss"]) - np.log(p["d1"])) / p["f1"]
    log_gain = -p["c0"] * log_teacher - p["c1"] * p["f1"] * softplus(bend) + p["gamma"] * np.log(additive_terms(p, x))
    return x["teacher_loss"] + np.exp(log_gain)


LAWS = (
    Law(
        id="transfer",
        title="tokens that pre-training was worth to a fine-tuned model",
        formula="D_T = k D_f^a N^b (map loss to the column of effective tokens transferred)",
        citation="Hernandez et al. 2021, arXiv:2102.01293",
        variables=(FINETUNE, NUM_PARAMS),
        parameters=(
            Parameter("k", "scale", "tokens", scale=(("finetune_tokens", "-a"), ("num_params_total", "-b"))),
            signed("a", "exponent of fine-tuning tokens", (0.0, 1.0)),
            signed("b", "exponent of parameters", (0.0, 1.0)),
        ),
        linear=(("k",),),
        loss=transfer_tokens,
        quantity="effective tokens transferred",
        validity="only while fine-tuning tokens are fewer than the tokens transferred",
        sweep="fine-tuned and from-scratch losses at 4 sizes, fine-tuning tokens over three decades",
        pitfalls="at many fine-tuning tokens pre-training can hurt",
    ),
    Law(
        id="finetune_product",
        title="product of a pre-training factor and fine-tuning tokens",
        formula="L = E + A / (X^alpha D_f^beta), X parameters (map pre-training tokens or rank to it instead)",
        citation="Zhang et al. 2024, arXiv:2402.17193",
        variables=(NUM_PARAMS, FINETUNE),
        parameters=(
            E,
            Parameter("A", "size", scale=(("num_params_total", "alpha"), ("finetune_tokens", "beta"))),
            ALPHA,
            Parameter("beta", "exponent of fine-tuning tokens", start=EXPONENT, bounds=(1e-4, 20.0)),
        ),
        linear=(("E",), ("A",)),
        loss=finetune_loss,
        validity="a hypothesis: fit finetune_sum beside it",
        sweep="fine-tuning tokens over three decades x 4 sizes x 3 pre-training token counts",
    ),
    Law(
        id="finetune_sum",
        title="sum of a pre-training term and a fine-tuning term",
        formula="L = E + A / X^alpha + B / D_f^beta, X parameters (map pre-training tokens or rank to it instead)",
        citation="the rival of Zhang et al. 2024, arXiv:2402.17193, section 4",
        variables=(NUM_PARAMS, FINETUNE),
        parameters=(
            *(E, A, ALPHA),
            Parameter("B", "size of the fine-tuning term", scale=(("finetune_tokens", "beta"),)),
            Parameter("beta", "exponent of fine-tuning tokens", start=EXPONENT, bounds=(1e-4, 20.0)),
        ),
        linear=(("E",), ("A",), ("B",)),
        loss=finetune_sum,
        validity="a hypothesis: fit finetune_product beside it",
        sweep="as finetune_product",
    ),
    Law(
        id="finetune_transfer",
        title="a start that counts as so many more fine-tuning tokens",
        formula="L = E + A / N^alpha + B / (D_f + D_T)^beta, D_T = k D_f^(1-c) N^b",
        citation="Hernandez et al. 2021, arXiv:2102.01293, in the additive law of a model without a start",
        variables=(NUM_PARAMS, FINETUNE),
        parameters=(
            *(E, A, ALPHA),
            Parameter("B", "size of the fine-tuning term", scale=(("finetune_tokens", "beta"),)),
            Parameter("beta", "exponent of fine-tuning tokens", start=EXPONENT, bounds=(1e-4, 20.0)),
            Parameter(
                "k",
                "tokens transferred for each of fine-tuning",
                start=(0.1, 10.0),
                bounds=(1e-12, 1e12),
                scale=(("finetune_tokens", "c"), ("num_params_total", "-b")),
            ),
            Parameter("c", "one less the exponent of fine-tuning tokens in D_T", start=(0.3, 1.2), bounds=(1e-3, 3.0)),
            signed("b", "exponent of parameters in D_T", (0.0, 0.6)),
        ),
        linear=(("E",), ("A",), ("B",)),
        loss=finetune_transfer,
        validity="a hypothesis: fit finetune_product and finetune_sum beside it; the second text is learnt by one law",
        sweep="as finetune_product, 24 cells or more; with runs without a start the constants but k, c and b are known",
        limits=("k = 0 is finetune_sum",),
    ),
    Law(
        id="distillation",
        title="student loss from its teacher's loss, its size and its tokens",
        formula="L = L_T + L_T^-c0 (1 + (L_T / (L_S d1))^(1/f1))^(-c1 f1) (A / N^alpha + B / D^beta)^gamma",
        citation="Busbridge et al. 2025, arXiv:2502.08606",
        variables=(NUM_PARAMS, NUM_TOKENS, TEACHER, SUPERVISED),
        parameters=(
            *(A, Parameter("B", B.meaning, start=(0.05, 20.0), scale=B.scale), ALPHA, BETA),
            Parameter("gamma", "exponent of the student's gap", start=(0.2, 1.5), bounds=(0.01, 10.0)),
            signed("c0", "slope in the teacher's loss", (-1.0, 3.0), (-10.0, 10.0)),
            signed("c1", "slope added past the capacity gap", (-2.0, 3.0), (-50.0, 50.0)),
            Parameter("d1", "teacher over student loss at the gap", start=(0.5, 2.0), bounds=(0.05, 20.0)),
            Parameter("f1", "width of the gap", start=(0.05, 1.0), bounds=(0.01, 10.0)),
        ),
        linear=(),
        loss=distillation_loss,
        validity="the teacher acts through its loss only",
        sweep="3 teachers x 4 students x 4 token counts, with supervised runs of the same students",
        pitfalls="a teacher that is too good can hurt",
    ),
)
