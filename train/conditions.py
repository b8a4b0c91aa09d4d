"""What the fields of a TrainConfig must be like together. Needs no jax."""

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
    if (model.encoder is not None) != (config.objective == "sequence_to_sequence"):
        fitting = "objective='sequence_to_sequence'" if model.encoder else "model.family='encoder_decoder'"
        raise ValueError(
            f"objective '{config.objective}' with model.family '{model.family}': what an encoder_decoder learns is the "
            f"target of a source, and nothing else does; set {fitting}."
        )
    if model.encoder:
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


def check_pairs(config: Any) -> None:
    """Checks what a run on pairs has not. Raises ValueError that says what to leave out."""
    if config.model.encoder is None:
        return
    has_not = {
        "data.document_attention": config.data.document_attention or None,  # pairs in a row never see each other
        "evaluation.num_bytes": config.evaluation.num_bytes,
        "mesh.context": config.mesh.context if config.mesh.context > 1 else None,
        "mesh.stage": config.mesh.stage if config.mesh.stage > 1 else None,
        "trainable": config.trainable if config.trainable != "all" else None,
        "teacher": config.teacher and "a teacher",
    }
    for name, value in has_not.items():
        if value is not None:
            raise ValueError(f"{name} is {value!r} with model.family 'encoder_decoder', which has none: leave it out.")


def check_mixture(data: Any) -> None:
    """Checks the shares of a DataConfig. Raises ValueError that says what to expect."""
    total, names = sum(share for _, share in data.mixture), [name for name, _ in data.mixture]
    if total >= 1:
        raise ValueError(f"data.mixture {data.mixture} sums to {total:g}: expected less than 1, the rest is of corpus.")
    if twice := [name for name in names if names.count(name) > 1 or name == data.corpus]:
        raise ValueError(f"data.mixture names {twice[0]} twice, or beside corpus: give each corpus one share.")


def check_corpora(config: Any) -> None:
    """Checks that several corpora of a run can be read alike. Raises ValueError that says what to set."""
    for name, value in (("data.mixture", config.data.mixture), ("evaluation.also", config.evaluation.also)):
        if value and (config.data.tokenizer != "bytes" or config.model.image or config.model.encoder):
            what = "images or pairs" if config.model.image or config.model.encoder else config.data.tokenizer
            raise ValueError(
                f"{name} {value} with {what}: several corpora are read alike as text of bytes alone, as each has a "
                f"vocabulary of its own otherwise; set data.tokenizer='bytes', or leave {name} out."
            )
        if value and config.command:
            raise ValueError(f"{name} {value} with command, which reads what its own program does; leave it out.")


def check_mesh(config: Any) -> None:
    """Checks that every mesh axis divides what it splits, before anything is compiled.

    Raises:
      ValueError: naming the axis, its size, and the field that does not fit.
    """
    mesh, model, delayed = config.mesh, config.model, config.delayed_sync
    replicas = delayed.num_replicas if delayed else 1
    rows = f"batch_size ({'' if replicas == 1 else f'of each of {replicas} replicas, '}accumulation_steps apart)"
    parts = config.batch_size / replicas / (config.accumulation_steps or 1)
    split: list[tuple[str, int, str, float]] = [
        ("replica", mesh.replica, "delayed_sync.num_replicas", replicas),
        ("data x fsdp x expert", mesh.num_batch_shards, rows, parts),
        ("stage", mesh.stage, "model.num_layers", model.num_layers),
        ("fsdp", mesh.fsdp, "model.d_model", model.d_model),
        ("expert", mesh.expert, "model.experts.num_experts", model.experts.num_experts if model.experts else 1),
        ("tensor", mesh.tensor, "model.num_heads", model.num_heads),
        ("tensor", mesh.tensor, "model.num_kv_heads", model.kv_heads),
        ("tensor", mesh.tensor, "the feed-forward width (model.d_ff)", model.feed_forward_width),
        ("tensor", mesh.tensor, "model.vocab_size", model.vocab_size),
    ]
    if mesh.context > 1:
        split.append(("twice context", 2 * mesh.context, "model.seq_len", model.seq_len))
    for axis, size, what, length in split:
        if length % size:
            raise ValueError(f"mesh {mesh}: {axis} = {size} does not divide {what} = {length:g}; change one of them.")
    if mesh.context > 1 and model.num_virtual_tokens:
        raise ValueError(
            f"mesh {mesh}: rows with {model.num_virtual_tokens} virtual tokens in front are not split over `context`; "
            f"set context=1, or another adapter.kind."
        )
    if mesh.stage > 1 and not model.has_scanned_layers:
        raise ValueError(f"mesh {mesh}: a pipeline needs model.has_scanned_layers=True, so that layers form one array.")
    if mesh.num_microbatches(int(parts)) < mesh.stage:
        raise ValueError(
            f"mesh {mesh}: a pipeline of {mesh.stage} stages gets {rows} in {mesh.num_microbatches(int(parts))} "
            f"microbatches a shard, expected at least one a stage; grow batch_size or lower stage."
        )
    if mesh.stage > 1 and model.dropout:
        raise ValueError(f"mesh {mesh}: a pipeline would drop the same units in every microbatch; set dropout=0.")


def check_compression(config: Any) -> None:
    """Checks that compression can set in when the config says. Raises ValueError that says what to expect."""
    compression, when = config.model.compression, config.compressed_from
    if compression.is_none or when == "end":
        return
    if when == "cooldown" and config.schedule.kind != "wsd":
        raise ValueError(
            f"compressed_from is cooldown with schedule kind '{config.schedule.kind}', which has none; expected 'wsd', "
            f"or compressed_from 'start' or 'end'."
        )
    if compression.rounding == "gptq":
        raise ValueError(
            f"compression.rounding gptq with compressed_from '{when}': it rounds a finished model, whose weights move "
            f"no more; expected compressed_from 'end', or rounding 'nearest'."
        )
    if config.delayed_sync and compression.is_low_rank and when == "cooldown":
        raise ValueError(
            f"rank_share {compression.rank_share:g} with compressed_from 'cooldown' and delayed_sync: the factors of "
            f"each replica would be others; expected compressed_from 'start' or 'end', or no delayed_sync."
        )
    if compression.sparsity and (when == "start" or config.delayed_sync):
        raise ValueError(
            f"sparsity {compression.sparsity:g} with compressed_from '{when}'"
            f"{' and delayed_sync' if config.delayed_sync else ''}: which weights go is settled once, on one set of "
            f"trained weights; expected compressed_from 'end', or 'cooldown' without delayed_sync."
        )
