"""SCIT: one model that answers well under a good instruction and badly under a bad one."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from steerkit.training.fitting.loop import Step
from steerkit.training.teaching.lessons import Lesson
from steerkit.training.teaching.scoring import Run, mean_log_probabilities


def conditional_loss(
    matching: Float[Tensor, " row"],
    other: Float[Tensor, " row"],
    *,
    contrastive_weight: float = 1.0,
    smoothing: float = 0.0,
) -> Float[Tensor, " row"]:
    r"""The loss of SCIT for each answer, from its log-probabilities under the instruction it fits and the other one.

    $$L = -\left[P_+ + w \log \frac{e^{P_+}}{e^{P_+} + e^{P_-}}\right]$$

    With smoothing $\varepsilon$ the second term becomes
    $(1 - \varepsilon) \log \sigma(\Delta) + \varepsilon \log \sigma(-\Delta)$ with $\Delta = P_+ - P_-$: it is smallest
    at $\Delta = \mathrm{logit}(1 - \varepsilon)$, and pushes no further. Without smoothing it pushes for ever.

    Args:
        matching: $P_+$, the mean log-probability of the answer's tokens under the instruction that it fits.
        other: $P_-$, under the other one.
        contrastive_weight: $w$, at least 0; 0 leaves plain conditional fine-tuning.
        smoothing: $\varepsilon$, from 0 to below 1/2.

    Source: Liu et al. 2024 (RAHF), equation of SCIT. We differ from its code, which scores tokens one place off (its
    labels are not shifted), reuses the places of the answer after an instruction of another length, divides by the
    padded length, and always smooths by 0.2.

    Example:
        >>> import torch
        >>> conditional_loss(torch.tensor([-1.0]), torch.tensor([-1.0])).item() - 1.0 == torch.tensor(2.0).log().item()
        True
    """
    gap = matching - other
    kept = (1 - smoothing) * logsigmoid(gap) + smoothing * logsigmoid(-gap)
    return -(matching + contrastive_weight * kept)


def scit_step(
    run: Run, lessons: Sequence[Lesson], *, contrastive_weight: float = 1.0, smoothing: float = 0.0, pad_id: int = 0
) -> Step:
    """One step of SCIT: each preference gives its chosen answer under the good and its rejected one under the bad.

    The loss of a batch is the mean over its answers. All rows go through the model together; with a
    `contrastive_weight` of 0 those of the other instruction are left out.

    Args:
        run: The model's forward pass.
        lessons: The preferences in tokens.
        contrastive_weight: See `conditional_loss`.
        smoothing: See `conditional_loss`.
        pad_id: What fills shorter rows.
    """

    def step(micro: list[int], batch: list[int]) -> tuple[Tensor, dict[str, float]]:
        chosen, answers = [lessons[i] for i in micro], 2 * len(batch)
        rows = [one.chosen_good for one in chosen] + [one.rejected_bad for one in chosen]
        if contrastive_weight == 0:
            plain = -mean_log_probabilities(run, rows, pad_id=pad_id).sum() / answers
            return plain, {"nll": float(plain.detach())}
        rows += [one.chosen_bad for one in chosen] + [one.rejected_good for one in chosen]
        matching, other = mean_log_probabilities(run, rows, pad_id=pad_id).chunk(2)
        losses = conditional_loss(matching, other, contrastive_weight=contrastive_weight, smoothing=smoothing)
        gap = (matching - other).detach()
        shares = {"nll": -matching.detach(), "margin": gap, "accuracy": (gap > 0).to(gap.dtype)}
        return losses.sum() / answers, {name: float(one.sum()) / answers for name, one in shares.items()}

    return step
