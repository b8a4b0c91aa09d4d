"""One file for each verb of the command line: a frozen dataclass of options and `run(options) -> int`."""
