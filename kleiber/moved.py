"""Where modules went that had another name in release 0.1: an old import says the new one."""

import importlib.abc
from collections.abc import Sequence
from types import ModuleType

# Old room: {new folder: modules}; "old>new" where the name itself changed.
_MOVES = {
    "model": {
        "model.layers": "weight product norm embedding attention feed_forward experts",
        "model.kernels": "float8",
        "model.families": "transformer>decoder",
        "model": "family>ladder",
    },
    "parallel": {"experiments.compilation": "hlo collectives products topology", "parallel": "launcher>environment"},
    "train": {
        "train.update": "optimizer schedule guard loss_scale delayed_sync exchange>exchanged_bytes",
        "train.checkpoints": "checkpoint manifest saver identity replicas",
        "train.watch": "metrics goodput watchdog signals",
        "train.data": "run_data",
    },
    "train.data": {
        "train.data.corpora": "sources documents splits overlap tfds_text cloud_docs text_file wiki_passages"
    },
    "scaling": {
        "scaling.table": "reading naming expression checks warned public_sets public_tables",
        "scaling.fitting": "model>scaled_law known noise objective starts minimise search trunk_effect estimates "
        "identifiability result fit refit bootstrap memory>chunks report>result",
        "scaling.forecasting": "forecast optimum>allocation allocation ledger",
        "scaling.explaining": "select elasticity factors approaches analysis isoflop>approaches",
        "scaling.designing": "design exchange>purchases rectangle simulate coverage",
    },
    "experiments": {
        "experiments.planning": "cells plan speed",
        "experiments.directory": "record doctor",
        "experiments.sweeping": "sweep law_stage worker workers follow progress lock ownership failures rewind",
        "experiments.report": "checklist",
        "experiments.audit": "coordinate_check",
        "experiments.designing": "design_inputs>inputs design_report>report",
        "experiments.bench": "bench.block>timed_steps",
        "experiments": "errors>exit_codes",
    },
    "experiments.report": {"": "files"},
    "experiments.api": {"experiments.exchange": "safetensors_file peft_folder"},
    "experiments.bench": {"experiments.bench": "block>timed_steps"},
}


def moved() -> dict[str, str]:
    """Returns the new name of every module that moved, by its old one."""
    names = {}
    for room, folders in _MOVES.items():
        for folder, modules in folders.items():
            for old, _, new in (module.partition(">") for module in modules.split()):
                names[f"kleiber.{room}.{old}"] = ".".join(filter(None, ("kleiber", folder, new or old)))
    return names


class Moved(importlib.abc.MetaPathFinder):
    """Asked last, when nothing else has found a module."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Raises ModuleNotFoundError with the new name of a module that moved; knows of no other."""
        if fullname.startswith("kleiber.") and (new := moved().get(fullname)):
            raise ModuleNotFoundError(f"{fullname} is now {new}; import that.", name=fullname)
