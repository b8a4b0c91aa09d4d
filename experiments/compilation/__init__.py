"""Ahead-of-time compilation: does a training step fit a pod, what does it send, and how fast can it be?"""
