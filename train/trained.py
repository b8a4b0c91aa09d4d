"""Which weights of a trunk move: their tree apart from those that stay, their number, and what the steps then cost."""

from typing import Any

from kleiber.model.counts import (
    flops_per_token,
    matmul_flops_per_token,
    multiplied_in_layers,
    num_params_adapter,
    num_params_head,
    num_params_layers,
    num_params_total,
)
from kleiber.train.config import TrainConfig


def trained_paths(config: TrainConfig) -> frozenset[str]:
    """Returns the paths of the weights that move. Raises ValueError: a word of config.trainable means none."""
    from kleiber.model.selection import select  # a plan in which all move needs no jax

    if config.model.adapter is None:
        return select(config.model, config.trainable)
    words = " ".join(["adapter", *(word for word in config.trainable.split() if word != "all")])
    return select(config.model, words)


def moves_all(config: TrainConfig) -> bool:
    """Returns whether no weight stays as it is."""
    return config.trainable == "all" and config.model.adapter is None


def separate(config: TrainConfig, params: Any) -> tuple[Any, Any]:
    """Returns (the weights that move, those that stay): trees like params with None in place of the others."""
    import jax

    if moves_all(config):
        return params, jax.tree.map(lambda leaf: None, params)
    paths = trained_paths(config)

    def kept(is_moving: bool) -> Any:
        def of_leaf(path: Any, leaf: Any) -> Any:
            return leaf if (jax.tree_util.keystr(path, simple=True, separator="/") in paths) == is_moving else None

        return jax.tree_util.tree_map_with_path(of_leaf, params)

    return kept(True), kept(False)


def join(moving: Any, staying: Any) -> Any:
    """Returns the tree of which separate gave these two parts."""
    import jax

    return jax.tree.map(lambda a, b: b if a is None else a, moving, staying, is_leaf=lambda leaf: leaf is None)


def num_params_trained(config: TrainConfig) -> int:
    """Returns how many numbers of the tree of weights move."""
    if moves_all(config):
        return num_params_total(config.model)
    from kleiber.model.selection import weight_sizes

    sizes = weight_sizes(config.model)
    return sum(sizes[path] for path in trained_paths(config))


def trained_flops_per_token(config: TrainConfig) -> int:
    """Returns counted training FLOPs per token: flops_per_token less the gradients that nobody asks for.

    A matrix that stays needs no gradient of its own, 2 a parameter; and below the lowest thing that moves nothing flows
    back, 2 a parameter and two thirds of attention. So a head alone costs a little over a third, and LoRA two thirds.
    A teacher costs its forward pass, a third of training it; the penalty of AdaLoRA 6 (D + F) rank^2 a matrix and step.
    """
    model = config.model
    whole = flops_per_token(model)
    told = flops_per_token(config.teacher.shape) // 3 if config.teacher else 0
    if moves_all(config):
        return whole + told
    from kleiber.model.adapters.adapted import VALUES
    from kleiber.model.selection import weight_sizes

    sizes, paths = weight_sizes(model), frozenset(p for p in trained_paths(config) if not p.endswith(f"/{VALUES}"))
    is_moving_head = ("input/embedding" if model.has_tied_head else "head") in paths
    head, layers = num_params_head(model), multiplied_in_layers(model)
    in_layers = sum(sizes[path] for path in paths if path.startswith("blocks/"))
    in_layers = min(in_layers * layers // num_params_layers(model, is_active=True), layers)  # as often as it is used
    attention = whole - matmul_flops_per_token(model)
    share = _share_flowed_through(config, paths)  # of the layers
    forward = 2 * (layers + head) + attention // 3
    back = 2 * round(share * layers) + round(share * attention * 2 / 3) + (2 * head if share else 0)
    return told + forward + back + 2 * (in_layers + is_moving_head * head) + _penalty_flops(config)


def _penalty_flops(config: TrainConfig) -> int:
    """Returns what each token bears of the products of singular vectors with each other, once a step."""
    model, adapter = config.model, config.model.adapter
    if adapter is None or adapter.kind != "adalora" or not adapter.orthogonality:
        return 0
    return round(6 * adapter.rank * model.num_layers * num_params_adapter(model) / config.tokens_per_step)


def _share_flowed_through(config: TrainConfig, paths: frozenset[str]) -> float:
    """Returns the share of the layers through which gradients flow back, to the lowest weight that moves."""
    count = config.model.num_layers
    if any(path.startswith("input/") for path in paths):
        return 1.0
    layers = [path.split("/")[1] for path in paths if path.startswith("blocks/")]
    if config.model.has_scanned_layers:
        return 1.0 if layers else 0.0
    return (count - min(map(int, layers))) / count if layers else 0.0
