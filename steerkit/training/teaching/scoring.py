"""How likely a model finds an answer, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from steerkit.backends.base import pad
from steerkit.training.teaching.answers import Answered

Run = Callable[..., Tensor]
"""`HuggingFaceModel.run` or anything's `forward`: takes a batch and `columns`, gives logits."""


def token_log_probabilities(
    run: Run, rows: Sequence[Answered], *, pad_id: int = 0
) -> tuple[Float[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    r"""The log-probability of every token of the answers, given all tokens before it: $\log p(x_t \mid x_{<t})$.

    The answers end together: column -1 holds the last token of each. What stands before a shorter answer is 0 and
    `False` in the mask. The logits at a token predict the next one, so those of one token earlier are read; only they
    are computed.

    Args:
        run: The model's forward pass, with gradients where they are on.
        rows: Prompts with answers.
        pad_id: What fills shorter rows.
    """
    longest = max(len(row.response) for row in rows)
    batch = pad([row.ids for row in rows], [row.prompt_length for row in rows], pad_id=pad_id)
    width = batch.input_ids.shape[1]
    logits = run(batch, columns=range(width - longest - 1, width - 1)).float()
    targets = batch.input_ids[:, width - longest :].to(logits.device)
    count = torch.tensor([len(row.response) for row in rows], device=logits.device)
    mask = torch.arange(longest, 0, -1, device=logits.device) <= count.unsqueeze(1)
    values = -cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    return torch.where(mask, values, torch.zeros_like(values)), mask


def mean_log_probabilities(run: Run, rows: Sequence[Answered], *, pad_id: int = 0) -> Float[Tensor, " row"]:
    r"""The mean log-probability of an answer's tokens, $P = \frac{1}{T} \sum_t \log p(x_t \mid x_{<t})$.

    $T$ counts the tokens of the answer alone: neither the prompt nor padding changes it.
    """
    values, mask = token_log_probabilities(run, rows, pad_id=pad_id)
    return values.sum(-1) / mask.sum(-1)


@torch.no_grad()
def score_rows(run: Run, rows: Sequence[Answered], *, batch_size: int = 16, pad_id: int = 0) -> Float[Tensor, " row"]:
    """The same for any number of rows, in batches of like length, without gradients; float64 on the CPU."""
    found = torch.zeros(len(rows), dtype=torch.float64)
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        found[chosen] = mean_log_probabilities(run, [rows[i] for i in chosen], pad_id=pad_id).double().cpu()
    return found
