"""Peaks of data sheets, to state the MFU that others state: dense, without sparsity, by the kind that JAX names.

A peak that is twice too small doubles every MFU, and the marketing figure of a data sheet counts zeros (sparsity): the
table has a test. Forms of one chip differ (a PCIe card runs slower than an SXM module), so the longest match counts.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

GPU_BFLOAT16_PEAKS: dict[str, float] = {
    "A100": 312e12,
    "A10": 125e12,
    "L4": 121e12,
    "L40S": 362e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "GH200": 989e12,
    "B200": 2250e12,
}
"""Dense bfloat16 FLOP/s by words of the device kind. Source: NVIDIA's data sheets, where most figures are printed with
sparsity and are halved here."""


def bfloat16_peak(device: "jax.Device") -> float | None:
    """Returns the dense bfloat16 FLOP/s of one JAX device by its data sheet, or None for one that is not known."""
    words = device.device_kind.replace("-", " ").split()
    matches = [name for name in GPU_BFLOAT16_PEAKS if _contains(words, name.split())]
    if matches:
        return GPU_BFLOAT16_PEAKS[max(matches, key=len)]
    from kleiber.experiments.compilation.topology import CHIPS, chip_of

    chip = chip_of(device)
    return chip.peak_flops / chip.devices_per_chip if chip and chip.name in CHIPS else None


def _contains(words: list[str], wanted: list[str]) -> bool:
    """Returns whether the wanted words stand in words one after another: L40S is no L4."""
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))
