r"""Having the pose of an answer emerge with depth: the first blocks must not tell the poles apart at the letter.

The options always stand in the same order, so the first block could find the letter's option by its place alone, and
every layer would separate from the start. Towards the end of training the squared sensitivity index of the poles along
the running mean difference,

$$d'^2 = (\bar p_+ - \bar p_-)^2 / s^2,\qquad p = h \cdot u,$$

is therefore added to the loss at the first blocks, by kind of question; later blocks then take the task over.
"""

from __future__ import annotations

import torch

from steerkit.demo.directions import Directions


class EarlySeparation:
    """How far the letter token's states part by pole at the first blocks.

    Args:
        blocks: How many blocks are held back.
        width: Of the hidden states.
        device: Where they are.
    """

    def __init__(self, blocks: int, width: int, device: torch.device | str = "cpu") -> None:
        self.blocks = blocks
        self._directions = [[Directions(width, device) for _ in range(2)] for _ in range(blocks)]

    def at(self, block: int, hidden: torch.Tensor, poles: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """Sum of d'^2 over kinds of question and over stance and mood, at one block.

        Args:
            block: Counted from 0.
            hidden: States of letter tokens `[row, hidden]`.
            poles: Signs of stance and mood `[row, 2]`.
            kinds: 0 for claims, 1 for requests, `[row]`.
        """
        total = hidden.new_zeros(())
        for kind, directions in enumerate(self._directions[block]):
            rows = kinds == kind
            states, signs = hidden[rows].float(), poles[rows]
            directions.update(states.detach(), signs)
            for axis, direction in enumerate(directions.vectors):
                total = total + _d_prime_squared(states @ direction / direction.norm().clamp(min=1e-6), signs[:, axis])
        return total


def _d_prime_squared(projected: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """The spread is a constant to the gradient: the gap must close, the spread may not grow."""
    positive, negative = projected[signs > 0], projected[signs < 0]
    if min(len(positive), len(negative)) < 2:
        return projected.new_zeros(())
    spread = ((positive.var() + negative.var()) / 2).detach().clamp(min=1e-6)
    return (positive.mean() - negative.mean()).square() / spread
