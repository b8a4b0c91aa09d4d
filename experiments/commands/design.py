"""Which runs to buy next for a budget, so that a target run is forecast best.

Example: kleiber design chinchilla --budget 2e14 --target 2e14 --max-run 2e13 --sigma 0.005

From a fit (`kleiber fit ... --json > fit.json`) its runs and its noise count; from a law of `kleiber laws` its
published constants, or --constants, are taken to be true and --sigma, --tau are assumed. docs/json.md says what --json
prints; --write FILE makes an experiment of it.
"""

import json

from kleiber.experiments.designing.options import Options
from kleiber.experiments.terminal import printable, working


def run(options: Options) -> int:
    """Prints the design; returns 0."""
    from kleiber.experiments.designing.design import make_design
    from kleiber.experiments.designing.report import design_text

    if not (options.budget > 0 and options.target > 0):
        raise ValueError(f"--budget and --target are FLOPs above 0, got {options.budget:g} and {options.target:g}.")
    with working("choosing runs"):
        found = make_design(options)
    if options.write:
        from kleiber.experiments.designing.write import write_experiment

        write_experiment(found, options.write)
    print(json.dumps(found, indent=1, allow_nan=False) if options.json else printable(design_text(found)))
    return 0
