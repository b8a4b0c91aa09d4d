"""Families are rows of a table, looked up by the name in the config."""

import dataclasses
import typing

import jax
import numpy as np
import pytest
from flax import nnx

from kleiber.experiments.config_file import config_hash
from kleiber.model.config import Family, ModelConfig
from kleiber.model.counts import count
from kleiber.model.encoder import EncoderConfig
from kleiber.model.families.decoder import Transformer
from kleiber.model.families.table import FAMILIES, ModelFamily
from kleiber.model.functional import abstract_params, apply, init_params, logical_axes
from kleiber.model.image import ImageConfig

IMAGE = ImageConfig(num_stages=1)
CONFIG = ModelConfig(d_model=16, num_layers=1, num_heads=2, vocab_size=12, seq_len=8)


class Shifted(nnx.Module):
    """A family of one weight: logits are its rows, whatever the hidden state."""

    def __init__(self, config, rngs):
        self.table = nnx.Param(
            jax.numpy.ones((2, config.vocab_size)), logical_axes=(None, "vocab"), init_mean=3.0, init_std=0.0
        )

    def hidden(self, tokens_BT, segment_ids_BT=None, *, is_training=False, rngs=None):
        return self.table[...][tokens_BT % 2], None

    def logits(self, x_BTD):
        return x_BTD


def test_another_row_is_another_model_with_its_own_weights(monkeypatch):
    monkeypatch.setitem(FAMILIES, "shifted", ModelFamily(lambda: Shifted, count))
    config = dataclasses.replace(CONFIG)
    object.__setattr__(config, "family", "shifted")
    params = init_params(config, 0)
    np.testing.assert_array_equal(params["table"], np.full((2, 12), 3.0))
    assert logical_axes(config) == {"table": (None, "vocab")} and abstract_params(config)["table"].shape == (2, 12)
    params["table"][1] = 5.0
    np.testing.assert_array_equal(apply(config, params, np.array([[0, 1]]))[0, :, 0], [3.0, 5.0])


def test_the_names_in_the_config_are_the_rows_of_the_table():
    assert tuple(FAMILIES) == typing.get_args(Family) and FAMILIES["decoder"].module() is Transformer


def test_the_parameters_a_family_counts_are_those_it_has():
    for name, family in FAMILIES.items():
        of_images = {"image": IMAGE, "num_heads": 4, "seq_len": 1}
        own = {"decoder": {}, "encoder": {}, "encoder_decoder": {"encoder": EncoderConfig()}}.get(name, of_images)
        config = dataclasses.replace(CONFIG, family=name, **own)
        sizes = [leaf.size for leaf in jax.tree.leaves(abstract_params(config))]
        assert family.counts(config).num_params_total == sum(sizes)


def test_an_unknown_family_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="family is 'decodre'.*did you mean 'decoder'"):
        dataclasses.replace(CONFIG, family="decodre")


def test_the_family_of_before_there_were_families_leaves_the_hash_of_a_shape_as_it_was():
    assert config_hash(CONFIG) == "f9f01985c171"
