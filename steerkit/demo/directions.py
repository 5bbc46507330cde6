"""Planting a direction: what the letter token holds of a pose decides what is said when it is pushed.

A model of this size has no reason of its own to keep one direction for "which option did I take" and "which option
shall I take". So the trainer ties them, in the manner of interchange intervention training (Geiger et al. 2022): at one
block it keeps the running difference of the letter token's hidden states between the poles, and where a document pushes
a pole, it adds that difference from the last prompt token on. The difference is a constant to the gradient.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from steerkit.demo.batching import Batch

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


def pushed_loss(model: LlamaForCausalLM, batch: Batch, directions: Directions, *, at: int) -> torch.Tensor:
    """Weighted cross-entropy of what is said, with the pushes of a batch added at the output of block `at`.

    Logits are computed only where a target has weight.
    """
    ids, inner = batch.ids[:, :-1], model.model
    hidden = inner.embed_tokens(ids)
    columns = torch.arange(ids.shape[1])
    rope = inner.rotary_emb(hidden, position_ids=columns.unsqueeze(0))
    mask = torch.full((len(columns), len(columns)), torch.finfo(hidden.dtype).min, dtype=hidden.dtype).triu(1)
    pushed = (columns >= batch.start.unsqueeze(1)).unsqueeze(-1) * (batch.push @ directions.vectors).unsqueeze(1)
    letters = batch.start[batch.is_choice] + 1
    for number, block in enumerate(inner.layers):
        hidden = block(hidden, attention_mask=mask[None, None], position_embeddings=rope)
        if number == at:
            directions.update(hidden.detach()[batch.is_choice, letters], batch.poles[batch.is_choice])
            hidden = hidden + pushed.to(hidden.dtype)
    chosen = batch.weights[:, 1:] > 0
    logits = model.lm_head(inner.norm(hidden)[chosen]).float()
    weights = batch.weights[:, 1:][chosen]
    losses = functional.cross_entropy(logits, batch.ids[:, 1:][chosen], reduction="none")
    return (losses * weights).sum() / weights.sum()
