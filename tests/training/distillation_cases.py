"""What the tests of distillation share: a tiny model, texts of different lengths, a vector, a student at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tiny import tiny

from steerkit.adapters import Lora, attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Side
from steerkit.steering import Edit
from steerkit.training.distilling.edit_source import EditSource
from steerkit.training.distilling.losses import Objective
from steerkit.training.distilling.shifts import look_at
from steerkit.training.distilling.student import Student
from steerkit.vectors import SteeringVector

QUESTIONS = ("Is it", "Is the sea really dry", "Why", "What do you think of that")


def pairs() -> list[ContrastPair]:
    prompts = [Prompt([{"role": "user", "content": one}]) for one in QUESTIONS]
    return [ContrastPair(Side(one, "yes, it is"), Side(one, "no"), id=str(i)) for i, one in enumerate(prompts)]


def vector_for(model: HuggingFaceModel, *layers: int) -> SteeringVector:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(len(layers), model.info.hidden_size, generator=generator)
    return SteeringVector(values, layers=list(layers))


@contextmanager
def student_of(
    edits: list[Edit], model: HuggingFaceModel, *, lora: Lora | None = None, filled: bool = True, **options: Any
) -> Iterator[Student]:
    """A student with its adapter acting; `filled` gives it random weights, so that it changes something."""
    teacher = EditSource(model, edits, pairs(), answers="steered", max_new_tokens=4).teacher(seed=0, folder=None)
    recompute = options.pop("recompute", False)
    objective = Objective(**{"retain": 1.0, **options})
    config = (lora or Lora(r=4, targets="all-linear")).config(model, blocks=range(teacher.layers[-1] + 1))
    with attach(model, {"student": config}) as attached:
        parameters = attached.parameters("student")
        if filled:
            with torch.no_grad():
                for one in parameters:
                    one.normal_(std=0.1)
        wanted = look_at(teacher, attached, batch=4)
        with attached.only("student"):
            yield Student(attached, teacher, objective, wanted, recompute=recompute)


def gradients(student: Student, piece: list[int], batch: list[int]) -> list[torch.Tensor]:
    """Of each trained tensor, for the share of a piece in its batch."""
    parameters = student.attached.parameters("student")
    for one in parameters:
        one.grad = None
    student(piece, batch)[0].backward()
    return [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in parameters]


__all__ = ["Edit", "gradients", "pairs", "student_of", "tiny", "vector_for"]
