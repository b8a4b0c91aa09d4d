"""The experiments that ship with kleiber: each file has a function `experiment() -> Experiment`."""
