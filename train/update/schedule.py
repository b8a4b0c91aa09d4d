"""Learning rate over the steps. Computed on the host in NumPy, so one compiled program serves every length."""

import numpy as np

from kleiber.train.config import ScheduleConfig


def cooldown_start(schedule: ScheduleConfig, total_steps: int) -> int:
    """Returns the step at which a run of total_steps starts to cool down (total_steps if it never does)."""
    if schedule.kind != "wsd":
        return total_steps
    return total_steps - max(1, round(schedule.cooldown_fraction * total_steps))


def learning_rate_fraction(schedule: ScheduleConfig, steps: np.ndarray, total_steps: int) -> np.ndarray:
    """Returns the learning rate of steps [K], counted from 0, of a run (for wsd, a branch) of total_steps as a fraction
    of its peak, float32 [K]. Step s of the warm-up gets (s + 1) / warmup_steps, so no step has rate zero.

    Source: 1-sqrt cooldown, Hägele et al. 2024, arXiv:2405.18392; cosine to zero, Loshchilov & Hutter 2017."""
    steps = np.asarray(steps, np.float64)
    warmup = np.minimum(1.0, (steps + 1) / max(1, schedule.warmup_steps))
    if schedule.kind == "constant":
        return warmup.astype(np.float32)
    if schedule.kind == "cosine":
        progress = np.clip((steps - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps), 0.0, 1.0)
        return (warmup * 0.5 * (1.0 + np.cos(np.pi * progress))).astype(np.float32)
    start = cooldown_start(schedule, total_steps)
    # The first cooldown step is already below the plateau; the step after the last would have rate zero.
    progress = np.clip((steps - start + 1) / (total_steps - start + 1), 0.0, 1.0)
    decay = 1.0 - (np.sqrt(progress) if schedule.cooldown_shape == "1-sqrt" else progress)
    return (warmup * decay).astype(np.float32)
