"""What a compiled step says of itself: memory, FLOPs, traffic by mesh axis, and how fast it can be at best."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jax.sharding import Mesh

from kleiber.experiments.compilation.collectives import Collective, bytes_by_axis, collectives
from kleiber.experiments.compilation.hlo import parse
from kleiber.experiments.compilation.memory import step_memory
from kleiber.experiments.compilation.products import estimated_cycles, product_flops
from kleiber.experiments.compilation.roofline import Roofline, executed_flops, on_paper, send_seconds, sent_bytes
from kleiber.experiments.compilation.search import utilisation
from kleiber.experiments.compilation.step import CompiledStep, state_bytes
from kleiber.experiments.compilation.topology import Chip, Links, axis_links
from kleiber.model.families.table import FAMILIES
from kleiber.train.config import TrainConfig


@dataclass(frozen=True)
class Traffic:
    """What one device sends over a set of mesh axes in a step."""

    axes: tuple[str, ...]
    bytes_by_kind: Mapping[str, float]
    asynchronous_bytes: float
    """Part of it that the program computes beside."""
    predicted_bytes: float | None
    """By the communication model; None for sets of axes that it does not know."""
    seconds: float | None
    """At the bandwidth of the axes; None where none is known."""

    @property
    def total_bytes(self) -> float:
        """Bytes of all kinds."""
        return sum(self.bytes_by_kind.values())


@dataclass(frozen=True)
class CompileReport:
    """A compiled step in numbers; bytes and FLOPs are of one device, unless said otherwise."""

    preset: str
    where: str
    """Topology, or the attached devices."""
    mesh: str
    num_devices: int
    batch_size: int
    seq_len: int
    num_params_total: int
    num_params_active: int
    state_bytes: int
    argument_bytes: int
    output_bytes: int
    aliased_bytes: int
    temporary_bytes: int
    program_bytes: int
    predicted_bytes: float
    """Peak memory by the model on paper."""
    available_bytes: float | None
    counted_flops: float
    """A step on all devices, by kleiber.model.counts: full attention square."""
    counted_flops_causal: float
    """Alike, half the square."""
    executed_flops: float
    """Predicted products of one device, recomputation included."""
    product_flops: float
    """Products in the compiled program, loops as often as they turn."""
    compiler_flops: float | None
    """The compiler's cost analysis as it comes: bodies of loops counted once, elementwise operations included."""
    num_unknown_loops: int
    traffic: tuple[Traffic, ...]
    paper: Roofline | None
    """From formulas."""
    roofline: Roofline | None
    """From the compiled program: arithmetic, and the bytes it sends beside it and between."""
    estimate_seconds: float | None
    """Compiler's own cycles of the arithmetic in place of the roofline's; None where it gives none."""
    utilisation: float | None
    """Counted FLOPs over the peak in roofline.seconds."""
    utilisation_causal: float | None
    estimate_utilisation: float | None
    is_quick: bool
    """Whether the compiler spent little: then no traffic runs beside arithmetic, and its cycles mean nothing."""
    lower_seconds: float
    compile_seconds: float
    attention_kernel: str
    """As ModelConfig.attention_kernel, resolved."""
    remat_keeps: str
    """As ModelConfig.remat_keeps; `everything` without rematerialisation."""

    @property
    def peak_bytes(self) -> int:
        """Everything that lies in memory at once."""
        live = self.argument_bytes + self.output_bytes - self.aliased_bytes
        return live + self.temporary_bytes + self.program_bytes

    @property
    def fits(self) -> bool:
        """Whether it fits; True where nothing is known of the memory, for the compiler did not refuse."""
        return self.available_bytes is None or self.peak_bytes <= self.available_bytes

    def to_json(self) -> dict[str, Any]:
        """Returns everything as one object."""
        table = asdict(self) | {"peak_bytes": self.peak_bytes, "fits": self.fits}
        for name in ("paper", "roofline"):
            roofline = getattr(self, name)
            if roofline is not None:
                table[name] |= {"seconds": roofline.seconds, "limit": roofline.limit}
        table["traffic"] = [asdict(item) | {"total_bytes": item.total_bytes} for item in self.traffic]
        return table


def make_report(
    preset: str, where: str, config: TrainConfig, mesh: Mesh, chip: Chip | None, step: CompiledStep
) -> CompileReport:
    """Returns the report of a compiled step of a preset, with `where` for the reader, the mesh as make_mesh returned,
    and the figures of a chip or None where none are known. Raises ValueError if the backend gives no program text."""
    text = step.compiled.as_text()
    if text is None:
        raise ValueError("this backend's compiler gives no program text; compile for a topology or on CPU.")
    program, memory, cost = parse(text), step.compiled.memory_analysis(), step.compiled.cost_analysis()
    held, counts = state_bytes(config, mesh), FAMILIES[config.model.family].counts(config.model)
    links = axis_links(mesh, chip) if chip else {}
    found = collectives(program, config.mesh.sizes)
    traffic = _traffic(config, found, links)
    paper = on_paper(config, chip, links, held) if chip else None
    flops = product_flops(program)
    roofline = _from_program(flops, found, links, chip, paper) if chip and paper else None
    cycles = estimated_cycles(program)
    estimate = None
    if chip and chip.clock and roofline and cycles and not step.is_quick:
        estimate = max(cycles / chip.clock, *roofline.overlapping_seconds.values(), 0.0)
        estimate += sum(roofline.blocking_seconds.values())
    part = counts.flops_per_token_causal / counts.flops_per_token
    used = utilisation(config, chip, roofline.seconds) if chip and roofline else None
    return CompileReport(
        preset=preset,
        where=where,
        mesh=str(config.mesh),
        num_devices=mesh.size,
        batch_size=config.batch_size,
        seq_len=config.model.seq_len,
        num_params_total=counts.num_params_total,
        num_params_active=counts.num_params_active,
        state_bytes=held,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        program_bytes=memory.generated_code_size_in_bytes,
        predicted_bytes=step_memory(config, mesh.devices.flat[0].platform, held).total_bytes,
        available_bytes=chip.hbm_bytes / chip.devices_per_chip if chip else None,
        counted_flops=float(counts.flops_per_token * config.tokens_per_step),
        counted_flops_causal=float(counts.flops_per_token_causal * config.tokens_per_step),
        executed_flops=executed_flops(config) / mesh.size,
        product_flops=flops,
        compiler_flops=cost.get("flops") if cost else None,
        num_unknown_loops=program.num_unknown_loops,
        traffic=traffic,
        paper=paper,
        roofline=roofline,
        estimate_seconds=estimate,
        utilisation=used,
        utilisation_causal=used * part if used else None,
        estimate_utilisation=utilisation(config, chip, estimate) if chip and estimate else None,
        is_quick=step.is_quick,
        lower_seconds=step.lower_seconds,
        compile_seconds=step.compile_seconds,
        attention_kernel=config.model.attention_kernel or "plain",
        remat_keeps=config.model.remat_keeps if config.model.has_remat else "everything",
    )


def _traffic(config: TrainConfig, found: list[Collective], links: Mapping[str, Links]) -> tuple[Traffic, ...]:
    predicted = sent_bytes(config)
    rows = []
    for axes, kinds in bytes_by_axis(found).items():
        beside = sum(item.total_bytes for item in found if item.axes == axes and item.is_asynchronous)
        seconds = sum(send_seconds(kind, sent, axes, links) for kind, sent in kinds.items()) if links else None
        foreseen = predicted.get(axes[0]) if len(axes) == 1 else None
        rows.append(Traffic(axes, kinds, beside, foreseen, seconds))
    return tuple(sorted(rows, key=lambda row: -row.total_bytes))


def _from_program(
    flops: float, found: list[Collective], links: Mapping[str, Links], chip: Chip, paper: Roofline
) -> Roofline:
    beside: dict[str, float] = {}
    between: dict[str, float] = {}
    for item in found:
        table = beside if item.is_asynchronous else between
        name = "+".join(item.axes)
        table[name] = table.get(name, 0.0) + send_seconds(item.kind, item.total_bytes, item.axes, links)
    return Roofline(flops / (chip.peak_flops / chip.devices_per_chip), paper.hbm_seconds, beside, between)
