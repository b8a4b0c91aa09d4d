"""A whole run, slow and clear: the forward pass and the optimizer in NumPy, one row and one step at a time.

Of options with several values it knows one, and takes any other for "off": LayerNorm, learned positions, silu,
CompleteP, AdamW, WSD.
"""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.functional import apply_hidden, head, init_params
from kleiber.train.data.batches import TrainBatches

HIDDEN = ("query", "key", "value", "output", "up", "gate", "down", "router")


def slow_logits(config, params, tokens):
    """Returns the logits [T, V] of one row; params are those of scanned layers."""
    params = jax.tree.map(np.float64, params)
    width, depth = config.d_model / config.base_d_model, config.num_layers / config.base_num_layers
    is_scaled = config.parametrization == "completep"

    def norm(x, weights):
        x = x - x.mean(-1, keepdims=True) if config.norm == "layernorm" else x
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        return x * weights["gain"] + weights["bias"] if config.has_norm_gain else x

    def attention(x, weights):
        q, k, v = ((x @ weights[name]).reshape(len(x), -1, config.d_head) for name in ("query", "key", "value"))
        if config.has_qk_norm:
            q, k = (each / np.sqrt((each * each).mean(-1, keepdims=True) + 1e-6) for each in (q, k))
        base_d_head = config.base_d_model / (config.base_num_heads or config.num_heads)
        scale = base_d_head**0.5 / config.d_head if is_scaled else config.d_head**-0.5
        out = np.zeros_like(q)
        for t in range(len(x)):
            for n in range(config.num_heads):
                one = n // (config.num_heads // k.shape[1])
                weight = np.exp(scale * k[: t + 1, one] @ q[t, n])
                out[t, n] = weight @ v[: t + 1, one] / weight.sum()
        return out.reshape(len(x), -1) @ weights["output"]

    def feed_forward(x, up, gate, down):
        def activate(z):
            return z / (1 + np.exp(-z)) if config.activation == "silu" else np.maximum(z, 0) ** 2

        return (activate(x @ gate) * (x @ up) if config.is_gated else activate(x @ up)) @ down

    def mixture(x, weights):
        shared = weights["shared"]
        out = feed_forward(x, shared["up"], shared["gate"], shared["down"])
        if (experts := config.experts) is None:
            return out
        size = experts.group_size or len(x)
        capacity = math.ceil(size * experts.num_active * experts.capacity_factor / experts.num_experts)
        scores = np.exp(x @ weights["router"])
        probabilities = scores / scores.sum(-1, keepdims=True)
        order = np.argsort(-probabilities, axis=-1)[:, : experts.num_active]
        for group in range(0, len(x), size):
            places = np.zeros(experts.num_experts, int)
            for rank in range(experts.num_active):
                for t in range(group, group + size):
                    expert = order[t, rank]
                    places[expert] += 1
                    weight = probabilities[t, expert] * (places[expert] <= capacity)
                    weight /= probabilities[t, order[t]].sum() if experts.has_normalised_weights else 1
                    parts = (weights[name][expert] for name in ("up", "gate", "down"))
                    out[t] += weight * feed_forward(x[t], *parts)
        return out

    table = params["input"]["embedding"]
    x = table[tokens]
    if config.positions == "learned":
        x = x + params["input"]["positions"][: len(tokens)]
    x = x * (config.base_d_model if is_scaled else config.d_model) ** 0.5
    if config.has_previous_token_mix:
        x[1:] = x[1:] + params["input"]["mix"] * x[:-1]
    branch = 1 / depth if is_scaled else depth**-0.5
    for layer in range(config.num_layers):
        weights = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        x = x + branch * attention(norm(x, weights["attention_norm"]), weights["attention"])
        x = x + branch * mixture(norm(x, weights["feed_forward_norm"]), weights["feed_forward"])
    matrix = table.T if config.has_tied_head else params["head"]
    return norm(x, params["final_norm"]) @ matrix / (width if is_scaled else 1)


@functools.partial(jax.jit, static_argnums=0)
def _gradient(model, params, tokens, key, penalties):
    """Returns ((training loss, mean cross entropy), gradients) of rows [B, T + 1]."""

    def objective(params):
        x, routing = apply_hidden(model, params, tokens[:, :-1], None, key)
        logits = head(model, params, x)
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        loss = jnp.mean(normaliser - jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0])
        parts = jnp.stack([jnp.mean(normaliser**2), routing.balance_loss, routing.z_loss])
        return loss + penalties @ parts, loss

    return jax.value_and_grad(objective, has_aux=True)(params)


def slow_run(config, train, validation):
    """Returns (loss of each step, steps left out, validation loss) of the longest branch of a trunk.

    Args:
      config: the trunk.
      train: TokenSource of the training split.
      validation: of the validation split.
    """
    model, optimizer, guard = config.model, config.optimizer, config.guard
    total = round(config.num_tokens[-1] / (config.batch_size * model.seq_len))
    data = config.data
    order = TrainBatches(train, config.batch_size, config.seed, data.num_unique_tokens, data.max_epochs)
    left_out = {number for first, end in guard.skip_batches for number in range(first, end)}
    order = [rows for number, rows in enumerate(order.next_indices(total + len(left_out))) if number not in left_out]
    params = jax.tree.map(np.float64, init_params(model, config.seed))
    names = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    leaves, tree = jax.tree.flatten(params)
    first, second, count = [0.0] * len(leaves), [0.0] * len(leaves), 0
    losses, skipped = [], []
    for step in range(total):
        grads, loss = _accumulated(config, jax.tree.unflatten(tree, leaves), train.windows(order[step]), step)
        accepted = [each for each, is_out in zip(losses, skipped, strict=True) if not is_out]
        last = np.array(accepted[-guard.spike_window :])
        losses.append(loss)
        limit = np.inf
        if guard.spike_sigmas is not None and len(last) >= guard.spike_window // 2:
            limit = last.mean() + guard.spike_sigmas * last.std()
        skipped.append(loss > limit)
        if skipped[-1]:
            continue
        count += 1
        norm = math.sqrt(sum((g * g).sum() for g in grads))
        clip = 1.0 if optimizer.clip_norm is None else min(1.0, optimizer.clip_norm / norm)
        rate = optimizer.learning_rate * _fraction(config.schedule, step, total)
        for i, (name, grad) in enumerate(zip(names, grads, strict=True)):
            first[i] = optimizer.beta1 * first[i] + (1 - optimizer.beta1) * clip * grad
            second[i] = optimizer.beta2 * second[i] + (1 - optimizer.beta2) * (clip * grad) ** 2
            multiplier, epsilon = _completep(model, name)
            mean, square = first[i] / (1 - optimizer.beta1**count), second[i] / (1 - optimizer.beta2**count)
            change = multiplier * mean / (np.sqrt(square) + epsilon * optimizer.epsilon)
            decay = optimizer.weight_decay if name in (*HIDDEN, "head") else 0.0
            leaves[i] = leaves[i] - rate * (change + decay * leaves[i])
    windows = max(1, config.evaluation.num_tokens // model.seq_len)
    rows = validation.windows(np.arange(windows) * validation.num_sequences // windows)
    params = jax.tree.unflatten(tree, leaves)
    return losses, skipped, float(np.mean([_cross_entropies(model, params, row) for row in rows]))


def _cross_entropies(model, params, row):
    """Returns the cross entropy of each target of a row [T + 1]."""
    logits = slow_logits(model, params, row[:-1])
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(row) - 1), row[1:]]


def _accumulated(config, params, rows, step):
    """Returns (list of gradients, mean cross entropy) of one step, in its micro-batches."""
    model, parts = config.model, config.accumulation_steps or 1
    experts = model.experts
    penalties = jnp.array([config.z_loss, experts.balance_loss, experts.router_z_loss])
    model = replace(model, experts=replace(experts, balance_loss=0.0, router_z_loss=0.0))  # compiled once for all
    key, grads, losses = jax.random.fold_in(jax.random.key(config.seed), step), [], []
    for part in range(parts):
        own = jax.random.fold_in(key, part) if parts > 1 else key
        weights = jax.tree.map(np.float32, params)
        (_, loss), grad = _gradient(model, weights, rows[part::parts], own, penalties)
        losses.append(float(loss))
        grads.append([np.float64(leaf) for leaf in jax.tree.leaves(grad)])
    return [sum(each) / parts for each in zip(*grads, strict=True)], float(np.mean(losses))


def _fraction(schedule, step, total):
    """The learning rate of a step: warm-up, plateau, and a cooldown whose next step would be zero."""
    start = total - round(schedule.cooldown_fraction * total)
    progress = max(0, step - start + 1) / (total - start + 1)
    decay = progress if schedule.cooldown_shape == "linear" else math.sqrt(progress)
    return min(1.0, (step + 1) / schedule.warmup_steps) * (1 - decay)


def _completep(model, name):
    """(factor on the learning rate, factor on epsilon) of a weight: Dey et al. 2025, table 1."""
    width, depth = model.d_model / model.base_d_model, model.num_layers / model.base_num_layers
    if name in HIDDEN:
        return 1 / width, 1 / width / depth
    return 1.0, 1 / width if name in ("embedding", "positions", "head") else 1.0
