"""The embedded default: a small chat model trained from scratch on its own grammar, and pairs that steer it."""

from __future__ import annotations

from pathlib import Path

BEHAVIORS = ("sycophancy", "refusal", "mood")
SPLITS = ("train", "test")
KINDS = ("choices", "open")

__all__ = ["BEHAVIORS", "data_path", "weights_path"]


def weights_path() -> Path:
    """Folder of the shipped model, readable by `from_pretrained`."""
    return Path(__file__).parent / "weights"


def data_path(behavior: str, split: str, kind: str = "choices") -> Path:
    """Path of one shipped data file.

    Args:
        behavior: One of `BEHAVIORS`.
        split: "train" or "test"; their topics are disjoint.
        kind: "choices" for contrast pairs in the CAA format, "open" for open questions.

    Raises:
        ValueError: A name is not one of the valid ones.
    """
    for label, given, valid in (("behavior", behavior, BEHAVIORS), ("split", split, SPLITS), ("kind", kind, KINDS)):
        if given not in valid:
            raise ValueError(f"unknown demo {label} {given!r}: choose one of {', '.join(valid)}")
    name = split if kind == "choices" else f"open_{split}"
    return Path(__file__).parent / "data" / behavior / f"{name}.json"
