"""Corpora of pairs, a source and its target each: where they are read and how they are split."""
