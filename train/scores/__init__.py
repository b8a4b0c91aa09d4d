"""How often a model says of a text what it is: scores with intervals, and the baselines beside them. Needs no jax."""
