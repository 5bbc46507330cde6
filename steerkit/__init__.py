"""Find a direction in a language model, see whether it is real, steer with it, and put it into the weights."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "ActivationStore": "steerkit.store",
    "ChoiceScores": "steerkit.evaluation",
    "ContrastPair": "steerkit.data.pairs",
    "Edit": "steerkit.steering",
    "Pairs": "steerkit.data.pairs",
    "Point": "steerkit.points",
    "Preference": "steerkit.data.preferences",
    "Preferences": "steerkit.data.preferences",
    "Prompt": "steerkit.data.chat",
    "Report": "steerkit.report",
    "Side": "steerkit.data.pairs",
    "Steer": "steerkit.steering",
    "SteeringVector": "steerkit.vectors",
    "Sweep": "steerkit.evaluation",
    "compare": "steerkit.evaluation",
    "extract": "steerkit.extraction",
    "layer_similarity": "steerkit.diagnostics",
    "load": "steerkit.backends.loading",
    "load_pairs": "steerkit.data.loading",
    "load_preferences": "steerkit.data.preferences",
    "load_questions": "steerkit.data.loading",
    "match_norms": "steerkit.vectors",
    "plan_recording": "steerkit.recording",
    "preview_reads": "steerkit.recording",
    "principal_components": "steerkit.diagnostics",
    "projection": "steerkit.diagnostics",
    "record": "steerkit.recording",
    "record_with_ray": "steerkit.recording",
    "score_choices": "steerkit.evaluation",
    "separation": "steerkit.diagnostics",
    "sweep": "steerkit.evaluation",
    "token_projection": "steerkit.diagnostics",
    "vector_similarity": "steerkit.diagnostics",
}
"""Each public name and the module it lives in; imported when first used."""

__all__ = [
    "ActivationStore",
    "ChoiceScores",
    "ContrastPair",
    "Edit",
    "Pairs",
    "Point",
    "Preference",
    "Preferences",
    "Prompt",
    "Report",
    "Side",
    "Steer",
    "SteeringVector",
    "Sweep",
    "compare",
    "extract",
    "layer_similarity",
    "load",
    "load_pairs",
    "load_preferences",
    "load_questions",
    "match_norms",
    "plan_recording",
    "preview_reads",
    "principal_components",
    "projection",
    "record",
    "record_with_ray",
    "score_choices",
    "separation",
    "sweep",
    "token_projection",
    "vector_similarity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
