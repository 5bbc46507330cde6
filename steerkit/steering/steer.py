"""Change a model's activations while it runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Batch, Model, Prefix
from steerkit.data.chat import PromptLike, as_prompts
from steerkit.errors import NoEffectWarning, SteeringError
from steerkit.points import Site
from steerkit.positions import Positions
from steerkit.steering import recipes
from steerkit.steering.action import Action, without_effect
from steerkit.steering.edits import Edit, LayerChoice, Unit
from steerkit.steering.operations import Ablate, Add, Clamp, Operation, PreserveNorm
from steerkit.steering.placement import Placed, describe_coef, place, place_rows
from steerkit.steering.preview import Preview, mark
from steerkit.steering.receipts import Receipt
from steerkit.tables import Cell, Table, Tabular
from steerkit.vectors import SteeringVector

COLUMNS = ("edit", "operation", "layer", "site", "coef", "raw", "positions", "tokens", "change", "relative")


class Steer(Tabular):
    """A list of edits of one model.

    Idle, it changes nothing. It acts inside `with`, and inside its own `generate` and `forward`; an edit added inside
    `with` acts at once. Edits act one after the other, those of two `Steer` in the order of entering. Afterwards the
    model is itself, bit for bit, also after an exception.

    Args:
        model: What `load` returns; it stays the baseline, without the edits.

    Raises:
        SteeringError: `model` is no steerkit model.

    Source: `add` at `positions="generation"` is CAA (Rimsky et al. 2024, section 3; `BlockOutputWrapper` in its code).

    Example:
        >>> import torch, steerkit as sk
        >>> model = sk.load("demo")
        >>> with Steer(model) as steer:
        ...     _ = steer.add(torch.ones(model.info.hidden_size), layer=1, coef=-0.5, positions="all")
        ...     _ = model.forward("Hello")
        >>> steer.receipts[0].passes
        1
    """

    def __init__(self, model: Model) -> None:
        _check_model(model)
        self._model = model
        self._actions: list[Action] = []
        self._stack: ExitStack | None = None

    @property
    def model(self) -> Model:
        """The model it steers, which stays the baseline."""
        return self._model

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Every edit, in the order of their coming."""
        return tuple(dict.fromkeys(edit for edit, _ in self._by_edit()))

    @property
    def active(self) -> bool:
        """The edits act at this moment."""
        return self._stack is not None

    @property
    def receipts(self) -> list[Receipt]:
        """What each edit did at each of its layers since the last entering."""
        return [receipt for action in self._actions for receipt in action.receipts]

    def add(
        self,
        vector: SteeringVector | Tensor,
        *,
        layer: LayerChoice | None = None,
        coef: float | Tensor = 1.0,
        positions: Positions = "generation",
        site: Site | None = None,
        unit: Unit = "raw",
        preserve_norm: bool = False,
        override: bool = False,
    ) -> Steer:
        """Add a vector: `h + coef * v`; the other arguments are those of `Edit`.

        With `preserve_norm` every activation keeps its length.

        Raises:
            InputError: Something given is not valid, or does not fit the model.
            SteeringError: `coef` or `unit` is not valid.
        """
        operation = PreserveNorm(Add()) if preserve_norm else Add()
        return self.apply(operation, vector, layer=layer, coef=coef, positions=positions, site=site, unit=unit,
                          override=override)  # fmt: skip

    def ablate(
        self,
        vector: SteeringVector | Tensor,
        *,
        layer: LayerChoice | None = None,
        coef: float | Tensor = 1.0,
        positions: Positions = "generation",
        site: Site | None = None,
        override: bool = False,
    ) -> Steer:
        """Take out the component along a vector, `coef` being the share taken out; see `Ablate`."""
        return self.apply(Ablate(), vector, layer=layer, coef=coef, positions=positions, site=site, override=override)

    def clamp(
        self,
        vector: SteeringVector | Tensor,
        *,
        layer: LayerChoice | None = None,
        value: float | Tensor,
        positions: Positions = "generation",
        site: Site | None = None,
        unit: Unit = "raw",
        override: bool = False,
    ) -> Steer:
        """Set the projection on the unit vector to `value`, in the units of the activations; see `Clamp`."""
        return self.apply(Clamp(), vector, layer=layer, coef=value, positions=positions, site=site, unit=unit,
                          override=override)  # fmt: skip

    def apply(
        self,
        operation: Operation,
        vector: SteeringVector | Tensor,
        *,
        layer: LayerChoice | None = None,
        coef: float | Tensor = 1.0,
        positions: Positions = "generation",
        site: Site | None = None,
        unit: Unit = "raw",
        override: bool = False,
    ) -> Steer:
        """Any operation, such as one from a file of your own; see `Operation`."""
        return self.extend([Edit(vector, layer=layer, coef=coef, operation=operation, positions=positions, site=site,
                                 unit=unit, override=override)])  # fmt: skip

    def extend(self, edits: Iterable[Edit]) -> Steer:
        """Several edits, made beforehand or taken from another `Steer` (`other.edits`), in their order."""
        for edit in edits:
            self._extend(place(edit, self._model.info))
        return self

    def rows(self, rows: Sequence[Sequence[Edit]]) -> Steer:
        """Different edits for each row of the batch.

        Args:
            rows: One list of edits for each prompt, `[]` for a row left alone. With beams or several sequences a
                prompt, a prompt's edits go with all of its rows.

        Raises:
            SteeringError: `rows` has another form, or an edit in it has a coefficient per row.
        """
        return self._extend(place_rows(rows, self._model.info))

    def save(self, path: str | Path) -> Path:
        """Write every edit, with its vector, to one safetensors file.

        Raises:
            SteeringError: There is no edit, one acts on single rows of a batch, or an operation is not steerkit's own.
        """
        if any(row is not None for _, row in self._by_edit()):
            raise SteeringError("edits of single rows belong to one batch and are not saved; save one Steer a row")
        return recipes.write(path, self.edits)

    @classmethod
    def load(cls, path: str | Path, model: Model, *, override: bool = False) -> Steer:
        """The edits of a file that `save` wrote, on a model.

        Args:
            path: Of the file.
            model: What `load` returns.
            override: Accept vectors that were made with another model, as long as their shapes fit.

        Raises:
            SteeringError: There is no such file, or it holds no edits.
            MismatchError: A vector was made with another model.
        """
        return cls(model).extend(replace(edit, override=override or edit.override) for edit in recipes.read(path))

    def preview(self, prompts: PromptLike | Sequence[PromptLike]) -> Preview:
        """The tokens of some prompts that each edit would change; nothing is computed."""
        self._check_rows(len(as_prompts(prompts)))
        return mark(list(dict.fromkeys(self._by_edit())), prompts, tokenizer=self._model.tokenizer)

    def generate(
        self, prompts: PromptLike | Sequence[PromptLike], *, max_new_tokens: int = 64, **decoding: Any
    ) -> list[str]:
        """The model's steered answers; see `Model.generate`."""
        self._check_rows(len(as_prompts(prompts)))
        with self._acting():
            return self._model.generate(prompts, max_new_tokens=max_new_tokens, **decoding)

    def forward(
        self,
        prompts: PromptLike | Sequence[PromptLike] | Batch,
        *,
        columns: Sequence[int] | None = None,
        until: int | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch pos vocab"]:
        """The model's steered logits; see `Model.forward`."""
        if not isinstance(prompts, Batch):
            self._check_rows(len(as_prompts(prompts)))
        with self._acting():
            return self._model.forward(prompts, columns=columns, until=until, prefix=prefix)

    def __enter__(self) -> Steer:
        if self._stack is not None:
            raise SteeringError("this Steer acts already; leave it before entering it again, or make a second one to "
                                "steer twice")  # fmt: skip
        self._stack = self._open(self._actions)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()
        if kind is None:
            self._warn()

    def _extend(self, placed: Sequence[Placed]) -> Steer:
        actions = [Action(one) for one in placed]
        if self._stack is not None:
            self._stack.enter_context(self._open(actions))
        self._actions += actions
        return self

    def _open(self, actions: Sequence[Action]) -> ExitStack:
        """All of the hooks or none."""
        with ExitStack() as stack:
            for action in actions:
                action.reset()
                stack.enter_context(self._model.hook(action.placed.point, action))
            return stack.pop_all()

    @contextmanager
    def _acting(self) -> Iterator[None]:
        if self._stack is not None:
            yield
            return
        with self:
            yield

    def _by_edit(self) -> list[tuple[Edit, int | None]]:
        return [pair for action in self._actions for pair in action.placed.edits]

    def _check_rows(self, prompts: int) -> None:
        for action in self._actions:
            rows = action.placed.rows
            if rows is not None and rows != prompts:
                raise SteeringError(f"the edits are for {rows} rows, but {prompts} prompts are given; give one "
                                    "coefficient (or list of edits) for each prompt")  # fmt: skip

    def _warn(self) -> None:
        for edit, row, passes in without_effect(self._actions):
            where = "" if row is None else f" (row {row})"
            warnings.warn(f"{edit!r}{where} touched no token in {passes} forward passes: none stood at positions="
                          f"{edit.positions!r}. They may lie beyond the texts; steer.preview(prompts) shows what "
                          "is selected", NoEffectWarning, stacklevel=3)  # fmt: skip

    def table(self) -> Table:
        """What is shown of it."""
        rows: list[list[Cell]] = []
        order = {edit: i for i, edit in enumerate(self.edits)}
        for action in self._actions:
            point = action.placed.point
            for receipt in action.receipts:
                edit, ran = receipt.edit, receipt.passes > 0
                coef = edit.strength if edit.unit == "raw" else f"{edit.strength} {edit.unit}"
                raw = describe_coef(action.placed, row=receipt.row)
                where = str(edit.positions) if receipt.row is None else f"{edit.positions} of row {receipt.row}"
                done: list[Cell] = [receipt.tokens, receipt.change_norm, receipt.relative] if ran else [None] * 3
                rows.append([order[edit], repr(edit.operation), point.layer, point.site, coef, raw, where, *done])
        state = "acting" if self.active else "idle"
        edits = "1 edit" if len(order) == 1 else f"{len(order)} edits"
        return Table(COLUMNS, rows, f"Steer of {self._model.info.name}: {edits}, {state}")


def _check_model(model: object) -> None:
    if not isinstance(model, Model):
        raise SteeringError(f"Steer takes a steerkit model, not a {type(model).__name__}; wrap it: "
                            "sk.load(hf_model, tokenizer=tokenizer)")  # fmt: skip
