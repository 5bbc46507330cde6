"""LoRA weights apart from any model."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.adapters.adapted import Adapted
from steerkit.adapters.provenance import check_base, read_meta, write_meta
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError

if TYPE_CHECKING:
    from peft import LoraConfig

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True, eq=False)
class Adapter:
    r"""A trained LoRA adapter, on the CPU, with peft's own names: a change $\frac{\alpha}{r} B A$ of some weights.

    Args:
        config: peft's configuration.
        weights: The tensors, by peft's names.
        meta: Where it comes from, such as `{"model": model.info.as_dict()}`.

    Raises:
        InputError: A tensor is not finite, or there is none.
    """

    config: LoraConfig
    weights: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError("the adapter holds no weights")
        bad = [name for name, one in self.weights.items() if not bool(torch.isfinite(one).all())]
        if bad:
            raise InputError(f"the adapter's {bad[0]} is not finite ({len(bad)} of {len(self.weights)} tensors)")

    def __repr__(self) -> str:
        names = self.config.target_modules
        where = names if isinstance(names, str) else ", ".join(sorted({name.split(".")[-1] for name in names or ()}))
        return f"Adapter(r={self.config.r}, {where}; {self.size:,} parameters)"

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(one.numel() for one in self.weights.values())

    def on(self, model: HuggingFaceModel, *, scale: float = 1.0, override: bool = False) -> Adapted:
        """The model with the adapter, beside the model itself.

        Args:
            model: The base.
            scale: Multiplies the change; 0 is the base bit for bit, -1 turns it round.
            override: Accept another base than it was trained on.

        Raises:
            MismatchError: It was trained on another model.
            InputError: `scale` is not finite.
        """
        check_base(self.meta, model, override=override)
        return Adapted(model, self, scale=scale)

    def scaled(self, factor: float) -> Adapter:
        """The adapter with its change multiplied."""
        weights = {name: one * factor if ".lora_B." in name else one for name, one in self.weights.items()}
        return replace(self, weights=weights)

    def save(self, folder: str | Path) -> Path:
        """Write a plain peft folder, which peft alone can load, with `provenance.json` beside it."""
        from safetensors.torch import save_file

        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        config = deepcopy(self.config)
        config.inference_mode = True
        config.save_pretrained(str(where))
        save_file({name: one.contiguous() for name, one in self.weights.items()}, where / WEIGHTS, {"format": "pt"})
        write_meta(where, self.meta)
        return where

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Read a folder that `save` or peft wrote.

        Raises:
            InputError: The folder holds no LoRA adapter.
        """
        from peft import PeftConfig
        from safetensors.torch import load_file

        where = Path(folder)
        missing = [name for name in (CONFIG, WEIGHTS) if not (where / name).is_file()]
        if missing:
            raise InputError(f"{where} holds no {' and no '.join(missing)}; give the folder of a peft adapter")
        config = PeftConfig.from_pretrained(str(where))
        if config.peft_type != "LORA":
            raise InputError(f"{where} holds a {config.peft_type} adapter; steerkit takes LoRA")
        return cls(config, load_file(where / WEIGHTS), read_meta(where))
