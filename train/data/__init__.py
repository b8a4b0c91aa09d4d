"""From a corpus to batches: TFDS builders, tokenizers, packing and the grain pipeline."""
