"""TensorBoard's event files: scalars by step and hyper-parameters, in records each framed by two checksums.

Framing: https://www.tensorflow.org/tutorials/load_data/tfrecord; field numbers: tensorboard/compat/proto/event.proto,
summary.proto, tensor.proto, and plugins/hparams/plugin_data.proto.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from kleiber.experiments.importing.logged import LoggedRun, Value, cut_short
from kleiber.experiments.importing.wire import Fields, fields, inner, masked, real, text
from kleiber.files import read_plain

MARK = "tfevents"
"""In the name of every event file."""


def event_run(name: str, files: list[Path], takes_cut: bool = False) -> LoggedRun:
    """Returns the run whose event files lie in one folder.

    Args:
      name: of the run.
      files: of it, of one start after the other; where they overlap the later start counts.
      takes_cut: whether what stands before a cut or damaged record is taken.

    Raises:
      ImportProblem: a file is cut or damaged; says after which record.
    """
    logged: dict[str, dict[int, float]] = {}
    config: dict[str, Value] = {}
    for path in sorted(files):
        begun: set[str] = set()
        for record in records(path, takes_cut):
            event = fields(record)
            step = event.get(2, [0])[-1]
            for value in map(fields, inner(event, 5).get(1, ())):
                tag, plugin = text(value, 1), inner(inner(value, 9), 1)
                if text(plugin, 1) == "hparams":
                    config |= _settings(plugin)
                elif (number := _scalar(value)) is not None:
                    if tag not in begun:  # a start that goes on from a checkpoint logs some steps anew
                        begun.add(tag)
                        logged[tag] = {at: old for at, old in logged.get(tag, {}).items() if at < step}
                    logged[tag][step] = number
    rows: dict[int, dict[str, Value]] = {}
    for tag, values in logged.items():
        for step, number in values.items():
            rows.setdefault(step, {"step": step})[tag] = number
    return LoggedRun(name, files[0].parent, config, [rows[step] for step in sorted(rows)])


def records(path: Path, takes_cut: bool = False) -> Iterator[bytes]:
    """Yields the records of a file, each checked.

    Raises:
      ImportProblem: one is cut or damaged, and `takes_cut` does not say to end there.
    """
    data, at, count = read_plain(path), 0, 0
    while at < len(data):
        head = data[at : at + 12]
        is_whole = len(head) == 12 and masked(head[:8]) == struct.unpack("<I", head[8:])[0]
        end = at + 16 + (struct.unpack("<Q", head[:8])[0] if is_whole else 0)
        record = data[at + 12 : end - 4]
        if not is_whole or end > len(data) or masked(record) != struct.unpack("<I", data[end - 4 : end])[0]:
            return cut_short(path, count, at, len(data), takes_cut)
        yield record
        at, count = end, count + 1
    return None


def _scalar(value: Fields) -> float | None:
    """Returns the number of a summary's value: its own, or that of a tensor of one."""
    if 2 in value:
        return real(value, 2)
    tensor = inner(value, 8)
    content = next((tensor[number][-1] for number in (4, 5, 6) if number in tensor), b"")
    kind = {1: ("<f", 4), 2: ("<d", 8)}.get(tensor.get(1, [0])[-1])  # DT_FLOAT, DT_DOUBLE
    return struct.unpack(kind[0], content)[0] if kind and len(content) == kind[1] else None


def _settings(plugin: Fields) -> dict[str, Value]:
    """Returns the hyper-parameters that a session was begun with."""
    found: dict[str, Value] = {}
    for pair in map(fields, inner(inner(plugin, 2), 3).get(1, ())):
        value = inner(pair, 2)
        if 2 in value:
            number = real(value, 2)
            found[text(pair, 1)] = int(number) if number.is_integer() else number
        elif 3 in value:
            found[text(pair, 1)] = text(value, 3)
        elif 4 in value:
            found[text(pair, 1)] = bool(value[4][-1])
    return found
