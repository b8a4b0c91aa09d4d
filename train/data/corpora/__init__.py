"""Where text comes from: the catalogue, the TFDS builders, and what is known of a prepared corpus."""
