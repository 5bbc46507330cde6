"""Vectors at site `z`: the parts of the attention heads in each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import VectorError
from steerkit.points import Site
from steerkit.vectors import provenance

V = TypeVar("V", bound="PerHead")
"""The vector itself, which these methods give back changed."""


class PerHead:
    """What a vector knows of attention heads, whose parts lie side by side in a row at site `z`."""

    values: Float[Tensor, "layer hidden"]
    layers: tuple[int, ...]
    site: Site
    meta: dict[str, Any]

    @property
    def num_heads(self) -> int:
        """Attention heads side by side in a row; 0 at other sites, and where they are not known."""
        known = self.meta.get("heads") or (self.meta.get("model") or {}).get("heads") or 0
        return int(known) if self.site == "z" else 0

    @property
    def head_size(self) -> int:
        """Width of one head's part; 0 where heads are not known."""
        return self.values.shape[1] // self.num_heads if self.num_heads else 0

    @property
    def head_norms(self) -> Float[Tensor, "layer head"]:
        """Length of each head's part.

        Raises:
            VectorError: The vector does not know of heads.
        """
        norms: Tensor = torch.linalg.vector_norm(self._parts(), dim=-1)
        return norms

    @property
    def chosen_heads(self) -> tuple[tuple[int, int], ...]:
        """The heads that `heads` kept, as `(layer, head)`; empty where it was not called."""
        return tuple((layer, head) for layer, head in self.meta.get("chosen_heads", ()))

    def head(self, layer: int, head: int) -> Float[Tensor, " head_size"]:
        """The part of one head.

        Raises:
            VectorError: The vector does not know of heads, or has no such layer or head.
        """
        parts = self._parts()
        row = self._check_head((layer, head))
        return parts[row, head].clone()

    def heads(self: V, chosen: Sequence[tuple[int, int]]) -> V:
        """The same vector at some heads only: 0 for the other heads, without the layers that have none of them.

        `Steer` adds it at all of its layers where no layer is named.

        Args:
            chosen: `(layer, head)`, both counted from 0, such as `head_separation(...).top(8)`.

        Raises:
            VectorError: The vector does not know of heads, or a head is not there, zero, or named twice.

        Source: Li et al. 2023 (ITI, arXiv 2306.03341), section 3, which shifts the heads whose probes are best.

        Example:
            >>> from steerkit.vectors import SteeringVector
            >>> both = SteeringVector(torch.arange(8.0).view(2, 4), layers=[3, 4], site="z", meta={"heads": 2})
            >>> both.heads([(4, 1)])
            SteeringVector: heads (4, 1) of (made by hand), z, 2 heads of 2
            layer   norm  heads
                4  9.22  1
        """
        wanted = [self._check_head(one) for one in self._check_pairs(chosen)]
        mask = torch.zeros(len(self.layers), self.num_heads, 1)
        for row, (_, head) in zip(wanted, chosen, strict=True):
            mask[row, head] = 1
        named = sorted((int(layer), int(head)) for layer, head in chosen)
        meta = {**self.meta, "heads": self.num_heads, "chosen_heads": named}
        meta["made_from"] = f"{_name(named)} of {provenance.term(self.meta)}"
        kept = self._with((self._parts() * mask).flatten(1), meta)
        return kept.select(sorted({layer for layer, _ in named}))  # type: ignore[attr-defined, no-any-return]

    def in_sigma(self: V) -> V:
        r"""The direction of each layer, and at `z` of each head, one standard deviation long: $\sigma \, v / |v|$.

        A coefficient then counts standard deviations, as the $\alpha$ of ITI does: $x + \alpha \sigma \theta$, where
        $\theta$ has length 1 and $\sigma$ is the standard deviation along it of the activations that the vector was
        extracted from, both sides together.

        Raises:
            VectorError: The vector does not know the deviation, or a row is zero.

        Source: Li et al. 2023 (ITI, arXiv 2306.03341), section 3; `get_interventions_dict` in its code.

        Example:
            >>> from steerkit.vectors import SteeringVector
            >>> vector = SteeringVector(torch.tensor([3.0, 4.0]), layers=7, meta={"sigma": {7: 10.0}})
            >>> vector.in_sigma().at(7)
            tensor([6., 8.])
        """
        sigma = self.meta.get("sigma") or {}
        missing = [layer for layer in self.layers if layer not in sigma]
        if missing:
            raise VectorError(
                f"the vector lacks meta['sigma'], the standard deviation of the activations along it, at layer "
                f"{missing[0]}; make it with extract from stored rows, or from statistics='covariance'"
            )
        size = torch.tensor([sigma[layer] for layer in self.layers], dtype=torch.float64).view(len(self.layers), -1)
        parts = self.values.double().reshape(*size.shape, -1)
        lengths = parts.norm(dim=-1)
        zero = [layer for layer, length in zip(self.layers, lengths.sum(1).tolist(), strict=True) if length == 0]
        if zero:
            raise VectorError(f"the vector at layer {zero[0]} is zero and has no direction; leave it out by .select")
        scaled = parts * (size / lengths.clamp(min=1e-300)).unsqueeze(-1)
        return self._with(scaled.flatten(1), {**self.meta, "made_from": f"in_sigma{provenance.term(self.meta)}"})

    def _with(self: V, values: Tensor, meta: dict[str, Any]) -> V:
        """Other lengths of the same heads' directions; the gap along the row follows from those of the heads."""
        meta = {**meta}
        gaps = meta.get("head_gap")
        if gaps and "gap" in meta:
            parts = values.double().reshape(len(values), self.num_heads, -1).norm(dim=-1)
            each = torch.tensor([gaps[layer] for layer in self.layers], dtype=torch.float64)
            along = ((each * parts).sum(1) / parts.square().sum(1).sqrt().clamp(min=1e-300)).tolist()
            meta["gap"] = dict(zip(self.layers, along, strict=True))
        elif self.site == "z":
            meta.pop("gap", None)
        return type(self)(values.float(), layers=self.layers, site=self.site, meta=meta)  # type: ignore[call-arg]

    def _parts(self) -> Float[Tensor, "layer head head_size"]:
        if self.site != "z":
            raise VectorError(f"the vector belongs to {self.site}, where heads are already mixed; record at site='z' "
                              "for a vector with a part for each head")  # fmt: skip
        if not self.num_heads:
            raise VectorError("the vector does not know how many heads its rows hold; give meta={'heads': ...}")
        return self.values.reshape(len(self.layers), self.num_heads, -1)

    def _check_pairs(self, chosen: Any) -> list[tuple[int, int]]:
        if isinstance(chosen, str) or not isinstance(chosen, Sequence) or len(chosen) == 0:
            raise VectorError(
                f"chosen={chosen!r} is not valid; give one or more (layer, head), such as [(3, 1), (4, 0)]"
            )
        for one in chosen:
            if isinstance(one, str) or not isinstance(one, Sequence) or len(one) != 2:
                raise VectorError(f"{one!r} is not a head; give (layer, head), such as (3, 1)")
        pairs = [(one[0], one[1]) for one in chosen]
        if len(set(pairs)) < len(pairs):
            raise VectorError(f"chosen={pairs} names a head twice")
        norms = self.head_norms
        for one in pairs:
            if norms[self._check_head(one), one[1]] == 0:
                raise VectorError(f"head {one[1]} of layer {one[0]} is zero in this vector; leave it out")
        return pairs

    def _check_head(self, one: tuple[int, int]) -> int:
        """The row of a head's layer, once it is sure that both exist."""
        layer, head = one
        if isinstance(layer, bool) or layer not in self.layers:
            raise VectorError(f"the vector has no layer {layer!r}; it has {provenance.spans(self.layers)}")
        if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < self.num_heads:
            raise VectorError(f"head {head!r} of layer {layer} does not exist; heads are 0 to {self.num_heads - 1}")
        return self.layers.index(layer)


def _name(chosen: Sequence[tuple[int, int]]) -> str:
    shown = ", ".join(str(one) for one in chosen[:3])
    return f"heads {shown}" + (f" and {len(chosen) - 3} more" if len(chosen) > 3 else "")


def name_heads(norms: Float[Tensor, " head"]) -> str:
    """Which heads of a row are not zero, in a few characters.

    Example:
        >>> name_heads(torch.tensor([0.0, 2.0, 1.0]))
        '1, 2'
    """
    found = norms.nonzero().flatten().tolist()
    if len(found) == len(norms):
        return "all"
    return ", ".join(map(str, found)) if len(found) <= 8 else f"{len(found)} of {len(norms)}"
