"""The compiler's own count of a training step's FLOPs, to check kleiber.model.counts against.

Two numbers from one compiled program: `total`, XLA's cost analysis, which counts each elementwise operation as one and
a matrix product as 2 M N K; and `products`, the same formula over the products of the optimised program alone, read
from its text. `products` is what counts.py predicts, exactly but for what the compiler removes and for the sums over a
head's columns, which attention makes as products on CPU; `total` exceeds it by the norms, softmax and activations.

XLA's analysis visits the body of a loop once, whatever its trip count, so layers are unrolled for the count: the
numbers of scanned layers are the same (tests/test_model.py).
"""

import dataclasses
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from kleiber.experiments.compilation.hlo import parse
from kleiber.experiments.compilation.products import product_flops
from kleiber.model.config import ModelConfig
from kleiber.model.functional import abstract_params, apply


@dataclass(frozen=True)
class CompiledFlops:
    """FLOPs per token of one forward and backward pass, as compiled."""

    total: float
    """XLA's cost analysis, elementwise operations included."""
    products: float
    """Matrix products alone."""


def program_flops(hlo_text: str) -> float:
    """Returns 2 M N K summed over the matrix products of an optimised program, loops as often as they turn.

    Args:
      hlo_text: `compiled.as_text()`.

    Raises:
      ValueError: if a loop's length is known at run time only, or if the backend replaced products by library calls,
        whose work the text does not show.
    """
    program = parse(hlo_text)
    if program.num_unknown_loops:
        raise ValueError(f"{program.num_unknown_loops} loops turn as often as a run-time value says; give a fixed one.")
    for _, instruction, _ in program:
        if instruction.opcode == "custom-call" and re.search("gemm|matmul|dot", instruction.rest):
            raise ValueError("the compiled program calls a library for its products; count on CPU.")
    return product_flops(program)


def compiled_flops(config: ModelConfig, batch_size: int = 1) -> CompiledFlops:
    """Returns the FLOPs per token of the loss and its gradient as the compiler counts them; runs nothing.

    Args:
      config: the shape; scanned layers are counted unrolled. Set attention_blocks=1 to compare with
        counts.flops_per_token (the full square), or compare any number with counts.flops_per_token_computed.
      batch_size: sequences.

    Raises:
      ValueError: if the backend tells too little to count.
    """
    config = dataclasses.replace(config, has_scanned_layers=False)
    tokens_BT = jax.ShapeDtypeStruct((batch_size, config.seq_len), jnp.int32)

    def loss(params: dict, tokens_BT: jax.Array, targets_BT: jax.Array) -> jax.Array:
        logits_BTV = apply(config, params, tokens_BT)
        target_logits_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits_BTV, axis=-1) - target_logits_BT)

    lowered = jax.jit(jax.value_and_grad(loss)).lower(abstract_params(config), tokens_BT, tokens_BT)
    compiled = lowered.compile(
        {"xla_backend_optimization_level": "0"}
    )  # machine code nobody runs; the count is the same
    num_tokens = batch_size * config.seq_len
    analysis, text = compiled.cost_analysis(), compiled.as_text()
    if analysis is None or text is None:
        raise ValueError("this backend's compiler gives no cost analysis or program text; count on CPU.")
    return CompiledFlops(total=analysis["flops"] / num_tokens, products=program_flops(text) / num_tokens)
