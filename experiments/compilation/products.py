"""The arithmetic of an optimised program: FLOPs of its matrix products, and the compiler's own estimate of cycles."""

import functools
import math
import re

from kleiber.experiments.compilation.hlo import ARRAY, Computation, Instruction, Program, sizes_of

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')

_SPLASH = re.compile(r"splash_m[hq]a_(fwd|dkv)")
_PRODUCTS_OF_SPLASH = {"fwd": 2, "dkv": 5}
"""Products of the square's size that its kernels make: forward, and backward for all gradients at once."""


def estimated_cycles(program: Program) -> float:
    """Returns the compiler's own estimate of cycles, summed over what runs; 0 where it writes none (TPU writes them).

    Communication has no estimate, so this is the time of the arithmetic and its memory traffic alone.
    """
    total = 0.0
    for _, instruction, times in program:
        if match := _CYCLES.search(instruction.rest):
            total += times * int(match.group(1))
    return total


def product_flops(program: Program) -> float:
    """Returns 2 M N K summed over the matrix products that run on one device, loops counted as often as they turn.

    TPUs write products as convolutions; positions that fall into padding are not counted. Of fused kernels those of
    splash attention count, by what they are called with; cuDNN's do not.
    """
    flops = 0.0
    for computation, instruction, times in program:
        if instruction.opcode in ("dot", "convolution") or "gemm" in instruction.rest[:200]:
            left, right = (_shape_of(computation, name) for name in instruction.operands[:2])
            if instruction.opcode == "convolution":
                flops += times * _convolution_flops(instruction, left, right)
            else:
                flops += times * _dot_flops(instruction, left)
        elif instruction.opcode == "custom-call" and (match := _SPLASH.match(instruction.name)):
            flops += times * _PRODUCTS_OF_SPLASH[match[1]] * _splash_flops(computation, instruction)
    return flops


def _splash_flops(computation: Computation, instruction: Instruction) -> float:
    """Returns the FLOPs of one product of a splash kernel: where it is called with a table of blocks (causal), of those
    that hold a key up to the query, else of the whole square."""
    shapes = [_shape_of(computation, name) for name in instruction.operands]
    first = next(at for at, name in enumerate(instruction.operands) if _is_float(computation, name))
    queries, keys = shapes[first], shapes[first + 1]
    rows, columns = shapes[0][-2:] if first else (1, 1)
    share = sum(-(-(row + 1) * columns // rows) for row in range(rows)) / (rows * columns)
    return 2.0 * math.prod(queries) * keys[-2] * share


def _is_float(computation: Computation, name: str) -> bool:
    return computation.instructions[name].shape.startswith(("f", "bf"))


def _shape_of(computation: Computation, name: str) -> list[int]:
    match = ARRAY.search(computation.instructions[name].shape)
    return sizes_of(match.group(2)) if match else []


def _dot_flops(instruction: Instruction, left: list[int]) -> float:
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    if match is None:  # a library call
        match = re.search(r'"lhs_contracting_dimensions":\[([\d",]*)\]', instruction.rest)
    contracting = sizes_of(match.group(1).replace('"', "")) if match else []
    output = ARRAY.search(instruction.shape)
    assert output is not None
    return 2.0 * math.prod(sizes_of(output.group(2))) * math.prod(left[axis] for axis in contracting)


def _convolution_flops(instruction: Instruction, left: list[int], right: list[int]) -> float:
    match = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    output_match = ARRAY.search(instruction.shape)
    assert match is not None and output_match is not None
    left_labels, right_labels, output_labels = match.groups()
    output = sizes_of(output_match.group(2))
    groups = re.search(r"feature_group_count=(\d+)", instruction.rest)
    batch_groups = re.search(r"batch_group_count=(\d+)", instruction.rest)
    total = 2.0 * left[left_labels.index("b")] * left[left_labels.index("f")] * right[right_labels.index("o")]
    total /= int(groups.group(1)) if groups else 1
    total /= int(batch_groups.group(1)) if batch_groups else 1
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    fields = dict(field.split("=") for field in window.group(1).split()) if window else {}
    for label in (label for label in output_labels if label.isdigit()):
        at = {key: value.split("x")[int(label)] for key, value in fields.items()}
        total *= _valid_positions(
            output[output_labels.index(label)],
            right[right_labels.index(label)],
            left[left_labels.index(label)],
            int(at.get("stride", 1)),
            int(at.get("pad", "0_0").split("_")[0]),
            int(at.get("lhs_dilate", 1)),
            int(at.get("rhs_dilate", 1)),
        )
    return total


@functools.lru_cache(maxsize=1024)
def _valid_positions(outputs: int, kernel: int, inputs: int, stride: int, pad: int, dilate: int, spread: int) -> int:
    """Returns the pairs of output position and kernel position that meet an input, along one spatial dimension."""
    count = 0
    for position in range(kernel):
        # Input times dilation = output * stride - pad + position * spread must hit a real input.
        offset = position * spread - pad
        if dilate == 1:
            first = max(0, -(offset // stride)) if offset < 0 else 0
            last = (inputs - 1 - offset) // stride
            count += max(0, min(outputs - 1, last) - first + 1)
        else:
            reached = (output * stride + offset for output in range(outputs))
            count += sum(at % dilate == 0 and 0 <= at // dilate < inputs for at in reached)
    return count
