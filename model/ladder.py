"""Families of shapes: one dial, width or depth, gives the whole shape; a ladder is several of one family.

Needs no jax.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from kleiber.model.config import ModelConfig
from kleiber.model.counts import num_params_total

Family = Callable[..., ModelConfig]


def shape_of_width(d_model: int, **overrides: Any) -> ModelConfig:
    """Returns the shape of the width family: two layers, four heads at every width, previous-token mix; overrides are
    fields of ModelConfig.

    The number of heads is constant because a head size floor would give the smallest widths fewer heads and put them
    above the law; the mix spares the first layer from learning to look one token back. Widths are multiples of 8."""
    chosen: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "has_previous_token_mix": True} | overrides
    return _config(d_model=d_model, **chosen)


def shape_of_depth(num_layers: int, **overrides: Any) -> ModelConfig:
    """Returns the shape of the depth family: d_model = 64 * num_layers, heads of 64, untied head, CompleteP; overrides
    are fields of ModelConfig.

    The ratio of width to depth is constant, near the flat optimum that Kaplan et al. 2020 (figure 5) found. The base
    shape of the learning rate is four layers of 256."""
    chosen: dict[str, Any] = {
        "d_model": 64 * num_layers,
        "num_heads": num_layers,
        "has_tied_head": False,
        "parametrization": "completep",
        "base_d_model": 256,
        "base_num_layers": 4,
        "base_num_heads": 4,
    }
    return _config(num_layers=num_layers, **(chosen | overrides))


def _config(**fields: Any) -> ModelConfig:
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    for name in fields:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"unknown field '{name}'" + (f"; did you mean '{near[0]}'?" if near else f" of {known}."))
    return ModelConfig(**fields)


def ladder(dials: Sequence[int], family: Family = shape_of_width, **overrides: Any) -> tuple[ModelConfig, ...]:
    """Returns the shapes of a family at the given dials (widths or depths), in increasing order of parameters;
    overrides are fields of ModelConfig. Raises ValueError if a dial occurs twice or there is none."""
    if not dials or len(set(dials)) != len(dials):
        raise ValueError(f"dials are {list(dials)}, expected one or more different ones.")
    return tuple(sorted((family(dial, **overrides) for dial in dials), key=num_params_total))
