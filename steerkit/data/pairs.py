"""Contrast pairs: two texts that differ in one behaviour."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.data.chat import Prompt


@dataclass(frozen=True)
class Side:
    """One side of a pair: a prompt and the answer that follows it (which may be empty)."""

    prompt: Prompt
    answer: str = ""


@dataclass(frozen=True)
class ContrastPair:
    """Two texts that differ in one behaviour: in the answer, or in the prompt (system or instruction)."""

    positive: Side
    negative: Side
    id: str = ""
