"""Differences computed when they are asked for: two readings of a response subtracted, and its base state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.adapters import Attached
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError, LayerError
from steerkit.points import SITES, Site
from steerkit.training.differences.aligned import Aligned, Responses, Span, align
from steerkit.training.differences.contrasts import Contrast, Reading
from steerkit.training.differences.layers import TargetLayers, resolve_targets
from steerkit.training.differences.states import read_states
from steerkit.training.distilling.samples import SampleBatch, Samples

Pool = Literal["token", "example", "global"]
"""Whose difference a token is given: its own (RAHF), the mean of its response, or the mean of all responses (CAA)."""
DUAL_TOKENS = 64


@dataclass(frozen=True, eq=False)
class Rows:
    """Differences and base states of some samples, at the tokens in scope one after the other.

    Args:
        shift: The differences.
        base: The base states; `None` where they were not asked for.
    """

    shift: Float[Tensor, "layer token hidden"]
    base: Float[Tensor, "layer token hidden"] | None


class OnlineDifferences:
    r"""Differences $v_l = A_{p^+,l} - A_{p^-,l}$ of responses, computed anew whenever they are asked for.

    Both readings and the base are taken in evaluation mode without gradients, and subtracted in float32. Readings that
    are the same are computed once (the good model of DUAL is also its base).

    Args:
        model: The model.
        aligned: The responses.
        contrast: What is held against what.
        layers: Blocks, ascending.
        site: Where in each block.
        pool: `"token"` or `"example"`; a mean over all responses must be collected first.

    Raises:
        InputError: The pool is not known, or `"global"`.
        LayerError: There is no such site.
    """

    def __init__(
        self,
        model: HuggingFaceModel,
        aligned: Aligned,
        contrast: Contrast,
        *,
        layers: Sequence[int],
        site: Site = "resid_post",
        pool: Pool = "token",
    ) -> None:
        check_pool(pool)
        if pool == "global":
            raise InputError("pool='global' needs all differences before the first can be used; collect them first "
                             "with collect_differences(..., pool='global')")  # fmt: skip
        if site not in SITES:
            raise LayerError(f"site={site!r} is not valid; choose one of {', '.join(SITES)}")
        model.info.choose_layers(layers, site=site)
        self.model = model
        self.aligned = aligned
        self.contrast = contrast
        self.layers: tuple[int, ...] = tuple(layers)
        self.site: Site = site
        self.pool: Pool = pool

    @property
    def samples(self) -> Samples:
        """What the student sees: the responses after the prompts without an instruction."""
        return self.aligned.plain

    @property
    def adapters(self) -> Mapping[str, Any]:
        """The weights that act in the readings, by name."""
        return self.contrast.weights

    @property
    def start(self) -> tuple[str, ...]:
        """The weights that stay on under the student."""
        return self.contrast.base.weights

    def describe(self) -> dict[str, Any]:
        """All that the differences depend on, beside model and samples."""
        return {**self.contrast.describe(), "pool": self.pool}

    def take(
        self, attached: Attached, indices: Sequence[int], *, layers: Sequence[int] | None = None, base: bool = True
    ) -> Rows:
        """The differences of some samples, in their order; every token is given one.

        Args:
            attached: The model with `adapters` on it.
            indices: Which samples.
            layers: Some of the layers.
            base: Also compute the base states.

        Raises:
            ModelError: A state is NaN or infinite.
        """
        wanted = self.layers if layers is None else tuple(layers)
        found = self.read(attached, indices, layers=wanted, base=base)
        if self.pool == "token":
            return found
        counts = self.counts(indices)
        return Rows(spread(pool_rows(found.shift, counts), counts), found.base)

    def read(self, attached: Attached, indices: Sequence[int], *, layers: Sequence[int], base: bool = True) -> Rows:
        """The same before any pooling."""
        states: dict[Reading, Tensor] = {}
        contrast = self.contrast
        for reading in (contrast.positive, contrast.negative, *([contrast.base] if base else [])):
            if reading not in states:
                with attached.only(*reading.weights):
                    batch = self.batch(indices, reading)
                    states[reading] = read_states(self.model, batch, layers=layers, site=self.site)
        return Rows(states[contrast.positive] - states[contrast.negative], states[contrast.base] if base else None)

    def batch(self, indices: Sequence[int], reading: Reading) -> SampleBatch:
        """Some responses after the prompts of a reading."""
        return self.aligned.views[reading.tone].batch(indices, pad_id=self.model.pad_id)

    def counts(self, indices: Sequence[int]) -> list[int]:
        """Tokens in scope of some samples."""
        return [self.samples[i].inside for i in indices]


def online_differences(  # noqa: PLR0913 - each is a plain choice of the user
    model: HuggingFaceModel,
    preferences: Sequence[Any],
    contrast: Contrast,
    *,
    layers: TargetLayers | None = None,
    site: Site = "resid_post",
    responses: Responses | None = None,
    positions: Span = "response",
    max_tokens: int | None = None,
    pool: Pool = "token",
    seed: int = 0,
) -> OnlineDifferences:
    """Differences of preferences, computed anew for each batch that is trained on.

    They cost two or three passes a batch and no disk. Collect them instead where the same ones are trained on several
    times, with other settings or for several epochs.

    Args:
        model: The model.
        preferences: With `prompt`, `chosen`, `rejected` and `id`.
        contrast: What is held against what; see `find_contrast`.
        layers: Blocks, or RAHF's notation; left out, up to five between 30 and 60 percent of the depth.
        site: Where in each block.
        responses: Which responses; left out, `"both"` for DUAL, else `"random"`.
        positions: `"response"` for its own tokens; `"generation"` for the last token of the prompt as well.
        max_tokens: The most tokens of a response; left out, 64 for DUAL, else all.
        pool: `"token"` or `"example"`.
        seed: Of the coin that draws responses.

    Raises:
        DataError: A preference cannot be read; see `align`.
        LayerError: A layer is not valid.
        InputError: An option is not valid.
    """
    found = resolve_targets(layers, mode=contrast.mode, num_layers=model.info.num_layers)
    most = DUAL_TOKENS if max_tokens is None and contrast.mode == "dual" else max_tokens
    aligned = align(preferences, contrast, model, responses=responses, positions=positions, max_tokens=most, seed=seed)
    return OnlineDifferences(model, aligned, contrast, layers=found, site=site, pool=pool)


def check_pool(pool: str) -> None:
    """Refuse a pool that does not exist.

    Raises:
        InputError: It is another word.
    """
    if pool not in get_args(Pool):
        raise InputError(f"pool={pool!r} is not known; choose one of {', '.join(map(repr, get_args(Pool)))}")


def pool_rows(values: Float[Tensor, "layer token hidden"], counts: Sequence[int]) -> Float[Tensor, "layer row hidden"]:
    """The mean over the tokens of each response.

    Example:
        >>> pool_rows(torch.tensor([[[1.0], [3.0], [7.0]]]), [2, 1]).flatten().tolist()
        [2.0, 7.0]
    """
    return torch.stack([part.mean(dim=1) for part in torch.split(values, list(counts), dim=1)], dim=1)


def spread(rows: Float[Tensor, "layer row hidden"], counts: Sequence[int]) -> Float[Tensor, "layer token hidden"]:
    """Each row once for every token of its response."""
    return rows.repeat_interleave(torch.tensor(list(counts), device=rows.device), dim=1)
