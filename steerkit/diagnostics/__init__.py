"""Is the direction real, and where: pictures and numbers from a store and a vector."""

from __future__ import annotations

from steerkit.diagnostics.divergence import Divergence
from steerkit.diagnostics.head_separability import HeadSeparation, head_separation
from steerkit.diagnostics.imitation import Fidelity, fidelity
from steerkit.diagnostics.projections import Projection, projection
from steerkit.diagnostics.separability import Separation, separation
from steerkit.diagnostics.similarity import Similarity, layer_similarity, vector_similarity
from steerkit.diagnostics.spectrum import PrincipalComponents, principal_components
from steerkit.diagnostics.tokens import TokenProjection, token_projection

__all__ = [
    "Divergence",
    "Fidelity",
    "HeadSeparation",
    "PrincipalComponents",
    "Projection",
    "Separation",
    "Similarity",
    "TokenProjection",
    "fidelity",
    "head_separation",
    "layer_similarity",
    "principal_components",
    "projection",
    "separation",
    "token_projection",
    "vector_similarity",
]
