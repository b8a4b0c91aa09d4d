"""From an experiment to cells with counts, costs and errors to expect."""
