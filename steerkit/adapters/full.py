"""A model's own parameters, tuned: kept beside the base and swapped in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from steerkit.adapters.adapted import Adapted
from steerkit.adapters.provenance import check_base, read_meta, write_meta
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError

WEIGHTS = "full_weights.safetensors"


@dataclass(frozen=True, eq=False)
class FullWeights:
    """Tuned copies of a model's parameters, by their names in the transformers model.

    Args:
        tensors: The parameters that differ from the base.
        meta: Where they come from.
    """

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"FullWeights({len(self.tensors)} tensors, {self.size:,} parameters)"

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(one.numel() for one in self.tensors.values())

    def on(self, model: HuggingFaceModel, *, override: bool = False) -> Adapted:
        """The model with these parameters, beside the model itself.

        Raises:
            MismatchError: They were made with another model.
        """
        check_base(self.meta, model, override=override)
        return Adapted(model, self)

    def save(self, folder: str | Path) -> Path:
        """Write them into a folder."""
        from safetensors.torch import save_file

        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        save_file({name: one.contiguous() for name, one in self.tensors.items()}, where / WEIGHTS)
        write_meta(where, self.meta)
        return where

    @classmethod
    def load(cls, folder: str | Path) -> FullWeights:
        """Read what `save` wrote.

        Raises:
            InputError: The folder holds no such weights.
        """
        from safetensors.torch import load_file

        where = Path(folder)
        if not (where / WEIGHTS).is_file():
            raise InputError(f"{where} holds no {WEIGHTS}; give the folder that FullWeights.save wrote")
        return cls(load_file(where / WEIGHTS), read_meta(where))
