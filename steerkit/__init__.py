"""Find a direction in a language model, see whether it is real, steer with it, and put it into the weights."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "ActivationStore": "steerkit.store",
    "Adapter": "steerkit.adapters",
    "ChoiceScores": "steerkit.evaluation",
    "ContrastPair": "steerkit.data.pairs",
    "Differences": "steerkit.training.differences.stored_differences",
    "Distilled": "steerkit.training.distilling.distilled",
    "Edit": "steerkit.steering",
    "Fit": "steerkit.training.fitting.fit",
    "Instructions": "steerkit.training.teaching.instructions",
    "Lora": "steerkit.adapters",
    "Objective": "steerkit.training.distilling.losses",
    "Pairs": "steerkit.data.pairs",
    "Parity": "steerkit.agreement",
    "Point": "steerkit.points",
    "Preference": "steerkit.data.preferences",
    "Preferences": "steerkit.data.preferences",
    "Prompt": "steerkit.data.chat",
    "Report": "steerkit.report",
    "Side": "steerkit.data.pairs",
    "Steer": "steerkit.steering",
    "SteeringVector": "steerkit.vectors",
    "Sweep": "steerkit.evaluation",
    "Taught": "steerkit.training.teaching.taught",
    "bake_bias": "steerkit.interchange",
    "bias_adapter": "steerkit.interchange",
    "collect_differences": "steerkit.training.differences.collecting",
    "compare": "steerkit.evaluation",
    "compare_methods": "steerkit.training.comparing.comparison",
    "discriminate": "steerkit.training.teaching.margins",
    "distill": "steerkit.training.distilling.distillation",
    "extract": "steerkit.extraction",
    "fidelity": "steerkit.diagnostics",
    "head_separation": "steerkit.diagnostics",
    "layer_similarity": "steerkit.diagnostics",
    "load": "steerkit.backends.loading",
    "load_pairs": "steerkit.data.loading",
    "load_preferences": "steerkit.data.preferences",
    "load_questions": "steerkit.data.loading",
    "match_norms": "steerkit.vectors",
    "parity": "steerkit.agreement",
    "plan_recording": "steerkit.recording",
    "preview_reads": "steerkit.recording",
    "principal_components": "steerkit.diagnostics",
    "projection": "steerkit.diagnostics",
    "rahf": "steerkit.training.alignment",
    "record": "steerkit.recording",
    "record_with_ray": "steerkit.recording",
    "save_merged": "steerkit.interchange",
    "save_peft": "steerkit.interchange",
    "score_choices": "steerkit.evaluation",
    "separation": "steerkit.diagnostics",
    "stack": "steerkit.adapters",
    "sweep": "steerkit.evaluation",
    "teach": "steerkit.training.teaching.course",
    "token_projection": "steerkit.diagnostics",
    "vector_similarity": "steerkit.diagnostics",
}
"""Each public name and the module it lives in; imported when first used."""

__all__ = [
    "ActivationStore",
    "Adapter",
    "ChoiceScores",
    "ContrastPair",
    "Differences",
    "Distilled",
    "Edit",
    "Fit",
    "Instructions",
    "Lora",
    "Objective",
    "Pairs",
    "Parity",
    "Point",
    "Preference",
    "Preferences",
    "Prompt",
    "Report",
    "Side",
    "Steer",
    "SteeringVector",
    "Sweep",
    "Taught",
    "bake_bias",
    "bias_adapter",
    "collect_differences",
    "compare",
    "compare_methods",
    "discriminate",
    "distill",
    "extract",
    "fidelity",
    "head_separation",
    "layer_similarity",
    "load",
    "load_pairs",
    "load_preferences",
    "load_questions",
    "match_norms",
    "parity",
    "plan_recording",
    "preview_reads",
    "principal_components",
    "projection",
    "rahf",
    "record",
    "record_with_ray",
    "save_merged",
    "save_peft",
    "score_choices",
    "separation",
    "stack",
    "sweep",
    "teach",
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
