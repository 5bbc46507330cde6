"""What teaching gives: weights, the instructions they belong to, and how well they tell answers apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from steerkit.adapters import Adapted, Adapter, FullWeights
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import DataError, InputError
from steerkit.tables import Cell, Table, Tabular
from steerkit.training.fitting.curves import Curve
from steerkit.training.teaching.discrimination import Discrimination
from steerkit.training.teaching.dual import check_distinct
from steerkit.training.teaching.instructions import Instructions

Mode = Literal["none", "scit", "dual"]
NAMES: Mapping[str, tuple[str, ...]] = {"none": (), "scit": ("taught",), "dual": ("good", "bad")}
"""The weights that each way of teaching has."""
FILE = "taught.json"


@dataclass(frozen=True, eq=False, repr=False)
class Taught(Tabular):
    """A model that can tell its better self from its worse one, as weights beside the base.

    Args:
        mode: `"none"`: nothing was taught, the two instructions alone make the difference; `"scit"`: one set of
            weights, `"taught"`; `"dual"`: two, `"good"` and `"bad"`.
        instructions: The pair that goes with it; `None` for dual, whose two models need none.
        weights: By name.
        discrimination: How well held-out answers are told apart; `None` where nothing was held out.
        curves: Of the training, by the name of the weights.
        settings: How it was taught, as plain values.

    Raises:
        InputError: The weights are not those of the mode, or instructions are lacking.
        DataError: The good and the bad weights are the same.
    """

    mode: Mode
    instructions: Instructions | None
    weights: Mapping[str, Adapter | FullWeights] = field(default_factory=dict)
    discrimination: Discrimination | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if set(self.weights) != set(NAMES[self.mode]):
            raise InputError(f"mode {self.mode!r} has the weights {list(NAMES[self.mode])}, not {list(self.weights)}")
        if (self.instructions is None) != (self.mode == "dual"):
            has = "no instructions" if self.mode == "dual" else "a pair of instructions"
            raise InputError(f"mode {self.mode!r} goes with {has}")
        if self.mode == "dual":
            check_distinct(self.weights)

    @cached_property
    def distance(self) -> float | None:
        """How far the good and the bad weights are apart, as a share of their length; `None` unless there are both."""
        return check_distinct(self.weights) if self.mode == "dual" else None

    def on(self, model: HuggingFaceModel, name: str | None = None, *, override: bool = False) -> Adapted:
        """The model with what was taught, beside the model itself.

        Args:
            model: The base.
            name: Which weights; without it `"taught"` or `"good"`.
            override: Accept another base than it was taught on.

        Raises:
            InputError: There are no such weights.
            MismatchError: It was taught on another model.
        """
        chosen = name or next(iter(NAMES[self.mode]), "")
        if chosen not in self.weights:
            raise InputError(f"there are no weights {chosen!r}; mode {self.mode!r} has {list(self.weights)}")
        return self.weights[chosen].on(model, override=override)

    def table(self) -> Table:
        """What is shown of it: how well it tells answers apart."""
        parts = [f"{name}: {weights!r}" for name, weights in self.weights.items()]
        if "tokens" in self.settings:
            parts.append("instructions of {} (good) and {} (bad) tokens".format(*self.settings["tokens"]))
        if self.distance is not None:
            parts.append(f"good and bad weights differ by {self.distance:.3g} of their length")
        for name, curve in self.curves.items():
            parts.append(f"{name}: loss {curve.loss[0]:.4g} to {curve.loss[-1]:.4g} in {len(curve)} steps")
        title = f"Taught by {self.mode}"
        if self.discrimination is None:
            rows: list[list[Cell]] = [[part] for part in parts or ["nothing was trained"]]
            return Table(["what"], rows, f"{title}; nothing was held out")
        found = self.discrimination.table()
        return Table(found.columns, found.rows, f"{title}. {found.title}", "; ".join([found.note, *parts]))

    def plot(self) -> Any:
        """The margins of held-out answers; see `Discrimination.plot`.

        Raises:
            InputError: Nothing was held out.
        """
        if self.discrimination is None:
            raise InputError("nothing was held out, so there are no margins to draw; call discriminate")
        return self.discrimination.plot()

    def to_frame(self) -> Any:
        """The margins of held-out answers as a pandas DataFrame.

        Raises:
            InputError: Nothing was held out.
        """
        if self.discrimination is None:
            raise InputError("nothing was held out, so there are no margins to show; call discriminate")
        return self.discrimination.to_frame()

    def to_json(self) -> str:
        """All but the weights, as JSON."""
        told, found = self.instructions, self.discrimination
        return json.dumps(
            {
                "mode": self.mode,
                "instructions": None if told is None else [told.good, told.bad],
                "weights": {n: "full" if isinstance(w, FullWeights) else "lora" for n, w in self.weights.items()},
                "discrimination": None if found is None else found.as_dict(),
                "curves": {name: list(map(dict, curve.rows)) for name, curve in self.curves.items()},
                "settings": dict(self.settings),
            }
        )

    def save(self, folder: str | Path) -> Path:
        """Write `taught.json` and a folder for each set of weights: a plain peft folder where it is an adapter."""
        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        for name, weights in self.weights.items():
            weights.save(where / name)
        (where / FILE).write_text(self.to_json() + "\n", encoding="utf-8")
        return where

    @classmethod
    def load(cls, folder: str | Path) -> Taught:
        """Read what `save` wrote.

        Raises:
            InputError: The folder holds no such thing, or weights are lacking.
            DataError: `taught.json` is damaged.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise InputError(f"{folder} holds no {FILE}; give a folder that Taught.save wrote")
        try:
            content = json.loads(path.read_text("utf-8"))
            told, found = content["instructions"], content["discrimination"]
            return cls(
                content["mode"],
                None if told is None else Instructions(*told),
                {name: _load(Path(folder) / name, kind) for name, kind in content["weights"].items()},
                None if found is None else Discrimination.from_dict(found),
                {name: Curve(tuple(rows)) for name, rows in content["curves"].items()},
                content["settings"],
            )
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise DataError(f"{path} is damaged: {error}; teach again, or restore the file") from error


def _load(folder: Path, kind: str) -> Adapter | FullWeights:
    return FullWeights.load(folder) if kind == "full" else Adapter.load(folder)


def check_mode(mode: str) -> None:
    """Refuse a way of teaching that there is not.

    Raises:
        InputError: It is none of `"none"`, `"scit"` and `"dual"`.
    """
    if mode not in get_args(Mode):
        raise InputError(f"mode={mode!r} is not known; choose one of {', '.join(map(repr, get_args(Mode)))}")
