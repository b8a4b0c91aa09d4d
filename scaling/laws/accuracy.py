"""Accuracy on a task by the loss on it."""

import numpy as np

from kleiber.scaling.law import Law, Parameter, Values, Variable

TASK_LOSS = Variable("task_loss", "loss on the task, as bits per byte of the right answers", "as given")


def accuracy(p: Values, x: Values) -> np.ndarray:
    """Returns chance + gain / (1 + exp(steepness (task_loss - midpoint))) [..., runs]."""
    return p["chance"] + p["gain"] / (1 + np.exp(p["steepness"] * (x["task_loss"] - p["midpoint"])))


LAWS = (
    Law(
        id="accuracy",
        title="accuracy on a task by the loss on it",
        formula="accuracy = chance + gain / (1 + exp(steepness (task_loss - midpoint)))",
        citation="Bhagia et al. 2024, arXiv:2412.04403, step 2 (map loss to the column of accuracies)",
        variables=(TASK_LOSS,),
        parameters=(
            Parameter("chance", "accuracy at a large loss", "1", "identity", (0.0, 1.0)),
            Parameter("gain", "what a small loss adds to it", bounds=(0.0, 1.0)),
            Parameter("steepness", "of the rise", start=(1.0, 50.0), scale=(("task_loss", -1.0),)),
            Parameter("midpoint", "loss halfway up", "as given", start=(0.3, 2.0), scale=(("task_loss", 1.0),)),
        ),
        linear=(("chance",), ("gain",)),
        loss=accuracy,
        floor="",
        quantity="accuracy",
        validity="one task in one format; losses of the task itself, not of the pre-training text",
        sweep="runs or checkpoints from chance level to well above it",
        pitfalls="runs near chance show neither steepness nor midpoint; fix chance where it is known",
        limits=("gain = 0 is chance",),
    ),
)
