"""What a user gives to have an edit distilled, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.encoding import Encoded, encode
from steerkit.errors import InputError, LayerError, SteeringError
from steerkit.points import Layers
from steerkit.positions import Positions
from steerkit.steering import Edit, Steer
from steerkit.steering.edits import Unit
from steerkit.training.distilling.edit_teacher import EditTeacher, describe_placed, place_all, scoped
from steerkit.training.distilling.sequences import Answers, Texts, check_answering, read_request, write_answers
from steerkit.vectors import SteeringVector


def as_edits(
    source: Any, model: HuggingFaceModel, *, layer: Layers | None, coef: float, positions: Positions, unit: Unit
) -> tuple[Edit, ...] | None:
    """The edits meant by a vector or a `Steer`; `None` for any other source.

    Raises:
        InputError: The edits are not valid, or given twice.
        SteeringError: The `Steer` is of another model, acts at this moment, or differs by row.
    """
    if isinstance(source, SteeringVector | Tensor):
        if layer is None:
            raise LayerError("a vector needs a layer to be added at; give layer=..., as in Steer.add")
        return (Edit(source, layer=layer, coef=coef, positions=positions, unit=unit),)
    if not isinstance(source, Steer):
        return None
    if (layer, coef, positions, unit) != (None, 1.0, "generation", "raw"):
        raise InputError("layer, coef, positions and unit belong to a vector; the edits of a Steer have their own")
    if source.model is not model:
        raise SteeringError("the Steer is of another model; distil it on the one that it steers")
    if source.active:
        raise SteeringError("the Steer acts at this moment, so the model as it is cannot be seen; leave its with block")
    if any(receipt.row is not None for receipt in source.receipts):
        raise SteeringError("the Steer has edits for single rows; weights are the same for every row")
    return source.edits


class EditSource:
    """Edits with the texts to learn them on; everything is checked, and nothing was computed.

    Args:
        model: The model.
        edits: What is distilled.
        texts: What on.
        answers: Who answers prompts that have no answer.
        max_new_tokens: The most tokens of an answer.

    Raises:
        InputError: An edit, a text or an option is not valid, a sequence is too long, or no token is in scope.
    """

    def __init__(
        self, model: HuggingFaceModel, edits: Sequence[Edit], texts: Texts | None, *, answers: Answers,
        max_new_tokens: int,
    ) -> None:  # fmt: skip
        check_answering(answers, max_new_tokens)
        self._model = model
        self._edits = edits
        self._placed = place_all(edits, model)
        self._request = read_request(texts)
        self._answers = answers
        self._most = max_new_tokens
        self._request.check(model, max_new_tokens=max_new_tokens)
        scoped(edits, [*self._request.encoded(model), *self._longest_answers()])

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose output has targets."""
        return tuple(sorted({one.point.layer for one in self._placed}))

    def teacher(self, *, seed: int, folder: Path | None) -> EditTeacher:
        """The teacher, once the prompts have their answers."""
        asked = self._request.asked
        texts: list[str] = []
        if asked:
            key = {"model": self._model.info.fingerprint, "by": self._answers,
                   "edits": [describe_placed(one) for one in self._placed]}  # fmt: skip
            texts = write_answers(asked, self._writer(), max_new_tokens=self._most, seed=seed, folder=folder, key=key)
        return EditTeacher(self._model, self._edits, self._request.encoded(self._model, texts))

    def _writer(self) -> Any:
        if self._answers == "base":
            return self._model
        steer = Steer(self._model)
        for one in self._edits:
            steer.apply(one.operation, one.vector, layer=one.layer, coef=one.coef, positions=one.positions,
                        site=one.site, unit=one.unit, override=one.override)  # fmt: skip
        return steer

    def _longest_answers(self) -> list[Encoded]:
        """Prompts with as long an answer as there can be, to see whether any token would be in scope."""
        found = []
        for prompt in self._request.asked:
            one = encode(prompt, self._model.tokenizer, template=self._request.template)
            found.append(Encoded((*one.ids, *[0] * self._most), one.prompt_length, one.text))
        return found
