"""What the best run of a sweep on pairs makes of some that were held out."""

from pathlib import Path
from typing import Any

from kleiber.experiments.report.markup import Markup, callout, table

SHOWN = 12


def has_pairs(experiment: dict[str, Any]) -> bool:
    """Returns whether the runs of an experiment, as experiment.json holds it, make targets of sources."""
    return any((trunk.get("model") or {}).get("encoder") for trunk in experiment.get("trunks", ()))


def translations_table(directory: Path, records: Any) -> Markup:
    """Returns sources of the validation split, their targets, and what the run of least loss that kept its weights
    makes of them; or a box that says why there are none.

    Args:
      directory: of the sweep.
      records: of its points, as dictionaries.
    """
    kept = [r for r in records if r.get("final_checkpoint") and r.get("loss") is not None]
    if not kept:
        return callout("Not shown: no run has kept its weights (Experiment.keep_final).", "wait")
    from kleiber.experiments.config_file import from_data
    from kleiber.files import read_json
    from kleiber.model.decode.beam import Beam
    from kleiber.train.checkpoints.checkpoint import load_arrays, tree_of
    from kleiber.train.config import TrainConfig
    from kleiber.train.data.tokenizers import stored_tokenizer
    from kleiber.train.translations import held_out_pairs, translate

    best = min(kept, key=lambda r: r["loss"])
    folder = directory / "runs" / best["run_id"]
    config = from_data(TrainConfig, read_json(folder / "config.json")["trunk"])
    arrays, _ = load_arrays(folder / best["final_checkpoint"])
    params = tree_of({name[7:]: array for name, array in arrays.items() if name.startswith("params/")})
    model = arrays["tokenizer_model"].tobytes() if "tokenizer_model" in arrays else b""
    tokenizer = stored_tokenizer(config.data.tokenizer, model)
    try:
        shown = held_out_pairs(config, best["data_fingerprint"], "validation", tokenizer).evenly(SHOWN)
    except ValueError as problem:
        return callout(f"Not shown: {problem}", "wait")
    told, _ = translate(config, params, tokenizer, shown.sources, Beam())
    rows = list(zip(shown.sources, shown.targets, told, strict=True))
    return table(("source", "target", f"of {best['run_id']}"), rows)
