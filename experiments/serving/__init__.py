"""A server of completions: what is asked over HTTP, answered in the slots of one model."""
