"""A training step of RAHF's second stage against the straightforward one, at equal losses; and what memory it takes.

The model has the proportions of a 7B one: 16 blocks, MLPs 2.7 times as wide as the stream, a vocabulary 8 times as
wide, the last target at 60 % of the depth. The straightforward step runs three teacher passes and the student through
all blocks, with all hidden states and all logits, padded to the longest text allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.subjects import tiny_tokenizer
from benchmarks.timing import Ratio, ratio
from steerkit.adapters import Attached, Lora, attach
from steerkit.backends.base import Batch
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.preferences import Preference
from steerkit.training.differences.collecting import collect_differences
from steerkit.training.differences.contrasts import find_contrast
from steerkit.training.differences.difference_teacher import DifferenceTeacher
from steerkit.training.differences.online_differences import OnlineDifferences, online_differences
from steerkit.training.differences.stored_differences import Differences
from steerkit.training.distilling.losses import Objective
from steerkit.training.distilling.shifts import look_at
from steerkit.training.distilling.student import Student
from steerkit.training.teaching.instructions import Instructions

LAYERS = (5, 6, 7, 8, 9)
ALPHA = 5.0
BATCH = 8
LONGEST = 320
TOLD = Instructions("Be good and tell the truth.", "Be bad and tell the lies..")


def model_of(*, hidden: int = 256) -> HuggingFaceModel:
    """A random Llama of a 7B model's proportions."""
    config = LlamaConfig(
        vocab_size=8 * hidden, hidden_size=hidden, intermediate_size=int(2.69 * hidden), num_hidden_layers=16,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return HuggingFaceModel(LlamaForCausalLM(config).eval(), tiny_tokenizer(), name=f"llama-16x{hidden}")


def preferences(count: int = 64) -> list[Preference]:
    """Texts of 100 to 250 prompt tokens and 20 to 64 answer tokens: one a character."""
    rng, found = Random(0), []
    for i in range(count):
        asked = (f"Question {i}: " + "what is true of it, and why is it so? " * 40)[: rng.randint(100, 220)]
        good, bad = ((word * 30)[: rng.randint(20, 64)] for word in (" it is so", " it is not"))
        found.append(Preference(Prompt(asked), good, bad, id=str(i)))
    return found


@dataclass
class Straightforward:
    """Three full passes for the targets, one for the student; everything padded to the longest text allowed."""

    attached: Attached
    source: OnlineDifferences

    def __call__(self, indices: list[int]) -> Tensor:
        contrast = self.source.contrast
        with torch.no_grad(), self.attached.only():
            good, bad, base = (
                self._states(self._padded(self.source.batch(indices, one).batch), self._spans(indices, one))
                for one in (contrast.positive, contrast.negative, contrast.base)
            )
        inputs = self._padded(self.source.batch(indices, contrast.base).batch)
        states = self._states(inputs, self._spans(indices, contrast.base))
        error = states - (base + ALPHA * (good - bad))
        return torch.linalg.vector_norm(error, dim=-1).mean()

    def _spans(self, indices: list[int], reading: object) -> Tensor:
        scope = self.source.batch(indices, reading).scope  # type: ignore[arg-type]
        wide = torch.zeros(len(scope), LONGEST, dtype=torch.bool)
        wide[:, LONGEST - scope.shape[1] :] = scope
        return wide

    def _padded(self, batch: Batch) -> Batch:
        """On the left up to the longest text allowed."""
        rows, width = batch.input_ids.shape
        wide = torch.zeros(rows, LONGEST, dtype=torch.long), torch.full((rows, LONGEST), -1)
        for to, tokens in zip(wide, (batch.input_ids, batch.position), strict=True):
            to[:, LONGEST - width :] = tokens
        return Batch(*wide, batch.prompt_length)

    def _states(self, batch: Batch, scope: Tensor) -> Tensor:
        out = self.attached.model.hf(
            input_ids=batch.input_ids, attention_mask=batch.real.long(), position_ids=batch.position.clamp(min=0),
            output_hidden_states=True, use_cache=False,
        )  # fmt: skip
        return torch.stack([out.hidden_states[layer + 1][scope] for layer in LAYERS]).float()


def _steps(
    model: HuggingFaceModel, attached: Attached, online: OnlineDifferences, stored: Differences
) -> tuple[Callable[[], Tensor], ...]:
    """The straightforward step, ours online, and ours from a store, over the same batches in turn."""
    objective = Objective(loss="l2", retain=0.0)
    students = []
    for source in (online, stored):
        teacher = DifferenceTeacher(model, source, alpha=ALPHA)
        students.append(Student(attached, teacher, objective, look_at(teacher, attached, batch=BATCH)))
    plain = Straightforward(attached, online)
    parameters = attached.parameters("student")

    def run(loss_of: Callable[[list[int]], Tensor]) -> Callable[[], Tensor]:
        state = {"at": 0}

        def step() -> Tensor:
            first = state["at"] % (len(online.samples) - BATCH)
            state["at"] += BATCH
            for one in parameters:
                one.grad = None
            loss = loss_of(list(range(first, first + BATCH)))
            loss.backward()
            return loss.detach()

        return step

    return (run(plain), *(run(lambda some, of=student: of(some, some)[0]) for student in students))


def run(*, runs: int = 7) -> Iterator[Ratio]:
    """Ratios of time, straightforward by ours; the losses of both are held equal to 1e-4 first."""
    model, data = model_of(), preferences()
    online = online_differences(model, data, find_contrast(instructions=TOLD), layers=LAYERS, seed=0)
    stored = collect_differences(model, data, instructions=TOLD, layers=LAYERS, seed=0, progress=False)
    form = Lora(dropout=0.0).config(model, blocks=range(LAYERS[-1] + 1))
    with attach(model, {"student": form}) as attached, attached.only("student"):
        plain, fast, faster = _steps(model, attached, online, stored)
        losses = [float(one()) for one in (plain, fast, faster)]
        if max(losses) - min(losses) > 1e-4 * losses[0]:
            raise AssertionError(f"the losses differ: {losses}")
        yield ratio("distil: straightforward step / ours, online", fast, plain, runs=runs, at_least=1.5, inverse=True)
        yield ratio("distil: straightforward step / ours, stored", faster, plain, runs=runs, at_least=2, inverse=True)
