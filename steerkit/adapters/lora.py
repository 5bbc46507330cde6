"""What a LoRA adapter looks like, before it is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError
from steerkit.points import resolve_layers

if TYPE_CHECKING:
    from peft import LoraConfig

Targets = Literal["attention", "all-linear"] | Sequence[str]
"""Which weights of a block get an adapter: the usual ones of attention, all linear ones, or some by name."""


@dataclass(frozen=True)
class Lora:
    r"""The form of a LoRA adapter: each targeted weight $W$ becomes $W + \frac{\alpha}{r} B A$, with $B = 0$ at first.

    Args:
        r: Rank of the change, at least 1.
        alpha: Scale; the change is multiplied by `alpha / r`.
        dropout: On the adapter's input while it is trained, from 0 to below 1.
        targets: `"attention"` (what peft takes for the architecture, such as `q_proj` and `v_proj`), `"all-linear"`, or
            the names of linear layers within a block.
        blocks: The blocks that get adapters; without it all that can matter for what is trained.

    Raises:
        InputError: A number is out of range.

    Source: Hu et al. 2021 (LoRA). The defaults are those of RAHF (Liu et al. 2024) and LORRA (Zou et al. 2023).

    Example:
        >>> Lora(r=4).alpha
        16.0
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: Targets = "attention"
    blocks: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise InputError(f"r={self.r!r} is not a rank; give an integer of at least 1")
        if not isinstance(self.alpha, int | float) or not math.isfinite(self.alpha) or self.alpha == 0:
            raise InputError(f"alpha={self.alpha!r} is not valid; give a finite number other than 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout={self.dropout!r} is not valid; give a share from 0 to below 1")
        if isinstance(self.blocks, range):  # checkpoints keep the form as JSON, which knows no range
            object.__setattr__(self, "blocks", tuple(self.blocks))

    def config(self, model: HuggingFaceModel, *, blocks: Sequence[int] | None = None) -> LoraConfig:
        """The configuration of peft for a model.

        Args:
            model: The base.
            blocks: The blocks that can matter; `Lora.blocks` must lie among them.

        Raises:
            InputError: A target is not the name of a linear layer in the blocks, or a block cannot matter.
            LayerError: A block does not exist.
        """
        from peft import LoraConfig

        possible = resolve_layers(list(blocks) if blocks is not None else "all", num_layers=model.info.num_layers)
        wanted = possible if self.blocks is None else resolve_layers(self.blocks, num_layers=model.info.num_layers)
        idle = sorted(set(wanted) - set(possible))
        if idle:
            raise InputError(f"adapters in blocks {idle} would never be trained: only blocks {possible[0]} to "
                             f"{possible[-1]} reach what is trained; leave them out of Lora(blocks=...)")  # fmt: skip
        names, transposed = self._names(model, wanted)
        everywhere = len(wanted) == model.info.num_layers
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=names,
            layers_to_transform=None if everywhere else wanted,
            layers_pattern=None if everywhere else model.parts.layout.blocks.rpartition(".")[2],
            fan_in_fan_out=transposed,
            base_model_name_or_path=model.hf.name_or_path or None,
        )

    def _names(self, model: HuggingFaceModel, blocks: Sequence[int]) -> tuple[list[str], bool]:
        found = {name: kind for block in blocks for name, kind in linear_layers(model.parts.blocks[block])}
        known = ", ".join(sorted(found))
        wanted: Sequence[str]
        if self.targets == "all-linear":
            wanted = sorted(found)
        elif self.targets == "attention":
            from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

            wanted = USUAL.get(model.info.architecture, [])
            if not wanted:
                raise InputError(f"peft names no usual targets for {model.info.architecture!r}; choose "
                                 f"targets='all-linear', or some of: {known}")  # fmt: skip
        else:
            wanted = [self.targets] if isinstance(self.targets, str) else list(self.targets)
        missing = [name for name in wanted if name not in found]
        if missing or not wanted:
            raise InputError(f"targets={self.targets!r}: no linear layer is called {missing or 'so'} in these blocks; "
                             f"choose 'attention', 'all-linear', or some of: {known}")  # fmt: skip
        return list(wanted), any(found[name] for name in wanted)


def linear_layers(block: nn.Module) -> Iterator[tuple[str, bool]]:
    """The last names of a block's linear layers, and whether their weight is stored as `[in, out]` (as GPT-2 does)."""
    from transformers.pytorch_utils import Conv1D

    for path, module in block.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield path.rpartition(".")[2], isinstance(module, Conv1D)
