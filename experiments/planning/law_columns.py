"""The columns that laws need beyond size and tokens: filled from the config, and checked before anything is spent."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kleiber.experiments.directory.record import RunRecord
from kleiber.experiments.experiment import Experiment
from kleiber.model.counts import num_params_decoder, num_params_encoder
from kleiber.train.config import TrainConfig

BITS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0}
COUNTS_ACTIVE = ("experts", "routed")
"""Laws whose parameters are those a token passes."""
CALLED = {
    "finetune_tokens": "num_unique_tokens",
    "tokens_per_param": "tokens_per_parameter",
    "teacher_loss": "teacher_run_loss",
}
"""A law's variable -> the column of the records that holds it."""
UNTAUGHT = "supervised_loss"
"""The variable that is the loss of another run: of the same student without its teacher."""
ALIKE = (
    *("seed", "family", "d_model", "num_layers", "num_params_total", "num_tokens", "batch_size", "seq_len"),
    *("vocab_size", "optimizer", "learning_rate", "weight_decay", "schedule", "corpus", "tokenizer", "dtype"),
    "start_run",
)
"""Columns that the same student has in common with and without a teacher, and every factor but the teacher."""


def _granularity(config: TrainConfig) -> float:
    usual = replace(config.model, d_ff=None).feed_forward_width
    return usual / config.model.feed_forward_width if config.model.experts else 1.0


def _weight_bits(config: TrainConfig) -> float:
    computed = 8.0 if config.model.has_float8_products else BITS[config.model.compute_dtype]
    return min(computed, float(config.model.compression.weight_bits))


FILLED: dict[str, Callable[[TrainConfig], float]] = {
    "num_experts_effective": lambda c: float(c.model.experts.num_experts) if c.model.experts else 1.0,
    "granularity": _granularity,
    "weight_bits": _weight_bits,
    "sparsity": lambda c: c.model.compression.sparsity,
    "num_replicas": lambda c: float(c.delayed_sync.num_replicas) if c.delayed_sync else 1.0,
    "num_params_encoder": lambda c: float(num_params_encoder(c.model)) if c.model.encoder else 0.0,
    "num_params_decoder": lambda c: float(num_params_decoder(c.model)) if c.model.encoder else 0.0,
    "num_params_embedding": lambda c: float(c.model.vocab_size * c.model.d_model),
}
"""A law's variable -> its value for a trunk; the experiment's own factor of that name goes before it."""


def laws_variables(experiment: Experiment) -> tuple[str, ...]:
    """Returns the variables of the experiment's laws, each once."""
    if not experiment.laws:
        return ()
    from kleiber.scaling.laws import get_law  # only an experiment with laws needs the room of laws

    return tuple(dict.fromkeys(name for law in experiment.laws for name in get_law(law).variable_names))


def filled_columns(variables: Sequence[str], config: TrainConfig) -> tuple[tuple[str, float | str], ...]:
    """Returns (column, value) of a trunk for every one of these variables that its config tells."""
    own = {name for name, _ in config.factors}
    return tuple((name, FILLED[name](config)) for name in variables if name in FILLED and name not in own)


def law_table(table: Any, law: str) -> Any:
    """Returns a RunTable with the law's variables under their names, and parameters that a token passes where it
    counts those."""
    from kleiber.scaling.laws import get_law

    columns = dict(table.columns)
    if law in COUNTS_ACTIVE and "num_params_active" in columns:
        columns["num_params_total"] = columns["num_params_active"]
    return named_for_laws(replace(table, columns=columns), get_law(law).variable_names)


def named_for_laws(table: Any, variables: Sequence[str]) -> Any:
    """Returns a RunTable of records with these variables of laws under their names, where another column, or another
    row, holds them; a law of teachers is left the taught runs whose student was trained without one too."""
    lost = [name for name in CALLED if name in variables and name not in table and CALLED[name] in table.columns]
    table = replace(table, columns={**table.columns, **{name: table.columns[CALLED[name]] for name in lost}})
    if UNTAUGHT not in variables or UNTAUGHT in table or "teacher_run_loss" not in table.columns:
        return table
    shared = [name for name in table.names if name in ALIKE or name.startswith("factor.")]
    shared = [name for name in shared if not name.startswith("factor.teacher")]
    students = list(zip(*(table.label(name).tolist() for name in shared), strict=True))
    is_taught, loss = np.isfinite(table["teacher_run_loss"]), table["loss"]
    alone = {students[row]: loss[row] for row in np.flatnonzero(~is_taught & np.isfinite(loss))}
    untaught = np.array([alone.get(student, np.nan) for student in students])
    rows = is_taught & np.isfinite(untaught)
    if not rows.any():
        return table
    found = replace(table, columns={**table.columns, UNTAUGHT: untaught})
    note = f"{int((~rows).sum())} rows left out that are not of a student with a teacher, trained without one too"
    return found.where(rows, note)


def further_columns(law: str, record: RunRecord) -> dict[str, float]:
    """Returns what a forecast by the law needs of a planned run besides size and tokens."""
    from kleiber.scaling.laws import get_law

    row = record.to_json() | {"tokens_per_param": record.tokens_per_parameter}
    names = set(get_law(law).variable_names) - {"num_params_total", "num_tokens"}
    return {name: float(row[name]) for name in names if row.get(name) is not None}


def law_problems(experiment: Experiment, points: Sequence[RunRecord], configs: Sequence[TrainConfig]) -> list[str]:
    """Returns why a law of the experiment could not be fitted to its points, each with what to do.

    They are the checks that the fit itself makes of a table, made with losses that stand in for those to come.
    """
    from kleiber.experiments.directory.record import record_columns
    from kleiber.scaling.fitting.scaled_law import make_scaled_law
    from kleiber.scaling.laws import get_law
    from kleiber.scaling.table.checks import check_design, usable_rows
    from kleiber.scaling.table.table import read_table

    stand_in = [replace(p, **_foreseen(p, config), status="done") for p, config in zip(points, configs, strict=True)]
    teachers = sorted({p.teacher_run for p in points if p.teacher_run})
    for place, name in enumerate(teachers):  # each has a loss of its own
        stand_in = [replace(p, teacher_run_loss=2.5 + 0.01 * place) if p.teacher_run == name else p for p in stand_in]
    columns = record_columns(stand_in)
    columns["loss"] = (3.0 - 0.01 * np.arange(len(points)) / len(points)).tolist()
    problems = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = read_table(columns)
        for each in experiment.laws:
            law = get_law(each)
            if law.quantity != "loss":
                problems.append(f"law {each} is of the {law.quantity}, not of losses: `kleiber fit` fits it to a table")
                continue
            lost = [name for name in law.variable_names if name not in law_table(table, each)]
            if lost:
                problems.append(f"law {each} needs {', '.join(lost)}, {_advice(lost[0], table)}")
                continue
            try:
                free = [v.name for v in law.variables if v.may_be_zero]
                rows = usable_rows(law_table(table, each), law.variable_names, free)
                scaled = make_scaled_law(law, {name: rows[name] for name in law.variable_names})
                check_design(rows, [v.name for v in law.variables if not v.setting], len(scaled.free))
            except ValueError as problem:
                problems.append(f"law {each}: {str(problem).removeprefix('memory: ')}")
            if each in COUNTS_ACTIVE and experiment.targets:
                problems.append(f"law {each} counts active parameters and registers no forecast: leave out the targets")
            own = [{name for name, _ in target.train.factors} for target in experiment.targets]
            if UNTAUGHT in law.variable_names and not all({UNTAUGHT, "teacher_loss"} <= names for names in own):
                problems.append(f"law {each} is of losses that are measured, and forecasts none: leave out the targets")
    return problems


def _advice(lost: str, table: Any) -> str:
    """Returns what to do about a law's variable that the planned runs lack."""
    if lost == UNTAUGHT and "teacher_run_loss" in table:
        return "the loss of the same run without its teacher: plan those runs too, with the seeds of the taught ones"
    if lost in ("teacher_loss", UNTAUGHT):
        return "which runs with a teacher have: give some of the trunks one (teacher=TeacherConfig(...))"
    return (
        f'which no config tells: give each trunk the level as a factor, factors=(("{lost}", VALUE),), or choose '
        f"another law (kleiber laws)"
    )


def _foreseen(point: RunRecord, config: TrainConfig) -> dict[str, Any]:
    """Returns the measured columns that laws use, as they will be."""
    data, length = config.data, config.model.seq_len
    unique = data.num_unique_tokens // length * length if data.num_unique_tokens else point.num_tokens
    return {"num_unique_tokens": min(unique, point.num_tokens), "epochs": point.num_tokens / max(1, unique)}
