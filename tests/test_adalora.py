"""AdaLoRA: what its penalty is, which singular values stay, and that training keeps to the budget."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_fine_tuning import (  # noqa: F401  fixtures
    FIRST,
    no_corpus,
    run,
    start,
    tuned,
)

from kleiber.model.adapter import AdapterConfig
from kleiber.model.adapters.orthogonality import orthogonality
from kleiber.train.data.batch import Batch
from kleiber.train.gradients import gradients
from kleiber.train.update.budget import num_left, sensitivity, within_budget

ADAPTER = AdapterConfig("adalora", rank=4, alpha=4.0, target_rank=1.5, budget_steps=(2, 8), targets=("query", "up"))
CONFIG = tuned(adapter=ADAPTER)
DRAW = np.random.default_rng(0)


def drawn(*shape):
    return DRAW.standard_normal(shape).astype(np.float32)


def beside(rank=4):
    return {"left_vectors": drawn(6, rank), "singular_values": drawn(rank), "right_vectors": drawn(rank, 5)}


def test_the_penalty_is_the_squared_distance_of_both_products_from_the_identity():
    params = {"a": {"base": None, **beside()}, "b": {"c": beside()}}
    expected = 0.0
    for each in (params["a"], params["b"]["c"]):
        for square in (each["left_vectors"].T @ each["left_vectors"], each["right_vectors"] @ each["right_vectors"].T):
            expected += ((square - np.eye(4)) ** 2).sum()
    assert float(orthogonality(params)) == pytest.approx(expected, rel=1e-5)
    stacked = jax.tree.map(lambda x, y: np.stack([x, y]), beside(), beside())
    apart = sum(float(orthogonality(jax.tree.map(lambda x, n=n: x[n], stacked))) for n in range(2))
    assert float(orthogonality(stacked)) == pytest.approx(apart, rel=1e-5)
    whole = np.linalg.qr(drawn(6, 4))[0]
    assert float(orthogonality({"left_vectors": whole, "singular_values": drawn(4), "right_vectors": whole.T})) < 1e-9


def test_the_gradient_of_a_step_has_that_of_the_penalty_whatever_the_micro_batches():
    from kleiber.model.functional import init_params

    params = jax.tree.map(lambda p: np.float32(p + 0.1 * drawn(*p.shape)), init_params(CONFIG.model, 0))
    batch = Batch(DRAW.integers(0, 32, (4, 9)).astype(np.int32))
    free = replace(CONFIG, model=replace(CONFIG.model, adapter=replace(ADAPTER, orthogonality=0.0)))

    def of(config, parts):
        config = replace(config, accumulation_steps=parts)
        return jax.jit(lambda p, b: gradients(config, p, b, None))(params, batch)

    for parts in (1, 2):
        (logged, grads), (plain, without) = of(CONFIG, parts), of(free, parts)
        assert float(logged["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-6), (
            "it is no part of the reported loss"
        )
        assert logged["orthogonality"] > 0 and "orthogonality" not in plain
        p = params["blocks"]["00"]["attention"]["query"]["left_vectors"]
        places = (grads, without)
        found = np.subtract(*(tree["blocks"]["00"]["attention"]["query"]["left_vectors"] for tree in places))
        np.testing.assert_allclose(found, 0.1 * 4 * p @ (p.T @ p - np.eye(4)), rtol=1e-3, atol=1e-4)


def test_the_mean_rank_falls_by_a_cubic_between_its_two_steps():
    adapter = AdapterConfig("adalora", rank=8, target_rank=2, budget_steps=(10, 30))
    # 40 values are 5 matrices: 8 each, then 2 + 6 (1 - x)^3, half way 2 + 6 / 8 = 2.75, and 2 from the last step on.
    steps = {0: 40, 10: 40, 20: 14, 25: 11, 30: 10, 1000: 10}
    assert {step: int(num_left(adapter, jnp.int32(step), 40)) for step in steps} == steps


def test_the_least_important_values_are_set_to_zero_as_worked_out_slowly():
    params = {"a": {"base": None, **beside()}, "b": {"c": {"base": None, **beside()}}}
    transform = sensitivity()
    state, slow = transform.init(params), {}
    for step in range(1, 7):
        grads = jax.tree.map(lambda p: drawn(*p.shape), params)
        passed, state = transform.update(grads, state, params)
        assert passed is grads
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        before = jax.tree.map(lambda p, g: p + 0.1 * g, params, grads)
        scores = []
        for name, tree, slopes in (("a", before["a"], grads["a"]), ("c", before["b"]["c"], grads["b"]["c"])):
            means = {}
            for each in ("left_vectors", "singular_values", "right_vectors"):
                now = np.abs(tree[each] * slopes[each])
                mean, change = slow.get((name, each), (0.0, 0.0))
                mean = 0.85 * mean + 0.15 * now
                change = 0.85 * change + 0.15 * np.abs(now - mean)
                slow[name, each] = mean, change
                means[each] = mean * change
            for rank in range(4):
                columns = means["left_vectors"][:, rank].mean() + means["right_vectors"][rank].mean()
                scores.append((means["singular_values"][rank] + columns, name, rank))
        left = int(np.ceil((1.5 + 2.5 * (1 - np.clip((step - 2) / 6, 0, 1)) ** 3) / 4 * 8 - 1e-3))
        params = within_budget(ADAPTER, params, state)
        kept = {(name, rank) for _, name, rank in sorted(scores, reverse=True)[:left]}
        for name, tree in (("a", params["a"]), ("c", params["b"]["c"])):
            assert {(name, rank) for rank in range(4) if tree["singular_values"][rank]} == {
                k for k in kept if k[0] == name
            }
    assert left == 4


def test_a_run_ends_with_the_ranks_of_its_budget_and_the_log_tells_the_penalty(start, tmp_path):  # noqa: F811
    _, weights, trunk = run(CONFIG, tmp_path, start[1])
    left = sum(int((array != 0).sum()) for name, array in weights.items() if name.endswith("singular_values"))
    assert left == 6  # a mean of 1.5 over two matrices of two layers, of 16
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert all('"orthogonality"' in row for row in rows) and FIRST.num_tokens == trunk.config.num_tokens


@pytest.mark.parametrize("mesh", [{"fsdp": 2}, {"tensor": 2}], ids=str)
def test_a_mesh_leaves_the_same_ranks(mesh, start, tmp_path):  # noqa: F811
    from kleiber.parallel.config import MeshConfig

    loss, alone, _ = run(replace(CONFIG, accumulation_steps=1), tmp_path / "one", start[1])
    again, found, _ = run(replace(CONFIG, accumulation_steps=1, mesh=MeshConfig(**mesh)), tmp_path / "mesh", start[1])
    assert again == pytest.approx(loss, abs=1e-5)
    for name, array in alone.items():
        if name.endswith("singular_values"):
            np.testing.assert_array_equal(found[name] != 0, array != 0)
