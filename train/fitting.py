"""Which objective and which data fit a family of models. Needs no jax."""

from typing import Any


def check_objective(config: Any) -> None:
    """Checks that model and objective fit each other. Raises ValueError that says what to set."""
    model, masking = config.model, config.masking
    if model.image:
        if config.objective != "label":
            raise ValueError(
                f"objective '{config.objective}' with model.family '{model.family}': what is learnt of an image is its "
                f"label; set objective='label'."
            )
        return
    if model.is_causal != (config.objective != "masked"):
        fitting = "next_token" if model.is_causal else "masked"
        raise ValueError(
            f"objective '{config.objective}' with model.family '{model.family}': a decoder sees nothing after a token "
            f"and predicts the next one, an encoder sees both sides and predicts what is hidden; set "
            f"objective='{fitting}', or the other family."
        )
    if config.objective == "masked":
        free = model.seq_len // masking.span - (masking.span > 1)
        if not 1 <= masking.num_spans(model.seq_len) <= free - 1:
            raise ValueError(
                f"masking hides {masking.num_spans(model.seq_len)} spans of {masking.span} in a row of "
                f"{model.seq_len} tokens, expected 1 to {free - 1}; change masking.rate, masking.span or seq_len."
            )
        if config.mesh.context > 1:
            raise ValueError(f"mesh {config.mesh}: an encoder's rows are not split over `context`; set context=1.")


def check_images(config: Any) -> None:
    """Checks what only text, or only images, can have. Raises ValueError that says what to leave out."""
    model, data = config.model, config.data
    if model.image is None:
        if data.augment:
            raise ValueError(f"data.augment {data.augment} with model.family '{model.family}': it is for images alone.")
        return
    of_text = {
        "data.tokenizer": data.tokenizer if data.tokenizer != "bytes" else None,
        "data.document_attention": data.document_attention or None,
        "evaluation.num_bytes": config.evaluation.num_bytes,
        "mesh.context": config.mesh.context if config.mesh.context > 1 else None,
    }
    for name, value in of_text.items():
        if value is not None:
            raise ValueError(f"{name} is {value!r} with model.family '{model.family}': it is for text; leave it out.")
