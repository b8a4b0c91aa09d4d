"""An optimised HLO module read from its text, and which computation of it runs how often.

A loop's body is written once and runs many times. How often is read from `known_trip_count` where the compiler wrote
it, else from the loop itself: the counter's start, its step, and the bound of the condition. A bound that is only known
at run time counts as one turn and is reported.
"""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

BYTES = {"pred": 1.0, "bf16": 2.0, "token": 0.0, "opaque": 0.0}
ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
"""Element type and sizes of an array's shape."""
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(?:calls|body|condition|true_computation|false_computation|branch_computations)=(\{[^}]*\}|%[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_TRANSPARENT = {"copy", "bitcast", "convert", "reshape", "copy-start", "copy-done"}


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    operand_text: str
    rest: str
    """Attributes after the operands."""

    @functools.cached_property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return _NAME.findall(self.operand_text)

    @functools.cached_property
    def called(self) -> list[str]:
        """Names of the computations it runs."""
        return [name for called in _CALLED.findall(self.rest) for name in _NAME.findall(called)]


@dataclass(frozen=True)
class Computation:
    """Instructions by name, in order; the last one written ROOT is the result."""

    name: str
    instructions: dict[str, Instruction]
    root: str


@dataclass(frozen=True)
class Program:
    """A module: computations in the order of the text, callees before their callers."""

    computations: dict[str, Computation]
    times: dict[str, float]
    """How often each computation runs in one call of the program; 0 where nothing calls it."""
    num_unknown_loops: int
    """Loops whose length is known at run time only; counted as one turn."""

    def __iter__(self) -> Iterator[tuple[Computation, Instruction, float]]:
        """Yields every instruction that runs, with its computation and how often."""
        for computation in self.computations.values():
            if times := self.times[computation.name]:
                for instruction in computation.instructions.values():
                    yield computation, instruction, times


def shape_bytes(shape: str) -> int:
    """Returns the bytes of an array or of a tuple of arrays, such as `(f32[8,16]{1,0}, u32[])`; layouts are ignored."""
    return round(sum(_element_bytes(kind) * math.prod(sizes_of(sizes)) for kind, sizes in ARRAY.findall(shape)))


def _element_bytes(kind: str) -> float:
    digits = re.search(r"\d+", kind)
    return BYTES.get(kind, int(digits.group()) / 8 if digits else 0.0)  # f32, s4, f8e4m3fn, c64


def sizes_of(text: str) -> list[int]:
    """Returns the numbers of a text such as 8,128."""
    return [int(size) for size in text.split(",") if size]


def parse(text: str) -> Program:
    """Returns the program of an optimised HLO text (`compiled.as_text()`). Raises ValueError if the text holds no ENTRY
    computation."""
    computations: dict[str, Computation] = {}
    entry = name = root = ""
    lines: dict[str, Instruction] = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            if line.endswith("{") and (match := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
                name, lines, root = match.group(2), {}, ""
                entry = name if match.group(1) else entry
            elif line.startswith("}") and name:
                computations[name] = Computation(name, lines, root)
            continue
        if (instruction := _instruction(line)) is not None:
            lines[instruction.name] = instruction
            root = instruction.name if line.lstrip().startswith("ROOT") else root
    if entry not in computations:
        raise ValueError("no ENTRY computation: expected the text of an optimised HLO module (compiled.as_text()).")
    times, num_unknown = _times(computations, entry)
    return Program(computations, times, num_unknown)


def _instruction(line: str) -> Instruction | None:
    left, separator, right = line.partition(" = ")
    if not separator:
        return None
    shape_end = _closing(right, 0) + 1 if right.startswith("(") else right.find(" ")
    opcode, bracket, _ = right[shape_end:].strip().partition("(")
    if not bracket or not re.fullmatch(r"[\w\-]+", opcode):
        return None
    start = right.index("(", shape_end)
    end = _closing(right, start)
    name = left.replace("ROOT", "").strip().lstrip("%")
    return Instruction(name, right[:shape_end], opcode, right[start + 1 : end], right[end + 1 :])


def _closing(text: str, start: int) -> int:
    """Returns where the bracket that opens at start closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced brackets in HLO text: {text[start : start + 80]}")


def _times(computations: dict[str, Computation], entry: str) -> tuple[dict[str, float], int]:
    times = dict.fromkeys(computations, 0.0)
    times[entry] = 1.0
    num_unknown = 0
    for computation in reversed(computations.values()):  # callers stand after what they call
        if not times[computation.name]:
            continue
        for instruction in computation.instructions.values():
            if instruction.opcode.endswith(("-done", "-update")):
                continue  # they name the computation that their -start runs
            factor = 1.0
            if instruction.opcode == "while":
                trips = _trips(computations, computation, instruction)
                num_unknown += trips is None
                factor = 1.0 if trips is None else trips
            for called in instruction.called:
                if called in times:
                    times[called] += factor * times[computation.name]
    return times, num_unknown


def _trips(computations: dict[str, Computation], caller: Computation, loop: Instruction) -> int | None:
    if match := _TRIPS.search(loop.rest):
        return int(match.group(1))
    attributes = dict(re.findall(r"\b(condition|body)=%([\w.\-]+)", loop.rest))
    condition, body = computations[attributes["condition"]], computations[attributes["body"]]
    test = condition.instructions[condition.root]
    if test.opcode != "compare" or "direction=LT" not in test.rest:
        return None
    counter, bound = (_resolve(condition, name) for name in test.operands)
    end = _integer(bound)
    if counter is None or counter.opcode != "get-tuple-element" or end is None:
        return None
    index = _index(counter)
    begin = _integer(_element(caller, loop.operands[0], index)) or 0
    change = _element(body, body.root, index)
    step = None
    if change is not None and change.opcode == "add":
        step = next((n for name in change.operands if (n := _integer(_resolve(body, name))) is not None), None)
    return max(0, -(-(end - begin) // (step or 1)))


def _index(element: Instruction) -> int:
    match = re.search(r"index=(\d+)", element.rest)
    return int(match.group(1)) if match else 0


def _resolve(computation: Computation, name: str) -> Instruction | None:
    """Returns the instruction behind copies, and behind the elements of tuples made here."""
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.operands:
        if instruction.opcode in _TRANSPARENT:
            instruction = computation.instructions.get(instruction.operands[0])
        elif instruction.opcode == "get-tuple-element":
            source = computation.instructions.get(instruction.operands[0])
            if source is None or source.opcode != "tuple":
                break
            instruction = computation.instructions.get(source.operands[_index(instruction)])
        else:
            break
    return instruction


def _element(computation: Computation, name: str, index: int) -> Instruction | None:
    """Returns what stands at an index of a tuple."""
    made = computation.instructions.get(name)
    if made is None or made.opcode != "tuple":
        return None
    return _resolve(computation, made.operands[index])


def _integer(instruction: Instruction | None) -> int | None:
    if instruction is None or instruction.opcode != "constant":
        return None
    return int(instruction.operand_text) if re.fullmatch(r"-?\d+", instruction.operand_text) else None
