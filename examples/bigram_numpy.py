"""A training program that knows nothing of kleiber and needs only numpy: a bigram model of two thin layers.

It trains by stochastic gradient descent on a text made of a random Markov chain, prints as it goes, and leaves a table
of its validation losses:  python bigram_numpy.py --width 8 --tokens 40000 --seed 0 --out out/here
"""

import argparse
import csv
from pathlib import Path

import numpy as np

SYMBOLS, BATCH, EVALUATIONS = 32, 256, 8


def text(num_tokens, seed):
    """Returns token ids of one fixed Markov chain, drawn by a seed."""
    chain = np.random.default_rng(0).dirichlet(np.full(SYMBOLS, 0.3), SYMBOLS).cumsum(1)
    draws, ids = np.random.default_rng(seed).random(num_tokens), np.zeros(num_tokens + 1, int)
    for i, draw in enumerate(draws):
        ids[i + 1] = min(np.searchsorted(chain[ids[i]], draw), SYMBOLS - 1)
    return ids


def loss_and_probabilities(weights, ids):
    """Returns the mean cross-entropy in nats, and the probabilities [T, V]."""
    logits = weights["in"][ids[:-1]] @ weights["out"]
    logits -= logits.max(1, keepdims=True)
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(1, keepdims=True)
    return -np.log(probabilities[np.arange(len(logits)), ids[1:]]).mean(), probabilities


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    draw = np.random.default_rng(options.seed)
    shapes = {"in": (SYMBOLS, options.width), "out": (options.width, SYMBOLS)}
    weights = {name: draw.normal(0, 0.3, shape) for name, shape in shapes.items()}
    train, validation = text(options.tokens, 1 + options.seed), text(20_000, 987_654)
    num_steps = options.tokens // BATCH
    with open(options.out / "record.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["step", "num_tokens", "loss", "num_params_total"])
        for step in range(1, num_steps + 1):
            ids = train[(step - 1) * BATCH : step * BATCH + 1]
            _, error = loss_and_probabilities(weights, ids)
            error[np.arange(BATCH), ids[1:]] -= 1.0
            error *= options.learning_rate * (1 - step / (num_steps + 1)) / BATCH
            hidden = weights["in"][ids[:-1]]
            np.add.at(weights["in"], ids[:-1], -error @ weights["out"].T)
            weights["out"] -= hidden.T @ error
            if step == num_steps or step % max(1, num_steps // EVALUATIONS) == 0:
                loss, _ = loss_and_probabilities(weights, validation)
                print(f"step {step} of {num_steps}: loss {loss:.4f}", flush=True)
                table.writerow([step, step * BATCH, loss, sum(each.size for each in weights.values())])
                file.flush()


if __name__ == "__main__":
    main()
