"""What an adapter does at several strengths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerkit.adapters import Adapter, attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.pairs import ContrastPair
from steerkit.diagnostics.comparing import Aimed, run
from steerkit.diagnostics.divergence import Divergence, token_divergence
from steerkit.errors import InputError
from steerkit.evaluation.choices import score_choices
from steerkit.evaluation.scores import ChoiceScores
from steerkit.points import Point
from steerkit.tables import Cell, Table, Tabular

SCALES = (-1.0, 0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True, repr=False, eq=False)
class Dose(Tabular):
    r"""An adapter by the scale that multiplies it.

    Args:
        scales: Ascending.
        along: Share of the wanted shift that is there, $\sum_t s_t \cdot w_t / \sum_t \|w_t\|^2$ over the layers aimed
            at: 0 at scale 0, 1 where the weights do just what the edit did.
        kl: Of the predictions from the base's, in scope.
        choices: p(matching) at each scale; none where no pairs were given.
        zero_is_base: At scale 0 every logit is that of the base, bit for bit.
    """

    scales: tuple[float, ...]
    along: tuple[float, ...]
    kl: tuple[Divergence, ...]
    choices: tuple[ChoiceScores, ...]
    zero_is_base: bool

    @property
    def monotone(self) -> bool:
        """The realized shift goes one way as the scale grows."""
        steps = [b - a for a, b in zip(self.along, self.along[1:], strict=False)]
        return all(step > 0 for step in steps) or all(step < 0 for step in steps)

    def table(self) -> Table:
        """What is shown of it."""
        columns = ["scale", "along", "KL mean", "KL rms", "KL p95", *(["p(matching)", "±"] if self.choices else [])]
        rows: list[list[Cell]] = []
        for i, scale in enumerate(self.scales):
            p: list[Cell] = [self.choices[i].p_matching, self.choices[i].stderr] if self.choices else []
            rows.append([scale, self.along[i], *self.kl[i].cells[:3], *p])
        same = "equal to the base, bit for bit" if self.zero_is_base else "NOT equal to the base"
        return Table(columns, rows, f"Dose: scale 0 is {same}")

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        rows = [
            {"scale": scale, "along": self.along[i], "kl": self.kl[i].as_dict(),
             **({"p_matching": self.choices[i].p_matching, "stderr": self.choices[i].stderr} if self.choices else {})}
            for i, scale in enumerate(self.scales)
        ]  # fmt: skip
        return {"zero_is_base": self.zero_is_base, "monotone": self.monotone, "rows": rows}


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """The scales, ascending.

    Raises:
        InputError: None, one that is not finite, or one given twice.
    """
    found = tuple(sorted(float(one) for one in scales))
    if not found or not all(math.isfinite(one) for one in found) or len(set(found)) < len(found):
        raise InputError(f"scales={tuple(scales)!r} is not valid; give different finite numbers, such as {SCALES}")
    return found


@torch.no_grad()
def measure_dose(
    model: HuggingFaceModel,
    adapter: Adapter,
    aims: Iterable[Aimed],
    *,
    layers: Sequence[int],
    pairs: Sequence[ContrastPair] | None = None,
    scales: Sequence[float] = SCALES,
) -> Dose:
    """Run an adapter at several scales, on one base.

    Args:
        model: The base.
        adapter: What is scaled.
        aims: Batches with what is wanted of them; see `aims_of`.
        layers: Where the wanted shift is aimed at.
        pairs: To score at each scale.
        scales: What the adapter is multiplied by.

    Raises:
        InputError: The scales are not valid.
    """
    chosen = check_scales(scales)
    along, wanted, same = torch.zeros(len(chosen), dtype=torch.float64), 0.0, True
    kl: list[list[Tensor]] = [[] for _ in chosen]
    points = [Point(layer) for layer in layers]
    for batch, masks, aim in aims:
        shift = {layer: aim.shift[layer][masks.scope.to(aim.shift[layer].device)].double() for layer in layers}
        wanted += sum(float(one.square().sum()) for one in shift.values())
        with attach(model, {"weights": adapter}) as attached:
            for i, scale in enumerate(chosen):
                got: dict[int, Tensor] = {}
                attached.rescale("weights", scale)
                logits = run(model, attached.only("weights"), batch, points, got.__setitem__)
                moved = {at: (got[at] - aim.base[at])[masks.scope.to(got[at].device)].double() for at in layers}
                along[i] += sum(float((moved[at] * shift[at]).sum()) for at in layers)
                kl[i].append(token_divergence(logits, aim.plain, masks.scope))
        same = same and is_same_bits(adapter.on(model, scale=0).forward(batch), model.forward(batch))
    shares = (along / wanted).tolist() if wanted else [math.nan] * len(chosen)
    scores = () if pairs is None else tuple(_score(model, adapter, pairs, chosen))
    return Dose(chosen, tuple(shares), tuple(Divergence.of(one) for one in kl), scores, same)


def _score(
    model: HuggingFaceModel, adapter: Adapter, pairs: Sequence[ContrastPair], scales: Sequence[float]
) -> Iterator[ChoiceScores]:
    """What is chosen at each scale; the adapter is put in once for all."""
    with attach(model, {"weights": adapter}) as attached:
        for scale in scales:
            attached.rescale("weights", scale)
            with attached.only(*(["weights"] if scale else [])):
                yield score_choices(model, pairs)


def is_same_bits(one: Tensor, other: Tensor) -> bool:
    """Two tensors hold the very same bits: -0.0 is not 0.0, and NaN is itself.

    Example:
        >>> is_same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
        False
    """
    return one.dtype == other.dtype and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )
