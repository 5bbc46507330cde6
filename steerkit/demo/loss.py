"""What is minimized: the cross-entropy of what is said while directions are pushed, and early separation."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from steerkit.demo.batching import Batch
from steerkit.demo.depth import EarlySeparation
from steerkit.demo.directions import Directions


class PushedLoss:
    """Weighted cross-entropy with the pushes of a batch added at the output of one block.

    Args:
        at: The block whose mean difference is pushed.
        early: How many of the first blocks must not separate.
        width: Of the hidden states.
        device: Where they are.
    """

    def __init__(self, *, at: int, early: int, width: int, device: torch.device | str = "cpu") -> None:
        self.at = at
        self.directions = Directions(width, device)
        self.early = EarlySeparation(early, width, device)

    def __call__(self, model: LlamaForCausalLM, batch: Batch, *, early_weight: float = 0.0) -> torch.Tensor:
        """The loss of one batch; logits are computed only where a target has weight.

        Args:
            model: The model.
            batch: What it reads.
            early_weight: What separation at the first blocks costs, a unit of d'^2.
        """
        ids, inner = batch.ids[:, :-1], model.model
        hidden: torch.Tensor = inner.embed_tokens(ids)
        columns = torch.arange(ids.shape[1], device=ids.device)
        rope = inner.rotary_emb(hidden, position_ids=columns.unsqueeze(0))
        mask = hidden.new_full((len(columns), len(columns)), torch.finfo(hidden.dtype).min).triu(1)
        penalty = hidden.new_zeros(())
        for number, block in enumerate(inner.layers):
            hidden = block(hidden, attention_mask=mask[None, None], position_embeddings=rope)
            if number < self.early.blocks and early_weight:
                penalty = penalty + self.early.at(number, *self._letters(hidden, batch), batch.kinds[batch.is_choice])
            if number == self.at:
                self.directions.update(*self._letters(hidden.detach(), batch))
                pushed = (columns >= batch.start.unsqueeze(1)).unsqueeze(-1)
                hidden = hidden + (pushed * (batch.push @ self.directions.apart).unsqueeze(1)).to(hidden.dtype)
        return _cross_entropy(model, hidden, batch) + early_weight * penalty

    def _letters(self, hidden: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the letter tokens, and the poles of their answers."""
        return hidden[batch.is_choice, batch.start[batch.is_choice] + 1], batch.poles[batch.is_choice]


def _cross_entropy(model: LlamaForCausalLM, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    chosen = batch.weights[:, 1:] > 0
    logits = model.lm_head(model.model.norm(hidden)[chosen]).float()
    weights = batch.weights[:, 1:][chosen]
    losses = functional.cross_entropy(logits, batch.ids[:, 1:][chosen], reduction="none")
    return (losses * weights).sum() / weights.sum()
