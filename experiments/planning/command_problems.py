"""What of an experiment's commands will not work, told before anything is spent."""

import shutil
from pathlib import Path

from kleiber.experiments.arguments import pairs
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.varied import LENGTH, varied_fields
from kleiber.parallel.environment import process_in_environment
from kleiber.train.command import Command
from kleiber.train.config import TrainConfig


def command_problems(experiment: Experiment) -> list[str]:
    """Returns why commands could not train their cells: no such program, or something varies that they are not told."""
    configs = [*experiment.trunks, *(target.train for target in experiment.targets)]
    commands = {config.command.line: (config.command, config) for config in configs if config.command}
    if not commands:
        return []
    problems = []
    if process_in_environment()[1] > 1:
        problems.append("a command is one program: start this line in one process, and let the command use the others")
    if any(config.command and config.guard.skip_batches for config in configs):
        problems.append("guard.skip_batches leaves out batches of kleiber's own trainer, and a command reads its own")
    for command, config in commands.values():
        program = command.arguments(config)[0]
        if shutil.which(program) is None:
            problems.append(f"there is no program '{program}' to start; {{python}} is this one's own interpreter")
        pairs(command.columns, "columns")
        problems += [
            f"the command names {script}, which is no file {where}" for script, where in _no_files(command, config)
        ]
    if any("folder" not in command.names for command, _ in commands.values()):
        problems.append("the command is not told where its record goes: put {folder} into its line")
    told = set.intersection(*(command.names for command, _ in commands.values()))
    lengths, seeds = ({getattr(config, name) for config in configs if config.command} for name in (LENGTH, "seed"))
    untold = [] if len(seeds) < 2 or "seed" in told else ["seed"]
    untold += [] if len(lengths) < 2 or told & {LENGTH, "num_steps", "all_num_tokens"} else [LENGTH]
    for factor in varied_fields([config for config in configs if config.command]):
        words = {factor.path, factor.path.rpartition(".")[2], *factor.goes_with}
        if factor.path != LENGTH and not factor.path.startswith("command.") and not words & told:
            untold.append(factor.path.removeprefix("factors."))
    return problems + [
        f"runs differ in {name}, of which the command is not told: put {{{name}}} into its line" for name in untold
    ]


def _no_files(command: Command, config: TrainConfig) -> list[tuple[str, str]]:
    """Returns (script, where it is looked for) of each that is not there; of a folder that is not here either, another
    machine may know more."""
    scripts = [Path(word) for word in command.arguments(config) if word.endswith(".py") and "FOLDER" not in word]
    here = "in {}, where its program will run"
    return [
        (str(script), here.format(Path.cwd()) if not script.is_absolute() else "here")
        for script in scripts
        if not script.is_file() and (not script.is_absolute() or script.parent.is_dir())
    ]
