"""Running statistics of one layer: enough for a direction without the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import InputError
from steerkit.store.paired import Paired

Kept = Literal["mean", "covariance"]
"""How much is kept: `"mean"` is two rows a layer, `"covariance"` three matrices `[hidden, hidden]` more."""


@dataclass(frozen=True, eq=False)
class Scatter:
    r"""Second and higher moments of both sides, $r = h - \bar h$ within each side and $d = h^+ - h^-$.

    Args:
        within: $\sum r r^T$ of each side.
        third: $\sum |r|^2 r$ of each side; it carries `fourth` along when the mean moves.
        fourth: $\sum |r|^4$ of each side, which shrinking the covariance needs.
        differences: $\sum d d^T$, not centered.
    """

    within: Float[Tensor, "side hidden hidden"]
    third: Float[Tensor, "side hidden"]
    fourth: Float[Tensor, " side"]
    differences: Float[Tensor, "hidden hidden"]

    def about(self, shift: Float[Tensor, "side hidden"], *, pairs: int) -> Scatter:
        """The same moments about other centers: each side's mean plus `shift`."""
        length = shift.square().sum(-1)
        turned = torch.einsum("shk,sk->sh", self.within, shift)
        size = self.within.diagonal(dim1=-2, dim2=-1).sum(-1)
        within = self.within + pairs * shift[:, :, None] * shift[:, None, :]
        third = self.third - size[:, None] * shift - 2 * turned - pairs * length[:, None] * shift
        fourth = (
            self.fourth
            + 4 * (turned * shift).sum(-1)
            + pairs * length.square()
            - 4 * (self.third * shift).sum(-1)
            + 2 * size * length
        )
        return Scatter(within, third, fourth, self.differences)

    def plus(self, other: Scatter) -> Scatter:
        """The sum of two, both about the same centers."""
        return Scatter(
            self.within + other.within,
            self.third + other.third,
            self.fourth + other.fourth,
            self.differences + other.differences,
        )


@dataclass(frozen=True, eq=False)
class Moments:
    r"""What is known of a layer's pairs after reading them once, in float64.

    Two of them become one by `merge`, in any order and any split of the pairs: means and scatters are carried about
    the mean (never as differences of large sums), so nothing cancels.

    Args:
        pairs: How many.
        means: Mean of the positive and of the negative side.
        norm: Mean length of an activation, over both sides.
        apart: $\sum |h^+ - h^-|^2$; 0 only where all pairs have two identical sides.
        scatter: More, where covariances were asked for.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".

    Example:
        >>> acts = Paired(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.zeros(2, 2))
        >>> Moments.of(acts).difference.tolist()
        [2.0, 0.0]
    """

    pairs: int
    means: Float[Tensor, "side hidden"]
    norm: float
    apart: float
    scatter: Scatter | None = None

    @classmethod
    def of(cls, acts: Paired, *, keep: Kept = "mean") -> Moments:
        """The statistics of some pairs.

        Args:
            acts: At least one pair.
            keep: How much is kept.

        Raises:
            InputError: No pairs.
        """
        if len(acts) == 0:
            raise InputError("there are no statistics of no pairs; give at least one")
        rows = torch.stack([acts.positive, acts.negative]).double()
        means = rows.mean(1)
        differences = rows[0] - rows[1]
        norm = float(torch.linalg.vector_norm(rows, dim=-1).mean())
        apart = float(differences.square().sum())
        if keep == "mean":
            return cls(len(acts), means, norm, apart)
        rows = rows - means[:, None]
        squares = rows.square().sum(-1)
        scatter = Scatter(
            within=rows.mT @ rows,
            third=(squares[..., None] * rows).sum(1),
            fourth=squares.square().sum(-1),
            differences=differences.T @ differences,
        )
        return cls(len(acts), means, norm, apart, scatter)

    def merge(self, other: Moments) -> Moments:
        """The statistics of the pairs of both.

        Raises:
            InputError: They have different widths, or one has covariances and the other not.
        """
        if self.means.shape != other.means.shape or (self.scatter is None) != (other.scatter is None):
            raise InputError(f"{self!r} and {other!r} are statistics of different things; merge those of one layer")
        pairs = self.pairs + other.pairs
        step = other.means - self.means
        scatter = None
        if self.scatter is not None and other.scatter is not None:
            here = self.scatter.about(step * (other.pairs / pairs), pairs=self.pairs)
            scatter = here.plus(other.scatter.about(-step * (self.pairs / pairs), pairs=other.pairs))
        return Moments(
            pairs,
            self.means + step * (other.pairs / pairs),
            self.norm + (other.norm - self.norm) * (other.pairs / pairs),
            self.apart + other.apart,
            scatter,
        )

    def __repr__(self) -> str:
        more = "" if self.scatter is None else ", with covariances"
        return f"Moments({self.pairs} pairs x {self.means.shape[1]}{more})"

    @property
    def positive(self) -> Float[Tensor, " hidden"]:
        """Mean of the positive side."""
        return self.means[0]

    @property
    def negative(self) -> Float[Tensor, " hidden"]:
        """Mean of the negative side."""
        return self.means[1]

    @property
    def difference(self) -> Float[Tensor, " hidden"]:
        """Mean of positive minus negative."""
        return self.means[0] - self.means[1]

    def tensors(self) -> dict[str, Tensor]:
        """By name, as they are stored."""
        named = {"count": torch.tensor([self.pairs]), "means": self.means}
        named["lengths"] = torch.tensor([self.norm, self.apart], dtype=torch.float64)
        return named if self.scatter is None else {**named, **vars(self.scatter)}

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor]) -> Moments:
        """What `tensors` gave."""
        more = ("within", "third", "fourth", "differences")
        scatter = Scatter(*(named[name] for name in more)) if "within" in named else None
        norm, apart = named["lengths"].tolist()
        return cls(int(named["count"]), named["means"], norm, apart, scatter)


def merge_all(parts: Iterable[Moments]) -> Moments:
    """One out of several, at least one."""
    return reduce(Moments.merge, parts)
