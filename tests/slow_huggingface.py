"""The architectures of Hugging Face as NumPy, slow and clear: a folder and token ids in, logits out.

It reads config.json and model.safetensors by itself and borrows nothing of kleiber. Written from the published classes
(github.com/huggingface/transformers, src/transformers/models), one token and one head at a time.
"""

import json

import numpy as np


def read_tensors(path):
    """The tensors of a safetensors file, by its format: eight bytes of length, a header, then the bytes."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header.pop("__metadata__", None)
    assert {each["dtype"] for each in header.values()} == {"F32"}
    return {
        name: np.frombuffer(raw[end:][slice(*each["data_offsets"])], np.float32).reshape(each["shape"]).astype(float)
        for name, each in header.items()
    }


def rms_norm(x, weight, epsilon):
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)


def layer_norm(x, weight, bias, epsilon):
    return weight * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) + bias


def activated(kind, x):
    if kind == "relu2":
        return np.maximum(x, 0) ** 2
    if kind == "silu":
        return x / (1 + np.exp(-x))
    assert kind in ("gelu_pytorch_tanh", "gelu_new")
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def turned(x, position, theta):
    """One head's vector, turned by rotate_half's rule."""
    half = len(x) // 2
    angle = position * theta ** -(np.arange(half) * 2 / len(x))
    cos, sin = np.tile(np.cos(angle), 2), np.tile(np.sin(angle), 2)
    return x * cos + np.concatenate([-x[half:], x[:half]]) * sin


def attention(q, k, v):
    """Of q [T, N, H] and k, v [T, K, H]; the scores are over sqrt(H)."""
    out = np.zeros_like(q)
    for t in range(q.shape[0]):
        for n in range(q.shape[1]):
            one = n // (q.shape[1] // k.shape[1])
            weight = np.exp(k[: t + 1, one] @ q[t, n] / np.sqrt(q.shape[2]))
            out[t, n] = weight @ v[: t + 1, one] / weight.sum()
    return out.reshape(len(out), -1)


def expected_logits(folder, tokens):
    """Returns the logits [T, V] of a row of token ids."""
    config = json.loads((folder / "config.json").read_text())
    tensors = read_tensors(folder / "model.safetensors")
    (kind,) = config["architectures"]
    return (gpt2 if kind == "GPT2LMHeadModel" else rotary)(config, tensors, tokens)


def gpt2(config, tensors, tokens):
    epsilon, heads = config["layer_norm_epsilon"], config["n_head"]

    def norm(x, name):
        return layer_norm(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], epsilon)

    def conv1d(x, name):
        return x @ tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    x = tensors["transformer.wte.weight"][tokens] + tensors["transformer.wpe.weight"][: len(tokens)]
    for layer in range(config["n_layer"]):
        block = f"transformer.h.{layer}"
        parts = np.split(conv1d(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn"), 3, axis=-1)
        q, k, v = (part.reshape(len(x), heads, -1) for part in parts)
        x = x + conv1d(attention(q, k, v), f"{block}.attn.c_proj")
        hidden = activated(config["activation_function"], conv1d(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
        x = x + conv1d(hidden, f"{block}.mlp.c_proj")
    head = "transformer.wte.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    return norm(x, "transformer.ln_f") @ tensors[head].T


def rotary(config, tensors, tokens):
    kind = config["architectures"][0]
    theta, width = config["rope_parameters"]["rope_theta"], config.get("head_dim")
    width = width or config["hidden_size"] // config["num_attention_heads"]

    def norm(x, name):
        if f"{name}.bias" in tensors:
            epsilon = config["norm_epsilon" if kind == "Starcoder2ForCausalLM" else "layer_norm_eps"]
            return layer_norm(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], epsilon)
        return rms_norm(x, tensors[f"{name}.weight"], config["rms_norm_eps"])

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T

    def heads(x, block, which):
        found = linear(x, f"{block}.self_attn.{which}_proj").reshape(len(x), -1, width)
        if which != "v" and kind in ("Qwen3ForCausalLM", "ApertusForCausalLM", "Qwen3MoeForCausalLM"):
            found = rms_norm(found, tensors[f"{block}.self_attn.{which}_norm.weight"], config["rms_norm_eps"])
        if which == "v":
            return found
        return np.array([[turned(one, t, theta) for one in row] for t, row in enumerate(found)])

    def gated(x, gate, up, down):
        return linear(activated(config["hidden_act"], linear(x, gate)) * linear(x, up), down)

    def mixture(x, block):
        place, gate, up, down, is_normalised = {
            "MixtralForCausalLM": ("block_sparse_moe", "w1", "w3", "w2", True),
            "Qwen3MoeForCausalLM": ("mlp", "gate_proj", "up_proj", "down_proj", config.get("norm_topk_prob")),
        }[kind]
        scores = np.exp(linear(x, f"{block}.{place}.gate"))
        scores /= scores.sum(-1, keepdims=True)
        out = np.zeros_like(x)
        for t, row in enumerate(scores):
            best = np.argsort(-row)[: config["num_experts_per_tok"]]
            for expert in best:
                weight = row[expert] / (row[best].sum() if is_normalised else 1)
                names = (f"{block}.{place}.experts.{expert}.{each}" for each in (gate, up, down))
                out[t] += weight * gated(x[t], *names)
        return out

    def feed_forward(x, block):
        if kind in ("MixtralForCausalLM", "Qwen3MoeForCausalLM"):
            return mixture(x, block)
        if kind in ("LlamaForCausalLM", "Qwen3ForCausalLM", "StableLmForCausalLM"):
            return gated(x, *(f"{block}.mlp.{each}_proj" for each in ("gate", "up", "down")))
        up, down = ("c_fc", "c_proj") if kind == "Starcoder2ForCausalLM" else ("up_proj", "down_proj")
        return linear(activated(config["hidden_act"], linear(x, f"{block}.mlp.{up}")), f"{block}.mlp.{down}")

    first, second = "input_layernorm", "post_attention_layernorm"
    if kind == "ApertusForCausalLM":
        first, second = "attention_layernorm", "feedforward_layernorm"
    x = tensors["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        h = norm(x, f"{block}.{first}")
        x = x + linear(attention(*(heads(h, block, each) for each in "qkv")), f"{block}.self_attn.o_proj")
        x = x + feed_forward(norm(x, f"{block}.{second}"), block)
    head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    return linear(norm(x, "model.norm"), head)
