"""Meshes and the table from logical axes to mesh axes: strict, and a sharded model gives the plain numbers."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from kleiber.model.config import ModelConfig
from kleiber.model.functional import abstract_params, apply, init_params, init_params_on_device, logical_axes
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh
from kleiber.parallel.rules import partition_spec, sharding

CONFIG = ModelConfig(d_model=16, num_layers=2, num_heads=4, vocab_size=12, seq_len=8, parametrization="standard")


def shardings_of(mesh, config):
    return jax.tree.map(lambda p, axes: sharding(mesh, axes, p.shape), abstract_params(config), logical_axes(config))


def test_a_mesh_has_the_configs_sizes_and_auto_axes():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    sizes = {"replica": 1, "stage": 1, "data": 2, "fsdp": 2, "expert": 1, "context": 1, "tensor": 2}
    assert dict(mesh.shape) == sizes and list(mesh.shape) == list(sizes)
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert make_mesh(MeshConfig(tensor=2), jax.devices()[4:]).devices.ravel()[0] == jax.devices()[4]


@pytest.mark.parametrize("sizes", [{"data": 16}, {"data": 0}, {"tensor": -1}])
def test_impossible_meshes_are_refused(sizes):
    with pytest.raises(ValueError, match=r"needs 16 devices, there are 8|expected at least 1"):
        make_mesh(MeshConfig(**sizes))


def test_a_misspelt_logical_axis_is_named_with_its_neighbour():
    with pytest.raises(ValueError, match=r"w dimension 1 has unknown logical axis 'mpl'; did you mean 'mlp'"):
        partition_spec(("embed", "mpl"), name="w")


def test_two_dimensions_on_one_mesh_axis_are_refused():
    with pytest.raises(ValueError, match="dimensions 0 and 1 both map to mesh axis 'tensor'"):
        partition_spec(("heads", "mlp"))


def test_a_size_that_does_not_divide_is_refused_with_array_dimension_size_and_axis():
    mesh = make_mesh(MeshConfig(tensor=8))
    with pytest.raises(ValueError, match=r"blocks/up dimension 1 \('mlp'\) has size 12.*'tensor' of 8"):
        sharding(mesh, ("embed", "mlp"), (16, 12), name="blocks/up")


def test_a_rank_that_differs_is_refused():
    with pytest.raises(ValueError, match="one name a dimension"):
        sharding(make_mesh(MeshConfig()), ("embed",), (4, 4))


@pytest.mark.parametrize(
    ("sizes", "is_scanned"),
    [
        ({"data": 8}, False),
        ({"fsdp": 4}, True),
        ({"tensor": 4}, False),
        ({"data": 2, "fsdp": 2, "tensor": 2}, False),
        ({"data": 2, "fsdp": 2, "tensor": 2}, True),
    ],
)
def test_a_sharded_model_gives_the_logits_of_the_plain_one(sizes, is_scanned):
    config = dataclasses.replace(CONFIG, has_scanned_layers=is_scanned)
    mesh = make_mesh(MeshConfig(**sizes))
    shardings = shardings_of(mesh, config)
    params = init_params(config, 0)
    tokens = np.random.default_rng(0).integers(0, 12, (8, 8), dtype=np.int32)
    sharded_tokens = jax.device_put(tokens, sharding(mesh, ("batch", "seq"), tokens.shape))
    jitted = jax.jit(apply, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
    with jax.set_mesh(mesh):
        logits = jitted(config, jax.device_put(params, shardings), sharded_tokens)
    np.testing.assert_allclose(logits, jitted(config, params, tokens), atol=1e-5)


def test_weights_are_drawn_in_parts_on_their_devices():
    mesh, config = make_mesh(MeshConfig(fsdp=2, tensor=4)), dataclasses.replace(CONFIG, num_layers=1)
    shardings = shardings_of(mesh, config)
    with jax.set_mesh(mesh):
        params = jax.jit(lambda key: init_params_on_device(config, key), out_shardings=shardings)(jax.random.key(0))
    up = params["blocks"]["00"]["feed_forward"]["up"]
    assert up.sharding.spec == PartitionSpec("fsdp", "tensor")
    assert up.addressable_shards[0].data.shape == (8, 16)
