"""Arrays in, logits out: Flax NNX Transformers, their shapes, and exact counts of parameters and FLOPs."""
