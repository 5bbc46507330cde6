"""Steering vectors: one direction with its length at each layer, and where it comes from."""

from __future__ import annotations

from steerkit.vectors.norms import match_norms
from steerkit.vectors.vector import SteeringVector

__all__ = ["SteeringVector", "match_norms"]
