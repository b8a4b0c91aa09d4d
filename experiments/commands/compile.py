"""Compiles one training step of a preset for a pod that nobody has to rent: does it fit, what does it send, how fast?

Without --topology the step is compiled for the attached devices. Exit code 3 when it does not fit; then a mesh or batch
that does is named, checked by the compiler.

Examples: kleiber compile 8b --topology v5e:16x16
          kleiber compile 70b --topology v5p:8x8x8 --mesh fsdp=128,tensor=4 --batch-size 512 --json
          kleiber compile 405b --topology v5p:16x16x16 --search
"""

import dataclasses
import difflib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE, EXIT_GATE
from kleiber.experiments.terminal import tell, working
from kleiber.model.counts import training_flops
from kleiber.parallel.config import MeshConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kleiber.experiments.compilation.report import CompileReport
    from kleiber.experiments.compilation.search import Candidate
    from kleiber.experiments.compilation.step import OutOfMemory
    from kleiber.experiments.compilation.topology import Chip, Links
    from kleiber.train.config import TrainConfig


@dataclass(frozen=True)
class Options:
    """Options of `kleiber compile`."""

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")]
    """124m, 1b, 8b, 70b, 405b, 1t-dense or 1t-moe; or an experiment, by its file or name, for its largest run."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Change a field of the run, such as model.d_model=64; may be repeated."""
    topology: str | None = None
    """KIND:SIZES, such as v5e:16x16, v5p:8x8x8, v6e:16x16, v4:4x4x4 or tpu7x:4x4x4; None takes the attached devices."""
    mesh: str | None = None
    """Sizes of mesh axes, such as fsdp=256,tensor=16; None takes the best by the roofline on paper."""
    batch_size: int | None = None
    """Sequences a step over all devices; None takes the preset's."""
    seq_len: int | None = None
    """Tokens of a sequence; None takes the preset's."""
    loss_blocks: int | None = None
    """Parts of a sequence whose logits exist at a time; None takes the preset's."""
    attention_blocks: int | None = None
    """Blocks of queries in attention; None takes the preset's."""
    full: bool = False
    """Let the compiler take its time (five times as long): traffic beside arithmetic, its own estimate of seconds, and
    the memory of the program that would run; without, memory is a few per cent off."""
    search: bool = False
    """Try the sensible meshes, and what the backward pass may keep in place of recomputing it: all on paper, the best
    few with the compiler."""
    num_compiled: int = 3
    """Candidates that a search compiles."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Hardware:
    """What to compile for."""

    name: str
    devices: list[Any]
    chip: "Chip | None"

    @property
    def platform(self) -> str:
        """`cpu`, `gpu` or `tpu`."""
        return self.devices[0].platform


def run(options: Options) -> int:
    """Compiles and prints; returns 0 if it fits, 3 if not."""
    from kleiber.experiments.compilation.step import OutOfMemory

    config, target = _config(options), _target(options.topology)
    config = dataclasses.replace(config, model=config.model.on_platform(target.platform))
    if options.search:
        return _search(options, config, target)
    chosen = _with_mesh(options, config, target)
    said = _compile(options, chosen, target)
    if not isinstance(said, OutOfMemory) and said.fits:
        _print(options, said)
        return EXIT_DONE
    return _refuse(options, chosen, target, said)


def _config(options: Options) -> "TrainConfig":
    from kleiber.experiments.config_file import load_experiment, set_field, shipped
    from kleiber.experiments.presets import preset

    if options.preset.endswith(".py") or options.preset in shipped():
        experiment = load_experiment(options.preset)
        runs = [*experiment.trunks, *(target.train for target in experiment.targets)]
        config = max(runs, key=lambda each: training_flops(each.model, each.tokens_per_step))
    else:
        config = preset(options.preset)
    for assignment in options.set:
        config = set_field(config, assignment)

    def given(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(options, name))}

    model = dataclasses.replace(config.model, **given("seq_len", "attention_blocks"))
    return dataclasses.replace(config, model=model, **given("batch_size", "loss_blocks"))


def _target(topology: str | None) -> Hardware:
    from kleiber.experiments.compilation.topology import chip_of, parse_topology, topology_devices

    if topology is None:
        import jax

        devices = jax.devices()
        return Hardware(f"{len(devices)} x {devices[0].device_kind}", list(devices), chip_of(devices[0]))
    box = parse_topology(topology)
    return Hardware(str(box), topology_devices(box), box.chip)


def parse_mesh(text: str) -> MeshConfig:
    """Returns the mesh of a text such as fsdp=256,tensor=16. Raises ValueError if an axis is unknown or a size is not a
    number."""
    known, sizes = list(MeshConfig().sizes), {}
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if name not in known or not size.isdigit():
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'? " if near and near[0] != name else ""
            raise ValueError(f"--mesh '{text}': '{part}' is not AXIS=SIZE; {hint}axes: {', '.join(known)}.")
        sizes[name] = int(size)
    return MeshConfig(**sizes)


def _with_mesh(options: Options, config: "TrainConfig", target: Hardware) -> "TrainConfig":
    if options.mesh is None and 1 < config.mesh.num_devices == len(target.devices):
        return config  # as the experiment says
    if options.mesh is None:
        return _candidates(config, target)[0].config
    mesh = parse_mesh(options.mesh)
    if mesh.num_devices != len(target.devices):
        raise ValueError(
            f"--mesh {options.mesh} is {mesh.num_devices} devices, {target.name} has {len(target.devices)}; the sizes "
            f"must multiply to all of them."
        )
    return dataclasses.replace(config, mesh=mesh)


def _candidates(config: "TrainConfig", target: Hardware, is_search: bool = False) -> "list[Candidate]":
    from kleiber.experiments.compilation.search import SEARCHED, candidates
    from kleiber.experiments.compilation.topology import UNKNOWN, axis_links
    from kleiber.parallel.mesh import make_mesh

    chip = target.chip or UNKNOWN

    def links(mesh: MeshConfig) -> "Mapping[str, Links]":
        return axis_links(make_mesh(mesh, target.devices), chip)

    keeps = SEARCHED if is_search else ()
    found = candidates(config, len(target.devices), chip, links, target.platform, keeps)
    if not found:
        raise ValueError(
            f"no mesh of {len(target.devices)} devices splits a batch of {config.batch_size} sequences; choose another "
            f"--batch-size."
        )
    return found


def _compile(options: Options, config: "TrainConfig", target: Hardware) -> "CompileReport | OutOfMemory":
    """Returns the report, or what the compiler said when it refused."""
    from kleiber.experiments.compilation.report import make_report
    from kleiber.experiments.compilation.step import OutOfMemory, compile_step
    from kleiber.parallel.mesh import make_mesh

    mesh, label = make_mesh(config.mesh, target.devices), f"{options.preset} on {target.name}, {config.mesh}"
    tell(f"compiling {label}", sys.stderr)
    try:
        step = compile_step(config, mesh, f"compiling {label}", not options.full)
    except OutOfMemory as refusal:
        return refusal
    with working(f"reading the program of {label}"):
        return make_report(options.preset, target.name, config, mesh, target.chip, step)


def _print(options: Options, report: "CompileReport") -> None:
    if options.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        from kleiber.experiments.compilation.show import show_report

        show_report(report)


def _refuse(options: Options, config: "TrainConfig", target: Hardware, said: "CompileReport | OutOfMemory") -> int:
    """Says that it does not fit, and what would, which the compiler is asked about first."""
    from kleiber.experiments.compilation.memory import step_memory
    from kleiber.experiments.compilation.step import OutOfMemory

    if isinstance(said, OutOfMemory):
        reason, needed, available = said.reason, said.needed_bytes, said.available_bytes
    else:
        reason, needed, available = "the program is larger than the memory", said.peak_bytes, said.available_bytes
    print(f"does not fit: {reason}; looking for what does ...", file=sys.stderr, flush=True)
    fitting, line = None, "nothing that fits was found on this topology; take a larger one."
    for smaller in _smaller(config, target):
        answer = _compile(options, smaller, target)
        if not isinstance(answer, OutOfMemory) and answer.fits:
            fitting = answer
            line = f"fits: --mesh {_flag(smaller.mesh)} --batch-size {smaller.batch_size}"
            line += f" ({answer.peak_bytes / 1e9:.2f} GB, compiled)"
            break
    if options.json:
        row: dict[str, Any] = {"preset": options.preset, "where": target.name, "mesh": str(config.mesh)}
        row |= {"batch_size": config.batch_size, "fits": False, "reason": reason, "needed_bytes": needed}
        row |= {"available_bytes": available, "predicted_bytes": step_memory(config, target.platform).total_bytes}
        print(json.dumps(row | {"suggestion": fitting.to_json() if fitting else None}, indent=1))
    else:
        print(f"{options.preset} on {target.name}, {config.mesh}, batch {config.batch_size}: does not fit: {reason}.")
        print(line)
    return EXIT_GATE


def _smaller(config: "TrainConfig", target: Hardware) -> "list[TrainConfig]":
    """Returns up to three configs to try in place of one that does not fit: other meshes, then smaller batches."""
    from kleiber.experiments.compilation.topology import UNKNOWN

    chip = target.chip or UNKNOWN
    found: list[TrainConfig] = []
    batch = config.batch_size
    while batch >= 1 and len(found) < 3:
        smaller = dataclasses.replace(config, batch_size=batch, mesh=MeshConfig())
        try:
            fitting = [item for item in _candidates(smaller, target) if item.fits(chip, room=1.0)]
        except ValueError:
            fitting = []
        found += [item.config for item in fitting if item.config != config][:1]
        batch //= 2
    return found


def _flag(mesh: MeshConfig) -> str:
    return ",".join(f"{name}={size}" for name, size in mesh.sizes.items() if size > 1) or "data=1"


def _search(options: Options, config: "TrainConfig", target: Hardware) -> int:
    from kleiber.experiments.compilation.show import show_candidates, show_report
    from kleiber.experiments.compilation.step import OutOfMemory
    from kleiber.experiments.compilation.topology import UNKNOWN

    found = _candidates(config, target, is_search=True)
    said: dict[str, CompileReport | OutOfMemory] = {}
    for item in found[: options.num_compiled]:
        said[item.name] = _compile(options, item.config, target)
    fitting = [report for report in said.values() if not isinstance(report, OutOfMemory) and report.fits]
    best = max(fitting, key=lambda report: report.utilisation or 0.0, default=None)
    if options.json:
        rows = []
        for item in found:
            row: dict[str, Any] = {"mesh": str(item.config.mesh), "predicted_bytes": item.memory.total_bytes}
            row |= {"predicted_seconds": item.roofline.seconds, "predicted_utilisation": item.utilisation}
            row["remat_keeps"] = item.config.model.remat_keeps
            answer = said.get(item.name)
            row["compiled"] = answer.reason if isinstance(answer, OutOfMemory) else answer and answer.to_json()
            rows.append(row)
        print(json.dumps({"preset": options.preset, "where": target.name, "candidates": rows}, indent=1))
    else:
        show_candidates(found[:12], target.chip or UNKNOWN, said)
        if best is not None:
            show_report(best)
    return EXIT_DONE if best is not None else EXIT_GATE
