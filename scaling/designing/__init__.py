"""Which runs to buy next."""
