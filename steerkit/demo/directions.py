"""Planting a direction: what the letter token holds of a pose decides what is said when it is pushed.

A model of this size has no reason of its own to keep one direction for "which option did I take" and "which option
shall I take". So the trainer ties them, in the manner of interchange intervention training (Geiger et al. 2022): at one
block it keeps the running difference of the letter token's hidden states between the poles, and where a document pushes
a pole, it adds that difference from the last prompt token on. The difference is a constant to the gradient.

Nor has it a reason to keep stance and mood apart: one opener says both, and their differences may come to lie along
each other. So what is pushed is the nearest pair of directions at right angles: reading these is what is trained, and
the letter token's states follow what is read.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

DECAY = 0.99
"""Of the running means, a row."""


class Directions:
    """Running means of the letter token's hidden states, by pole of stance and of mood.

    Args:
        width: Of the hidden states.
        device: Where they are.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self._means = torch.zeros(2, 2, width, device=device)
        self._known = [[False, False], [False, False]]

    def update(self, hidden: torch.Tensor, poles: torch.Tensor) -> None:
        """Take in the states of some rows."""
        for axis in range(2):
            for side, sign in enumerate((-1.0, 1.0)):
                rows = poles[:, axis] == sign
                if bool(rows.any()):
                    keep = DECAY ** int(rows.sum()) if self._known[axis][side] else 0.0
                    self._means[axis, side] = keep * self._means[axis, side] + (1 - keep) * hidden[rows].float().mean(0)
                    self._known[axis][side] = True

    @property
    def vectors(self) -> torch.Tensor:
        """Positive minus negative pole, of stance and of mood, `[2, hidden]`."""
        return self._means[:, 1] - self._means[:, 0]

    @property
    def apart(self) -> torch.Tensor:
        """The vectors turned away from each other until they are at right angles, each as long as before.

        Sum and difference of two unit vectors are at right angles; so are, then, half the sum and half the difference
        of those two once they are as long as each other. No other such pair is nearer to the given one (Löwdin 1950).
        """
        lengths = self.vectors.norm(dim=1, keepdim=True)
        stance, mood = functional.normalize(self.vectors, dim=1)
        total, gap = functional.normalize(torch.stack((stance + mood, stance - mood)), dim=1)
        apart: torch.Tensor = lengths * torch.stack((total + gap, total - gap)) / math.sqrt(2)
        return apart
