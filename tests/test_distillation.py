"""Learning from a teacher: the loss by hand, weights that stay, a teacher trained first, tokenizers that differ."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_fine_tuning import FIRST, MODEL, run, source

import kleiber as kb
from kleiber.experiments.answers.study_runs import StudyRun, StudyRuns
from kleiber.experiments.answers.worth import worth_lines, worths
from kleiber.experiments.config_file import config_hash, from_data, to_data
from kleiber.experiments.configs import distillation
from kleiber.experiments.experiment import Experiment, Target
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.planning.law_columns import law_table
from kleiber.experiments.planning.varied import Factor, varied_fields
from kleiber.model.config import ModelConfig
from kleiber.model.counts import count
from kleiber.model.functional import abstract_params, apply
from kleiber.parallel.config import MeshConfig
from kleiber.scaling.table.table import read_table
from kleiber.train.config import DataConfig, EvalConfig, TeacherConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.gradients import gradients
from kleiber.train.objective.distillation import taught

WIDE = replace(FIRST, model=replace(MODEL, d_model=32, positions="rotary"))
RNG = np.random.default_rng(0)


def of(weight=1.0, temperature=1.0, **fields):
    return replace(FIRST, teacher=TeacherConfig(train=WIDE, weight=weight, temperature=temperature), **fields)


def drawn(model, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(p.dtype) / 2, abstract_params(model))


@pytest.mark.parametrize("fields", [{}, {"weight": 0.3, "temperature": 2.0}, {"weight": 0.6, "loss_blocks": 2}])
def test_the_training_loss_is_that_of_the_formula_by_hand(fields):
    config = of(**fields)
    teacher = config.teacher
    tokens = RNG.integers(0, 32, (2, config.model.seq_len + 1)).astype(np.int32)
    student, wise = drawn(config.model, 1), drawn(WIDE.model, 2)
    weights = RNG.random((2, config.model.seq_len)).astype(np.float32)
    batch = taught(teacher.shape, Batch(tokens, weights=weights), wise)

    def by_hand(params):
        heat = teacher.temperature
        said, told = (apply(m, p, tokens[:, :-1]) for m, p in ((config.model, params), (WIDE.model, wise)))
        text = -jnp.take_along_axis(jax.nn.log_softmax(said), tokens[:, 1:, None], -1)[..., 0]
        told, said = jax.nn.log_softmax(told / heat), jax.nn.log_softmax(said / heat)
        apart = jnp.sum(jnp.exp(told) * (told - said), -1)
        loss = (1 - teacher.weight) * text + teacher.weight * heat**2 * apart
        return jnp.sum(weights * loss) / weights.sum(), (jnp.sum(weights * text), jnp.sum(weights * apart))

    logged, found = jax.jit(lambda p, b: gradients(config, p, b, None))(student, batch)
    expected, (text, apart) = jax.jit(jax.grad(by_hand, has_aux=True))(student)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)
    assert logged["loss"] == pytest.approx(float(text / weights.sum()), rel=1e-4)  # of the text, whatever is learned
    assert logged["teacher_divergence"] == pytest.approx(float(apart / weights.sum()), rel=1e-4)
    halves = replace(config, accumulation_steps=2)
    _, parts = jax.jit(lambda p, b: gradients(halves, p, b, None))(student, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), parts, expected)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kleiber.train.data.run_data.open_tokens", source)
        folder = tmp_path_factory.mktemp("teacher")
        yield folder / "final" / "step_10", run(WIDE, folder)[1]


def test_a_taught_run_learns_on_any_mesh_and_holds_nothing_of_its_teacher(teacher, tmp_path):
    folder, before = teacher
    plain, _, _ = run(FIRST, tmp_path / "plain")
    alone, weights, trunk = run(of(accumulation_steps=1), tmp_path / "alone", teacher=folder)
    assert alone != plain
    assert {name: each.shape for name, each in weights.items()} == {
        f"params/{jax.tree_util.keystr(path, simple=True, separator='/')}": leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(MODEL))
    }
    kept = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf
            for p, leaf in jax.tree_util.tree_leaves_with_path(trunk.teacher)}  # fmt: skip
    for name, array in before.items():
        np.testing.assert_array_equal(kept[name.removeprefix("params/")], array)  # no step has moved it
    split, _, _ = run(of(mesh=MeshConfig(fsdp=2, tensor=2)), tmp_path / "mesh", teacher=folder)
    assert split == pytest.approx(alone, rel=1e-4)


def test_flops_of_a_taught_run_are_its_own_and_the_forward_pass_of_its_teacher():
    taught_run, plain = (
        next(iter(trunk_cells(Experiment("x", "?", (each,), laws=()), "fit"))) for each in (of(), FIRST)
    )
    tokens = FIRST.num_tokens[-1]
    own, told = count(MODEL).flops_per_token, count(WIDE.model).flops_per_token
    assert plain.planned[tokens].flops == own * tokens
    assert taught_run.planned[tokens].flops == (own + told // 3) * tokens


def test_a_teacher_is_part_of_what_a_run_is_and_names_its_factor():
    others = [of(), of(weight=0.5), replace(of(), teacher=TeacherConfig(train=replace(WIDE, seed=9)))]
    assert len({config_hash(each) for each in (FIRST, *others)}) == 4
    assert from_data(TrainConfig, to_data(others[1])) == others[1]
    (factor,) = varied_fields([FIRST, *others[:2]])
    words = f"d32-L{WIDE.model.num_layers} after {WIDE.num_tokens[-1]:,} tokens of cloud-docs"
    assert factor.name == "teacher" and factor.levels == (None, words, f"{words} weight 0.5")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": DataConfig(tokenizer="sentencepiece:32")},
         r"tokenizer 'bytes' \(32 ids\), this run by 'sentencepiece:32' \(32 ids\)"),
        ({"model": replace(MODEL, vocab_size=64)}, r"'bytes' \(32 ids\), this run by 'bytes' \(64 ids\)"),
        ({"model": replace(MODEL, family="encoder"), "objective": "masked"}, "family 'decoder', and this run one of"),
    ],
)  # fmt: skip
def test_a_teacher_of_other_tokens_is_refused_by_name(fields, words):
    with pytest.raises(ValueError, match=words):
        of(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "teacher needs either run"),
        ({"run": "nowhere/D1"}, "teacher.run nowhere/D1 is no measured point"),
        ({"train": WIDE, "weight": 0.0}, "weight is 0.0, expected 0 < weight <= 1"),
        ({"train": WIDE, "temperature": 0.0}, "temperature is 0.0, expected a positive number"),
        ({"train": WIDE, "num_tokens": 7}, "teacher.num_tokens 7 is none of those of train"),
        ({"train": replace(FIRST, teacher=TeacherConfig(train=WIDE))}, "teacher.train has a teacher to be trained"),
    ],
)  # fmt: skip
def test_teachers_that_cannot_be_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        TeacherConfig(**fields)


def test_a_planted_worth_of_a_teacher_in_tokens_comes_back_with_its_interval():
    """Losses of the law 3 D^-0.1, a taught run having that of 1.6 to 1.8 times its tokens."""
    runs = []
    for seed in (0, 1, 2):
        for tokens in (1000, 2000, 4000):
            for teacher, times in ((None, 1.0), ("wise", 1.7 + 0.1 * (seed - 1))):
                if teacher is None or tokens < 4000:
                    loss = (3 + 0.1 * seed) * (times * tokens) ** -0.1
                    record = {"num_tokens": tokens, "d_model": 8}
                    levels = {"teacher": teacher, "num_tokens": tokens}
                    runs.append(StudyRun(levels, seed, f"{teacher}-{seed}", loss, record))
    factors = [Factor(name, name, tuple(run.levels[name] for run in runs)) for name in ("teacher", "num_tokens")]
    study = StudyRuns(tuple(factors), tuple(runs), "nats per token")
    (found,) = worths(study, factors[0])
    assert [np.exp(found.by_seed[seed]) for seed in range(3)] == pytest.approx([1.6, 1.7, 1.8])
    ((line,), (basis,)) = worth_lines(study, factors[0])
    assert "teacher wise is worth 1.70 [1.47, 1.97] at d_model 8 times the tokens" in line and "without a teac" in basis


def test_an_optimizer_is_worth_tokens_at_its_own_best_rate():
    """Losses of the law 3 D^-0.1, the other optimizer's at its best rate of half the tokens, and worse at others."""
    runs, rates = [], {"AdamW": (1, 2, 3), "AdamH": (7, 8, 9)}
    for seed in (0, 1):
        for tokens in (1000, 2000, 4000):
            for name, times in (("AdamW", 1.0), ("AdamH", 2.0 + 0.1 * seed)):
                for rate in rates[name]:
                    loss = 3 * (times * tokens) ** -0.1 + 0.2 * (rate not in (2, 8))
                    levels = {"update_rule": name, "learning_rate": rate, "num_tokens": tokens}
                    runs.append(StudyRun(levels, seed, f"{name}{seed}", loss, {"num_tokens": tokens, "d_model": 8}))
    paths = {
        "update_rule": "factors.update_rule",
        "learning_rate": "optimizer.learning_rate",
        "num_tokens": "num_tokens",
    }
    factors = [Factor(name, path, tuple(run.levels[name] for run in runs)) for name, path in paths.items()]
    (found,) = worths(StudyRuns(tuple(factors), tuple(runs), "nats per token"), factors[0])
    assert [np.exp(found.by_seed[seed]) for seed in range(2)] == pytest.approx([2.0, 2.1])


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    words = ["".join(RNG.choice(list("abcdefgh"), 4)) for _ in range(300)]
    (folder / "a.txt").write_text("\n\n".join(" ".join(RNG.choice(words, 20)) for _ in range(200)))
    data, model = DataConfig(str(folder / "a.txt")), replace(MODEL, vocab_size=256)
    plain = replace(FIRST, model=model, num_tokens=(320,), data=data, evaluation=EvalConfig(1024))
    wise = replace(plain, model=replace(model, d_model=32), num_tokens=(320, 640))
    trunks = (plain, replace(plain, teacher=TeacherConfig(train=wise)))
    experiment = Experiment("swept", "what is a teacher worth?", trunks, laws=())
    ended = kb.sweep(experiment, folder / "out", workers=1, report=False, is_quiet=True, track=())
    assert ended.exit_code == 0, (folder / "out" / "log.txt").read_text()[-3000:]
    return folder, experiment


def test_a_sweep_trains_the_teacher_first_and_says_so_in_each_record(swept):
    folder, experiment = swept
    rows = {record["run_id"]: record for record in kb.results(folder / "out").records}
    assert sorted(row["split"] for row in rows.values()) == ["fit", "fit", "start", "start"]
    student = next(row for row in rows.values() if row.get("teacher_run"))
    teacher = rows[student["teacher_run"]]
    assert teacher["num_tokens"] == 640 and teacher["loss"] == student["teacher_run_loss"]
    assert teacher["num_params_total"] == student["teacher_params"]


def test_a_finished_run_teaches_until_its_weights_are_others(swept):
    folder, experiment = swept
    wise = next(path for path in (folder / "out" / "runs").glob("d32*-D640"))
    trunk = replace(experiment.trunks[0], teacher=TeacherConfig(run=str(wise), weight=0.5))
    assert trunk.teacher.shape == experiment.trunks[1].teacher.shape and trunk.teacher.tokenizer == "bytes"
    assert isinstance(trunk.teacher.model, ModelConfig) and from_data(TrainConfig, to_data(trunk)) == trunk
    assert not kb.plan(Experiment("x", "?", (trunk,), laws=()), 1).refusals
    changed = replace(trunk, teacher=replace(trunk.teacher, digest="0" * 16))
    assert config_hash(changed) != config_hash(trunk)
    (refusal,) = kb.plan(Experiment("x", "?", (changed,), laws=()), 1).refusals
    assert "teacher.run" in refusal and "other weights than this config was made for" in refusal


def test_the_law_of_distillation_is_fitted_to_the_table_of_a_sweep_as_it_stands(swept):
    folder, _ = swept
    records = kb.results(folder / "out").records
    student = next(record for record in records if record.get("teacher_run"))
    alone = next(record for record in records if record["split"] == "fit" and record is not student)
    table = law_table(read_table(folder / "out"), "distillation")
    assert table["teacher_loss"].tolist() == [student["teacher_run_loss"]]
    assert table["supervised_loss"].tolist() == [alone["loss"]] and table["loss"].tolist() == [student["loss"]]


def planted(teacher_loss, supervised_loss, size, tokens):
    """A law of distillation with alpha = beta = gamma = 1/2, c0 = 0, c1 = 1, d1 = 1 and f1 = 1, by hand."""
    gap = (200 / size**0.5 + 900 / tokens**0.5) ** 0.5
    return teacher_loss + gap * (1 + teacher_loss / supervised_loss) ** -1


def test_a_table_of_taught_and_untaught_students_gives_the_law_its_columns_row_by_row():
    rows = []
    for seed in (0, 1):
        for size in (2e4, 8e4, 3e5, 1e6):
            for tokens in (1e6, 4e6, 2e7):
                alone = 1 + 60 / size**0.5 + 300 / tokens**0.5 + 0.01 * seed
                common = {"seed": seed, "num_params_total": size, "num_tokens": tokens, "status": "done"}
                rows.append({**common, "loss": alone})
                for place, teacher in enumerate((1.2, 1.5, 1.9)):
                    loss = planted(teacher, alone, size, tokens)
                    rows.append({**common, "loss": loss, "teacher_run_loss": teacher, "factor.teacher": str(place)})
    rows.append({**rows[-1], "seed": 2})  # its student was never trained alone
    table = {name: [row.get(name) for row in rows] for name in rows[1]}
    found = kb.fit(table, law="distillation", protect="none").fits[0]
    assert found.num_points == 72 and found.residual_rms < 1e-3
    for point in range(72):
        teacher, alone, size, tokens = (
            found.points[name][point] for name in ("teacher_loss", "supervised_loss", "num_params_total", "num_tokens")
        )
        assert planted(teacher, alone, size, tokens) == pytest.approx(found.points["loss"][point])
    assert any("without" in note for note in found.notes)


def test_a_plan_asks_for_the_students_alone_and_for_no_target_where_the_law_is_of_measured_losses():
    def refusals(trunks, targets=()):
        return kb.plan(Experiment("x", "?", tuple(trunks), targets, laws=("distillation",)), 1).refusals

    teachers = [
        None,
        *(TeacherConfig(train=distillation.train(d, (tokens,), 9)) for d, tokens in ((24, 10**6), (48, 10**6))),
    ]
    trunks = [
        distillation.train(d, (10**5, 3 * 10**5, 10**6), 0, teacher) for d in (16, 24, 32) for teacher in teachers
    ]
    alone, taught_alone = trunks[::3], [trunk for trunk in trunks if trunk.teacher]
    assert not refusals(trunks)
    assert any("the same run without its teacher: plan those runs too" in each for each in refusals(taught_alone))
    assert any("give some of the trunks one (teacher=" in each for each in refusals(alone))
    target = Target("t", replace(trunks[-1], num_tokens=(4 * 10**6,)))
    assert any("leave out the targets" in each for each in refusals(trunks, (target,)))
