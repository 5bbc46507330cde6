"""Weights that reach wanted states by themselves: samples, targets, losses, the student."""
