"""What a distillation made: an adapter, and how it came about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.adapters import Acting, Adapted, Adapter, FullWeights
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError, SteeringError
from steerkit.steering import Edit, Steer
from steerkit.steering.recipes import read as read_edits
from steerkit.steering.recipes import write as write_edits
from steerkit.tables import Cell, Table, Tabular
from steerkit.training.distilling.shifts import WantedShifts
from steerkit.training.fitting.curves import Curve

if TYPE_CHECKING:
    from steerkit.training.verifying.verification import Verification

NAME = "distilled.json"
FOUNDATION = "foundation"
EDITS = "edits.safetensors"
TAIL = 10
"""Last steps of the training that its end is judged by."""


class Distilled(Acting, Tabular):
    """A model whose weights do what an edit did.

    Idle, it changes nothing. It acts inside `with`, and inside its own `generate` and `forward`; `model` stays the
    model as it is.

    Args:
        model: The base.
        adapter: All that was trained, as one adapter on the base (or on the foundation).
        curve: The training, step by step.
        wanted: How large the wanted changes were.
        foundation: Tuned weights of the model itself that the adapter was trained on.
        edits: What was distilled, where that is known.
    """

    def __init__(
        self,
        model: HuggingFaceModel,
        adapter: Adapter,
        curve: Curve,
        wanted: WantedShifts,
        *,
        foundation: FullWeights | None = None,
        edits: Sequence[Edit] = (),
    ) -> None:
        super().__init__(model)
        self.adapter = adapter
        self.curve = curve
        self.wanted = wanted
        self.foundation = foundation
        self.edits = tuple(edits)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decided the weights: model, source, objective, adapter and training."""
        return dict(self.adapter.meta)

    @property
    def steer(self) -> Steer | None:
        """The edit that was distilled, to hold the weights against; `None` where there is none."""
        return Steer(self.model).extend(self.edits) if self.edits else None

    @property
    def missing(self) -> float:
        """The share of the wanted change that was missing at the end of the training; see `verify` for other texts."""
        rows = self.curve.rows[-TAIL:]
        shift = sum(row["shift"] for row in rows)
        return sum(row["error"] for row in rows) / shift if shift > 0 else 0.0

    @property
    def cosine(self) -> float:
        """Mean cosine of the change with the wanted one at the end of the training."""
        rows = self.curve.rows[-TAIL:]
        return sum(row["cosine"] for row in rows) / len(rows)

    def on(self, *, scale: float = 1.0) -> Adapted:
        """The model with the adapter's change multiplied; 0 is the model bit for bit, -1 turns the change round.

        Raises:
            InputError: `scale` is not finite, or the adapter stands on tuned weights.
        """
        if self.foundation is not None:
            raise InputError("this adapter was trained on tuned weights of the whole model, which have no scale; use "
                             "it inside `with`")  # fmt: skip
        return self.adapter.on(self.model, scale=scale, override=True)

    def _open(self, stack: ExitStack) -> None:
        if self.foundation is not None:
            stack.enter_context(self.foundation.on(self.model, override=True))
        stack.enter_context(self.adapter.on(self.model, override=True))

    def verify(
        self,
        *,
        prompts: Any = None,
        pairs: Any = None,
        neutral: Any = None,
        scales: Sequence[float] = (-1.0, 0.0, 0.5, 1.0, 1.5),
        steered: Any = None,
    ) -> Verification:
        """Whether the weights really do what the edit did, on texts they were not trained on.

        See `steerkit.training.verifying.verification.verify`, which has further options.
        """
        from steerkit.training.verifying.verification import verify

        return verify(self, prompts=prompts, pairs=pairs, neutral=neutral, scales=scales, steered=steered)

    def save(self, folder: str | Path) -> Path:
        """Write a plain peft folder, with the training and the edit beside it; an operation of your own is left out."""
        where = self.adapter.save(folder)
        with suppress(SteeringError):
            write_edits(where / EDITS, self.edits)
        if self.foundation is not None:
            self.foundation.save(where / FOUNDATION)
        told = {"wanted": self.wanted.as_dict(), "curve": [dict(row) for row in self.curve.rows]}
        (where / NAME).write_text(json.dumps(told) + "\n", encoding="utf-8")
        return where

    @classmethod
    def load(cls, folder: str | Path, model: HuggingFaceModel, *, override: bool = False) -> Distilled:
        """Read what `save` wrote.

        Args:
            folder: Where.
            model: The base.
            override: Accept another base than it was trained on.

        Raises:
            InputError: The folder holds no such result.
            MismatchError: It was trained on another model.
        """
        where = Path(folder)
        adapter = Adapter.load(where)
        if not (where / NAME).is_file():
            raise InputError(f"{where} holds an adapter but no {NAME}; use it by Adapter.load(folder).on(model)")
        adapter.on(model, override=override)
        told = json.loads((where / NAME).read_text("utf-8"))
        foundation = FullWeights.load(where / FOUNDATION) if (where / FOUNDATION).is_dir() else None
        edits = read_edits(where / EDITS) if (where / EDITS).is_file() else ()
        return cls(model, adapter, Curve(tuple(told["curve"])), WantedShifts.from_dict(told["wanted"]),
                   foundation=foundation, edits=edits)  # fmt: skip

    def table(self) -> Table:
        """What is shown of it."""
        wanted = self.wanted
        columns = ["layer", "wanted change", "relative", "consistency"]
        numbers = (wanted.shift, wanted.relative, wanted.consistency)
        rows: list[list[Cell]] = [[at, *(float(one[i]) for one in numbers)] for i, at in enumerate(wanted.layers)]
        loss = self.curve.loss
        trained = f"{len(self.curve)} steps, loss {loss[0]:.4g} to {loss[-1]:.4g}"
        title = f"Distilled on {self.model.info.name}: {self.adapter!r}; {trained}"
        note = f"at the end of training {self.missing:.0%} of the wanted change is missing, cosine {self.cosine:.2f}"
        return Table(columns, rows, title, note=note)

    def to_json(self) -> str:
        """Settings, wanted changes and the end of the training."""
        return json.dumps({"settings": self.settings, "wanted": self.wanted.as_dict(), "steps": len(self.curve),
                           "first_loss": self.curve.loss[0], "last_loss": self.curve.loss[-1],
                           "missing": self.missing, "cosine": self.cosine})  # fmt: skip

    def plot(self) -> Any:
        """The training, step by step; see `Curve.plot`."""
        return self.curve.plot()
