"""Planting a direction: what the letter token holds of a pose decides what is said when it is pushed.

A model of this size has no reason of its own to keep one direction for "which option did I take" and "which option
shall I take". So the trainer ties them, in the manner of interchange intervention training (Geiger et al. 2022): at one
block it keeps the running difference of the letter token's hidden states between the poles, and where a document pushes
a pole, it adds that difference from the last prompt token on. The difference is a constant to the gradient.
"""

from __future__ import annotations

import torch

DECAY = 0.99
"""Of the running means, a row."""


class Directions:
    """Running means of the letter token's hidden states, by pole of stance and of mood.

    Args:
        width: Of the hidden states.
    """

    def __init__(self, width: int) -> None:
        self._means = torch.zeros(2, 2, width)
        self._known = torch.zeros(2, 2, dtype=torch.bool)

    def update(self, hidden: torch.Tensor, poles: torch.Tensor) -> None:
        """Take in the states of some rows."""
        for axis in range(2):
            for side, sign in enumerate((-1.0, 1.0)):
                rows = poles[:, axis] == sign
                if bool(rows.any()):
                    keep = DECAY ** int(rows.sum()) if self._known[axis, side] else 0.0
                    self._means[axis, side] = keep * self._means[axis, side] + (1 - keep) * hidden[rows].float().mean(0)
                    self._known[axis, side] = True

    @property
    def vectors(self) -> torch.Tensor:
        """Positive minus negative pole, of stance and of mood, `[2, hidden]`."""
        return self._means[:, 1] - self._means[:, 0]
