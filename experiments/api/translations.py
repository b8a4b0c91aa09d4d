"""How near what the weights of a run on pairs make of unseen sources comes to their targets."""

from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.train.scores.translation import check_installed, score_translations

if TYPE_CHECKING:
    from kleiber.experiments.api.runs import Run
    from kleiber.train.translations import HeldOutPairs

SHOWN = 10
"""Pairs that are told in full."""


def score_pairs(run: "Run", test: "HeldOutPairs", width: int = 4) -> dict[str, Any]:
    """Returns how near what a run makes of sources comes to their targets, beside copying the source.

    Args:
      run: on pairs, with weights.
      test: to be translated.
      width: of the beam; 1 takes the likeliest token at each place.

    Returns:
      As `kleiber score --json` (docs/json.md).

    Raises:
      ValueError: sacrebleu is not installed.
    """
    from kleiber.model.decode.beam import Beam
    from kleiber.train.translations import translate

    check_installed()
    told, num_cut = translate(run.config, run.tree, run.tokenizer, test.sources, Beam(width))
    about = {
        "run": run.name,
        "pairs": test.name,
        "num_pairs": len(test.sources),
        "num_documents": len(np.unique(test.documents)),
        "num_cut": num_cut,
        "beam": width,
    }
    found = score_translations(test.targets, {"model": told, "copy": test.sources}, test.documents, test.language)
    shown = np.arange(min(SHOWN, len(told))) * len(told) // min(SHOWN, len(told))
    examples = [{"source": test.sources[n], "target": test.targets[n], "model": told[n]} for n in shown]
    return {**about, **found, "examples": examples}
