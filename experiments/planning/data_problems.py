"""What of an experiment's data and routers will not work, told before anything is spent."""

from kleiber.experiments.experiment import Experiment
from kleiber.train.data.corpora.catalogue import find_corpus, prepared_folder
from kleiber.train.data.run_data import open_run_data
from kleiber.train.data.tokenizers import vocabulary_size
from kleiber.train.data.tokens import has_tokens


def data_problems(experiment: Experiment) -> list[str]:
    """Returns why runs could not read their data: a vocabulary unlike the tokenizer's, too short a text.

    The length is looked at only where the corpus is prepared already: a plan prepares nothing.
    """
    problems: dict[str, None] = {}
    seen = set()
    for config in [*experiment.trunks, *(target.train for target in experiment.targets)]:
        key = (config.data, config.model.vocab_size, config.model.seq_len, config.num_tokens[-1], config.batch_size)
        if (key, config.evaluation) in seen or config.command:  # a command has data of its own
            continue
        seen.add((key, config.evaluation))
        try:
            size = vocabulary_size(config.data.tokenizer)
            if size != config.model.vocab_size:
                problems[
                    f"tokenizer '{config.data.tokenizer}' has {size} ids, model.vocab_size is {config.model.vocab_size}"
                    f": set vocab_size={size}, or leave it out"
                ] = None
                continue
            folder = prepared_folder(find_corpus(config.data.corpus))
            needed = {config.data.tokenizer, "bytes"} if config.evaluation.num_bytes else {config.data.tokenizer}
            if folder and all(has_tokens(folder, each) for each in needed):
                open_run_data(config)
        except ValueError as problem:
            problems[str(problem).rstrip(".")] = None
    return list(problems)


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
