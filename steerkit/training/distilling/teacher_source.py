"""What a user gives to have differences distilled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.pairs import ContrastPair
from steerkit.errors import DataError, InputError
from steerkit.points import Layers
from steerkit.training.differences.contrasts import find_contrast
from steerkit.training.differences.difference_teacher import DifferenceTeacher
from steerkit.training.differences.layers import TargetLayers
from steerkit.training.differences.online_differences import OnlineDifferences, online_differences
from steerkit.training.differences.stored_differences import Differences
from steerkit.training.distilling.targets import Teacher
from steerkit.training.teaching.taught import Taught


def as_teacher(
    source: Any,
    model: HuggingFaceModel,
    *,
    prompts: Any = None,
    layer: Layers | TargetLayers | None = None,
    coef: float = 1.0,
    positions: Any = "generation",
    unit: str = "raw",
) -> Teacher:
    """The teacher meant by differences, by what `teach` gave, or by a teacher.

    Args:
        source: What is distilled.
        model: The model that is trained.
        prompts: The preferences, for what `teach` gave; everything else has its own.
        layer: Some of the layers that the source has.
        coef: How far to go along the differences.
        positions: Of an edit alone.
        unit: Of an edit alone.

    Raises:
        InputError: It is nothing that can be distilled, or something is given that it has of its own.
    """
    if (positions, unit) != ("generation", "raw"):
        raise InputError("positions and unit belong to a vector; differences have their own tokens and lengths")
    if isinstance(source, Taught):
        if not prompts or any(isinstance(one, str | ContrastPair) for one in prompts):
            raise DataError("what was taught is distilled on preferences; give prompts=preferences")
        source = online_differences(model, prompts, find_contrast(source), layers=_target_layers(layer))
        return DifferenceTeacher(model, source, alpha=coef)
    if prompts is not None:
        raise InputError(f"a {type(source).__name__} has its own texts; leave prompts out")
    if isinstance(source, Differences | OnlineDifferences):
        return DifferenceTeacher(model, source, alpha=coef, layers=_own_layers(layer))
    if not isinstance(source, Teacher):
        raise InputError(f"a {type(source).__name__} cannot be distilled; give a vector, a Steer, differences of "
                         "preferences, or what teach gave")  # fmt: skip
    if (layer, coef) != (None, 1.0):
        raise InputError("this teacher has its own layers and strength; leave layer and coef out")
    return source


def _target_layers(layer: Any) -> TargetLayers | None:
    return list(layer) if isinstance(layer, Iterable) and not isinstance(layer, str) else layer


def _own_layers(layer: Any) -> list[int] | None:
    if layer is None or layer == "all":
        return None
    if isinstance(layer, str):
        raise InputError(f"layer={layer!r} is not valid here; give a list of the differences' own layers")
    return [layer] if isinstance(layer, int) else list(layer)
