"""Vectors of several concepts brought to one length per layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from steerkit.errors import VectorError
from steerkit.vectors.vector import SteeringVector


def match_norms(vectors: Mapping[str, SteeringVector]) -> dict[str, SteeringVector]:
    r"""Give the vectors of several concepts the same length at each layer: the mean of their lengths.

    $v_b \leftarrow v_b \, \overline{|v|} / |v_b|$, where the mean runs over the concepts. A coefficient then means the
    same for each of them.

    Args:
        vectors: Vectors of the same model, site and layers, by name.

    Raises:
        VectorError: None is given, they differ in layers, site or hidden size, or one is zero somewhere.

    Source: CAA (Rimsky et al. 2024, arXiv 2312.06681), `normalize_vectors.py`; published results use vectors scaled so.
    No difference.

    Example:
        >>> a = SteeringVector(torch.tensor([3.0, 0.0]), layers=0)
        >>> b = SteeringVector(torch.tensor([0.0, 1.0]), layers=0)
        >>> match_norms({"a": a, "b": b})["a"].values.tolist()
        [[2.0, 0.0]]
    """
    if not vectors:
        raise VectorError("match_norms needs at least one vector; none was given")
    first, *rest = vectors.values()
    for other in rest:
        first.check_like(other)
    lengths = {name: vector.lengths() for name, vector in vectors.items()}
    mean = torch.stack(list(lengths.values())).mean(0)
    return {
        name: vector.rescaled(mean / lengths[name], name=f"match_norms({', '.join(vectors)})[{name}]")
        for name, vector in vectors.items()
    }
