"""Configs, planner, sweep runner, run records, report notebooks and the command line."""
