"""What RAHF made: what was taught, the differences, the weights, and whether they prefer what was preferred."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steerkit.adapters import Adapted, Adapter
from steerkit.backends.base import Batch, Prefix
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import PromptLike
from steerkit.tables import Table, Tabular
from steerkit.training.differences.stored_differences import Differences
from steerkit.training.distilling.distilled import Distilled
from steerkit.training.preferring import Preferring
from steerkit.training.teaching.taught import Taught

NAMES = {"none": "LORRA", "scit": "RAHF-SCIT", "dual": "RAHF-DUAL"}
FILE = "rahf.json"


@dataclass(frozen=True, eq=False, repr=False)
class Rahf(Tabular):
    """A model aligned by its own states.

    Idle, it changes nothing; it acts inside `with`, and inside its own `generate` and `forward`.

    Args:
        taught: What was taught first.
        differences: What was read then; `None` where they were computed while training.
        distilled: The weights.
        alpha: How far along the differences they were to go.
        preferring: Of held-out preferences, which answer is likelier: for the base, for what the student began with
            (where that is not the base), and for the distilled weights. What distilling adds to teaching is the
            difference of the last two.
    """

    taught: Taught
    differences: Differences | None
    distilled: Distilled
    alpha: float
    preferring: Preferring

    @property
    def name(self) -> str:
        """`"LORRA"`, `"RAHF-SCIT"` or `"RAHF-DUAL"`."""
        return NAMES[self.taught.mode]

    @property
    def model(self) -> HuggingFaceModel:
        """The base."""
        return self.distilled.model

    @property
    def adapter(self) -> Adapter:
        """All that acts, as one adapter on the base: what the student began with, and what was distilled."""
        return self.distilled.adapter

    def on(self, *, scale: float = 1.0) -> Adapted:
        """The model with the change multiplied; see `Distilled.on`."""
        return self.distilled.on(scale=scale)

    def __enter__(self) -> Rahf:
        self.distilled.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.distilled.__exit__(kind, error, trace)

    def generate(
        self, prompts: PromptLike | Sequence[PromptLike], *, max_new_tokens: int = 64, **decoding: Any
    ) -> list[str]:
        """The answers of the aligned model; see `Model.generate`."""
        return self.distilled.generate(prompts, max_new_tokens=max_new_tokens, **decoding)

    def forward(
        self,
        prompts: PromptLike | Sequence[PromptLike] | Batch,
        *,
        columns: Sequence[int] | None = None,
        until: int | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch pos vocab"]:
        """The logits of the aligned model; see `Model.forward`."""
        return self.distilled.forward(prompts, columns=columns, until=until, prefix=prefix)

    def verify(self, **options: Any) -> Any:
        """Whether the weights do what was wanted; see `Distilled.verify`."""
        return self.distilled.verify(**options)

    @property
    def parts(self) -> tuple[Tabular, ...]:
        """The tables of all stages, in order."""
        read = () if self.differences is None else (self.differences,)
        return (self.taught, *read, self.distilled, self.preferring)

    def table(self) -> Table:
        """The last of them: which answer is likelier. `repr` shows all."""
        found = self.preferring.table()
        return Table(found.columns, found.rows, f"{self.name}, alpha {self.alpha:g}. {found.title}", self._note())

    def _note(self) -> str:
        began = [name for name in self.preferring.margins if name not in ("base", "distilled")]
        return f"the student began with the weights {began[0]!r}" if began else "the student began with the plain model"

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, (*self.parts[:-1], self.table())))

    def _repr_html_(self) -> str:
        return "".join(part._repr_html_() for part in (*self.parts[:-1], self.table()))

    def plot(self) -> Any:
        """The distillation, step by step; the other parts have figures of their own."""
        return self.distilled.plot()

    def to_json(self) -> str:
        """All numbers."""
        texts = {"taught": self.taught.to_json(), "distilled": self.distilled.to_json()}
        texts["preferring"] = self.preferring.to_json()
        if self.differences is not None:
            texts["differences"] = self.differences.summary.to_json()
        found = {name: json.loads(text) for name, text in texts.items()}
        return json.dumps({"name": self.name, "alpha": self.alpha, **found})

    def save(self, folder: str | Path) -> Path:
        """Write the weights as a plain peft folder `adapter`, what was taught as `taught`, and `rahf.json`."""
        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        self.distilled.save(where / "adapter")
        self.taught.save(where / "taught")
        (where / FILE).write_text(self.to_json() + "\n", encoding="utf-8")
        return where
