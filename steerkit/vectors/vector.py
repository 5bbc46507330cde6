"""A concept as one vector per layer: its algebra, its file, its table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import VectorError
from steerkit.points import Point, Site
from steerkit.tables import Cell, Table, Tabular
from steerkit.vectors import files, provenance
from steerkit.vectors.fitting import check_shape
from steerkit.vectors.heads import PerHead, name_heads
from steerkit.vectors.provenance import PER_LAYER, spans


class SteeringVector(PerHead, Tabular):
    """A concept as one vector per layer, in the units of the activations at its site.

    Vectors add, subtract and scale layer by layer. A vector has length, a direction has length 1: see `unit`.

    Args:
        values: One row per layer; float32 on the CPU is kept, whatever was given. One row alone goes with one layer.
        layers: The decoder blocks of the rows, counted from 0.
        site: Where in the block the vector was read, and where it is added.
        meta: Where it comes from. Known keys: `model` (`ModelInfo.as_dict()`), `method`, `data`, `read`, `pairs`,
            `template`, `version`, and by layer `residual_norm` (mean norm of the activations), `gap` (mean difference
            of the two sides along the direction) and `sigma` (standard deviation along it; a list, one a head, at site
            `z`). `heads` is how many heads lie side by side at `z`. A vector made by hand needs none.

    Raises:
        VectorError: The rows and layers (or heads) do not go together, or a value is not finite.
        LayerError: A layer or the site is not valid.

    Example:
        >>> vector = SteeringVector(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), layers=[7, 8])
        >>> 2 * vector
        SteeringVector: made by hand, resid_post, hidden size 2
        layer  norm
            7    10
            8     4
    """

    __array_ufunc__ = None

    def __init__(
        self,
        values: Float[Tensor, "layer hidden"] | Float[Tensor, " hidden"],
        *,
        layers: int | Sequence[int],
        site: Site = "resid_post",
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        named = [layers] if isinstance(layers, int) else list(layers)
        for layer in named:
            Point(layer, site)
        rows = values.unsqueeze(0) if values.ndim == 1 else values
        if rows.ndim != 2 or 0 in rows.shape or not rows.is_floating_point():
            raise VectorError(
                f"values have shape {list(values.shape)} and type {values.dtype}; give floats, one row per layer"
            )
        if len(named) != len(rows) or len(set(named)) < len(named):
            raise VectorError(f"{len(rows)} rows for layers={named}; give one row for each layer, each layer once")
        rows = rows.detach().to("cpu", torch.float32)
        for layer, row in zip(named, rows, strict=True):
            if not row.isfinite().all():
                raise VectorError(f"the vector at layer {layer} holds NaN or infinity; every value must be finite")
        order = sorted(range(len(named)), key=named.__getitem__)
        self.values: Float[Tensor, "layer hidden"] = rows[order].clone()
        self.layers: tuple[int, ...] = tuple(named[i] for i in order)
        self.site: Site = site
        self.meta: dict[str, Any] = provenance.plain(meta or {})
        if self.num_heads and rows.shape[1] % self.num_heads:
            raise VectorError(f"rows of width {rows.shape[1]} do not hold {self.num_heads} heads of one size")

    @property
    def hidden_size(self) -> int:
        """Width of a row: of the residual stream, or at site `z` of all heads side by side."""
        return self.values.shape[1]

    @property
    def norms(self) -> Float[Tensor, " layer"]:
        """Length at each layer, in the units of the activations."""
        norms: Tensor = torch.linalg.vector_norm(self.values, dim=-1)
        return norms

    @property
    def residual_norms(self) -> Float[Tensor, " layer"] | None:
        """Mean norm of the activations it was made from, at each layer; `None` where it is not known."""
        return self._by_layer("residual_norm")

    @property
    def gaps(self) -> Float[Tensor, " layer"] | None:
        """Mean difference of the two sides along the direction, at each layer; `None` where it is not known."""
        return self._by_layer("gap")

    def at(self, layer: int) -> Float[Tensor, " hidden"]:
        """The row of one layer.

        Raises:
            VectorError: The vector has no such layer.
        """
        if isinstance(layer, bool) or layer not in self.layers:
            raise VectorError(f"the vector has no layer {layer!r}; it has {spans(self.layers)}")
        return self.values[self.layers.index(layer)].clone()

    def select(self, layers: int | Sequence[int]) -> SteeringVector:
        """The same vector at some of its layers only."""
        named = [layers] if isinstance(layers, int) else list(layers)
        meta = {**self.meta}
        for key in PER_LAYER:
            if key in meta:
                meta[key] = {layer: value for layer, value in meta[key].items() if layer in named}
        if self.chosen_heads:
            meta["chosen_heads"] = [one for one in self.chosen_heads if one[0] in named]
        return SteeringVector(torch.stack([self.at(one) for one in named]), layers=named, site=self.site, meta=meta)

    def unit(self) -> SteeringVector:
        """The direction: every row scaled to length 1.

        Raises:
            VectorError: A row is zero and has no direction.
        """
        return self.rescaled(1 / self.lengths(), name=f"unit{provenance.term(self.meta)}")

    def cosine(self, other: SteeringVector) -> Float[Tensor, " layer"]:
        r"""Cosine with another vector at each layer, $v \cdot w / (|v| |w|)$, in [-1, 1].

        Raises:
            VectorError: They have other layers, another site or hidden size, or a row is zero.
        """
        self.check_like(other)
        products = (self.values.double() * other.values.double()).sum(-1)
        return (products / (self.lengths() * other.lengths())).clamp(-1, 1).float()

    def check_fits(self, info: Mapping[str, Any], *, override: bool = False) -> None:
        """Refuse a model that the vector does not fit, or was not made with.

        Args:
            info: The model, as `ModelInfo.as_dict()`.
            override: Accept another model, tokenizer or template, as long as the shapes fit.

        Raises:
            VectorError: The model has another width at the vector's site, fewer layers, or lacks the site in one.
            MismatchError: The vector was made with another model, tokenizer or chat template.
        """
        check_shape(info, site=self.site, layers=self.layers, width=self.hidden_size, heads=self.num_heads)
        if not override:
            provenance.check_made_with(self.meta, info)

    def save(self, path: str | Path) -> Path:
        """Write the vector to one safetensors file, its provenance as JSON in the header; all of it or nothing."""
        return files.write(path, self.values, {"layers": self.layers, "site": self.site, "meta": self.meta})

    @classmethod
    def load(cls, path: str | Path) -> SteeringVector:
        """Read a vector from the file that `save` wrote.

        Raises:
            VectorError: There is no such file, or it is no steerkit vector.
        """
        values, header = files.read(path)
        return cls(values, layers=header["layers"], site=header["site"], meta=header["meta"])

    def lengths(self) -> Float[Tensor, " layer"]:
        """The norms in float64, once it is sure that no row is zero.

        Raises:
            VectorError: A row is zero; its layer is named.
        """
        lengths: Tensor = torch.linalg.vector_norm(self.values.double(), dim=-1)
        for layer, length in zip(self.layers, lengths.tolist(), strict=True):
            if length == 0:
                raise VectorError(f"the vector at layer {layer} is zero and has no direction; leave it out by .select")
        return lengths

    def rescaled(self, by: Float[Tensor, " layer"], *, name: str) -> SteeringVector:
        """Each row times its own factor; `name` says what came of it."""
        meta = {**self.meta, "made_from": name} if self.meta else {}
        signs = dict(zip(self.layers, by.sign().tolist(), strict=True))
        if "gap" in meta:
            meta["gap"] = {layer: signs[layer] * value for layer, value in meta["gap"].items()}
        if "head_gap" in meta:
            turned = {layer: [signs[layer] * one for one in each] for layer, each in meta["head_gap"].items()}
            meta["head_gap"] = turned
        values = (self.values.double() * by.double().unsqueeze(-1)).float()
        return SteeringVector(values, layers=self.layers, site=self.site, meta=meta)

    def check_like(self, other: SteeringVector) -> None:
        """Refuse a vector of another site, hidden size or set of layers.

        Raises:
            VectorError: With what differs.
        """
        if self.site != other.site:
            raise VectorError(f"the vectors belong to different sites: {self.site} and {other.site}")
        if self.hidden_size != other.hidden_size:
            raise VectorError(f"the vectors have different hidden sizes: {self.hidden_size} and {other.hidden_size}")
        if self.layers != other.layers:
            raise VectorError(
                f"the vectors have {spans(self.layers)} and {spans(other.layers)}; bring both to the same layers with "
                ".select(...)"
            )

    def __getitem__(self, layer: int) -> Float[Tensor, " hidden"]:
        return self.at(layer)

    def __contains__(self, layer: object) -> bool:
        return layer in self.layers

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __eq__(self, other: object) -> bool:
        """Same layers, site and values, bit for bit; where they come from does not matter."""
        if not isinstance(other, SteeringVector):
            return NotImplemented
        return (self.layers, self.site) == (other.layers, other.site) and torch.equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: SteeringVector) -> SteeringVector:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        return self._combined(other, torch.add, "+")

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        return self._combined(other, torch.sub, "-")

    def __mul__(self, coef: float) -> SteeringVector:
        if isinstance(coef, bool) or not isinstance(coef, int | float):
            return NotImplemented
        if not math.isfinite(coef):
            raise VectorError(f"a vector cannot be multiplied by {coef}; give a finite number")
        by = torch.full((len(self),), float(coef), dtype=torch.float64)
        return self.rescaled(by, name=f"{coef:g} * {provenance.term(self.meta)}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> SteeringVector:
        if divisor == 0:
            raise VectorError("a vector cannot be divided by 0")
        return self * (1 / divisor)

    def __neg__(self) -> SteeringVector:
        return self * -1

    def _by_layer(self, key: str) -> Tensor | None:
        known = self.meta.get(key) or {}
        return torch.tensor([known[one] for one in self.layers]) if all(one in known for one in self.layers) else None

    def _combined(self, other: SteeringVector, act: Callable[[Tensor, Tensor], Tensor], sign: str) -> SteeringVector:
        self.check_like(other)
        meta = provenance.shared(self.meta, other.meta, sign=sign)
        return SteeringVector(act(self.values, other.values), layers=self.layers, site=self.site, meta=meta)

    def table(self) -> Table:
        """What is shown of it."""
        columns, residual = ["layer", "norm"], self.residual_norms
        rows: list[list[Cell]] = [[at, norm] for at, norm in zip(self.layers, self.norms.tolist(), strict=True)]
        if residual is not None:
            columns.append("norm / residual norm" if self.site.startswith("resid") else f"norm / {self.site} norm")
            rows = [[*row, share] for row, share in zip(rows, (self.norms / residual).tolist(), strict=True)]
        size = f"hidden size {self.hidden_size}"
        if self.num_heads:
            columns.append("heads")
            rows = [[*row, name_heads(norms)] for row, norms in zip(rows, self.head_norms, strict=True)]
            size = f"{self.num_heads} heads of {self.head_size}"
        return Table(columns, rows, f"SteeringVector: {provenance.label(self.meta)}, {self.site}, {size}")
