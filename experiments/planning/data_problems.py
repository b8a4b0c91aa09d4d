"""What of an experiment's data and routers will not work, told before anything is spent."""

import functools
from pathlib import Path

from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.varied import varied_fields
from kleiber.train.config import TrainConfig
from kleiber.train.data.corpora.catalogue import Corpus, find_corpus, prepared_folder
from kleiber.train.data.corpora.pairs.reading import read_pairs
from kleiber.train.data.corpora.text_file.reading import read_documents
from kleiber.train.data.tokenizers import train_sentencepiece, vocabulary_size
from kleiber.train.data.tokens import has_tokens
from kleiber.train.data.windows import wrong_kind

SURE_BYTES = 100
"""Of text for each piece of a vocabulary, from which on a plan takes it for granted that so many can be learnt."""


def data_problems(experiment: Experiment) -> list[str]:
    """Returns why runs could not read their data: a vocabulary unlike the tokenizer's, too short a text; or
    not be compared.

    A plan prepares nothing: of a corpus that is not prepared, a file of the user's own is read and the rest waits.
    """
    problems: dict[str, None] = {}
    seen = set()
    configs = [*experiment.trunks, *(target.train for target in experiment.targets)]
    if len(objectives := sorted({config.objective for config in configs})) > 1:
        problems[
            f"runs of the objectives {' and '.join(objectives)}, whose losses are of unlike targets and cannot be "
            "compared: give each an experiment of its own"
        ] = None
    for config in [*experiment.starts, *configs]:  # a start's own objective may be another
        key = (config.data, config.model.vocab_size, config.model.seq_len, config.num_tokens[-1], config.batch_size)
        if (key, config.evaluation) in seen or config.command:  # a command has data of its own
            continue
        seen.add((key, config.evaluation))
        try:
            if config.model.image:
                _check_images(config)
                continue
            size = vocabulary_size(config.data.tokenizer)
            if size != config.model.vocab_size:
                problems[
                    f"tokenizer '{config.data.tokenizer}' has {size} ids, model.vocab_size is {config.model.vocab_size}"
                    f": set vocab_size={size}, or leave it out"
                ] = None
                continue
            corpus = find_corpus(config.data.corpus)
            if corpus.kind != "tfds" and corpus.has_pairs != (config.model.encoder is not None):
                raise ValueError(wrong_kind(config.data.corpus, corpus.has_pairs))
            folder = prepared_folder(corpus)
            needed = {config.data.tokenizer, "bytes"} if config.evaluation.num_bytes else {config.data.tokenizer}
            if folder and all(has_tokens(folder, each) for each in needed):
                from kleiber.train.data.run_data import open_run_data  # loads jax

                open_run_data(config)
            elif corpus.kind == "file" and corpus.has_pairs:
                read_pairs(corpus.location)
            elif corpus.kind == "file":
                _check_file(corpus, config, size)
        except ValueError as problem:
            problems[str(problem).rstrip(".")] = None
    return list(problems)


def _check_images(config: TrainConfig) -> None:
    """Raises ValueError where a run could not read its images, as far as that can be told without preparing them."""
    corpus = find_corpus(config.data.corpus)
    if prepared_folder(corpus) or (corpus.kind != "tfds" and not corpus.has_images):
        from kleiber.train.data.run_data import open_run_data  # loads jax

        open_run_data(config)
    elif corpus.kind == "file":
        from kleiber.train.data.corpora.images.labelled import check_images
        from kleiber.train.data.corpora.images.reading import read_image_file

        check_images(read_image_file(Path(corpus.location)), corpus.location)


def _check_file(corpus: Corpus, config: TrainConfig, vocab_size: int) -> None:
    """Raises ValueError where a file is certainly too little text for a run's vocabulary or length."""
    documents = _encoded_documents(corpus.location, corpus.key or "text", corpus.keeps_copies)
    num_bytes = sum(len(document) + 1 for document in documents)  # as many tokens at most
    data, needed = config.data, config.num_tokens[-1]
    if needed > data.max_epochs * min(num_bytes, data.num_unique_tokens or num_bytes):
        raise ValueError(
            f"corpus {data.corpus} is too short: {num_bytes:,} bytes, of which {needed:,} tokens take more than the "
            f"{data.max_epochs:g} epochs allowed; use more text, or set DataConfig.max_epochs"
        )
    if data.tokenizer != "bytes" and num_bytes < SURE_BYTES * vocab_size:
        train_sentencepiece(documents, vocab_size)


@functools.lru_cache(maxsize=4)
def _encoded_documents(path: str, key: str, keeps_copies: bool) -> tuple[bytes, ...]:
    documents = read_documents(Path(path), key)
    return tuple(each.encode() for each in (documents if keeps_copies else dict.fromkeys(documents)))


def scale_warnings(experiment: Experiment) -> list[str]:
    """Returns a warning where runs are scored on texts of their own, or by tasks of their own."""
    fields = [path for factor in varied_fields(experiment.trunks) for path in factor.scales]
    if not fields:
        return []
    return [
        f"runs differ in {' and '.join(fields)}, which says what a run is scored on: their losses cannot be compared; "
        "where the text alone differs, `kleiber eval RUN --text FILE` scores the kept weights of all on one"
    ]


def router_warnings(experiment: Experiment) -> list[str]:
    """Returns a warning where a router gets no gradient of the loss."""
    routers = [config.model.experts for config in experiment.trunks if config.model.experts]
    blind = [each for each in routers if each.num_active == 1 and each.has_normalised_weights and each.num_experts > 1]
    if not blind:
        return []
    return [
        f"{len(blind)} trunks have one active expert with normalised weights: its weight is 1 whatever it says, "
        "so the loss teaches the router nothing; set experts.has_normalised_weights=False, or num_active=2"
    ]
