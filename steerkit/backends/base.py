"""The contract of a backend: what the rest of steerkit may ask of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerkit.data.chat import PromptLike
from steerkit.errors import LayerError
from steerkit.points import Layers, Point, Site, resolve_layers
from steerkit.positions import Pass

Hook = Callable[[Tensor, Pass], Tensor | None]
"""Called with the activations `[batch, pos, hidden]` at a point and the pass they belong to.

A tensor that is returned takes the place of the activations; `None` leaves them as they are.
"""


@dataclass(frozen=True)
class ModelInfo:
    """What a model is, as far as vectors and stores must know it.

    Args:
        name: Where it was loaded from.
        architecture: transformers' `model_type`.
        num_layers: Decoder blocks.
        hidden_size: Width of the residual stream.
        dtype: Of the weights, such as `"float32"`.
        device: Of the first block.
        heads: Attention heads of a block; 0 where none are known.
        head_size: Width of one head's output.
        context: The most tokens it can take; `None` where it sets no limit.
        window: Length of the sliding attention window, where some layer has one.
        packs: Whether it takes masks of its own for rows that hold several continuations.
        quantization: Who quantized the weights and to what, such as `"bitsandbytes 4bit"`; empty where nobody did.
        lacks: The sites that some blocks do not have, with these blocks.
        revision: Of the hub, where one was given.
        fingerprint: Hash over a sample of every weight.
        tokenizer: Hash of the tokenizer's vocabulary.
        template: Hash of the chat template; empty without one.
    """

    name: str
    architecture: str
    num_layers: int
    hidden_size: int
    dtype: str
    device: str
    heads: int = 0
    head_size: int = 0
    context: int | None = None
    window: int | None = None
    packs: bool = True
    quantization: str = ""
    lacks: Mapping[str, Sequence[int]] = field(default_factory=dict, hash=False)
    revision: str = ""
    fingerprint: str = ""
    tokenizer: str = ""
    template: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for manifests and reports."""
        return asdict(self)

    def width(self, site: Site) -> int:
        """Width of the activations at a site.

        Raises:
            LayerError: No block has the site.
        """
        if site != "z":
            return self.hidden_size
        if not self.heads:
            raise LayerError(f"{self.architecture} has no attention heads to read: site='z' does not exist")
        return self.heads * self.head_size

    def layers_at(self, site: Site) -> list[int]:
        """The blocks that have a site."""
        without = self.lacks.get(site, ())
        return [layer for layer in range(self.num_layers) if layer not in without]

    def choose_layers(self, layers: Layers | None, *, site: Site) -> list[int]:
        """The layers meant at a site: `"all"` are the blocks that have it.

        Raises:
            LayerError: A layer does not exist or lacks the site, or none has it.
        """
        have = self.layers_at(site)
        if layers is None or (isinstance(layers, str) and layers == "all"):
            wanted = have
        else:
            wanted = resolve_layers(layers, num_layers=self.num_layers)
        missing = [layer for layer in wanted if layer not in have]
        if missing or not have:
            which = f"block {missing[0]} of {self.architecture}" if have else self.architecture
            where = f"; blocks {', '.join(map(str, have))} have it" if have else " in any of its blocks"
            raise LayerError(f"{which} has no site {site!r}{where}")
        return wanted


@dataclass(frozen=True, eq=False)
class Joining:
    """Columns that join a pass at a later block: up to there they would be copies of another column.

    Args:
        block: By column the first block that computes it, never decreasing; 0 is there from the start, and what joins
            after the last block only goes through the final norm.
        twin: By column the one whose state it takes over from the block before, as that block returns it.
    """

    block: Int[Tensor, " pos"]
    twin: Int[Tensor, " pos"]

    def width(self, block: int) -> int:
        """How many columns a block computes: the first ones."""
        return int((self.block <= block).sum())


@dataclass(frozen=True)
class Batch:
    """Rows of tokens ready for a forward pass.

    Args:
        input_ids: The tokens, padded.
        position: Absolute position of each token; -1 for padding.
        prompt_length: Tokens of each row's prompt template.
        mask: Which column may see which, where that is not the plain causal rule (a packed batch).
        joining: Columns that are not there from the first block on, for a backend that `joins`.
    """

    input_ids: Int[Tensor, "batch pos"]
    position: Int[Tensor, "batch pos"]
    prompt_length: Int[Tensor, " batch"]
    mask: Bool[Tensor, "batch pos seen"] | None = None
    joining: Joining | None = None

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Which columns hold a token."""
        return self.position >= 0

    def __len__(self) -> int:
        return self.input_ids.shape[0]


def pad(rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int], *, pad_id: int, left: bool = True) -> Batch:
    """Rows of tokens as one batch.

    Args:
        rows: The tokens of each row.
        prompt_lengths: Tokens of each row's prompt template.
        pad_id: What fills the rest.
        left: On which side the rest lies.

    Example:
        >>> pad([[5, 6], [7]], [2, 1], pad_id=0).position.tolist()
        [[0, 1], [-1, 0]]
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    position = torch.full((len(rows), width), -1, dtype=torch.long)
    for i, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, span] = torch.tensor(list(row), dtype=torch.long)
        position[i, span] = torch.arange(len(row))
    return Batch(ids, position, torch.tensor(list(prompt_lengths), dtype=torch.long))


@runtime_checkable
class Prefix(Protocol):
    """What a model keeps of tokens it has read (its key-value cache), to go on from."""

    def copies(self, count: int) -> Prefix:
        """An independent copy with every row repeated `count` times in place."""
        ...


@runtime_checkable
class Model(Protocol):
    """The whole contract of a backend."""

    info: ModelInfo
    tokenizer: Any

    def hook(self, point: Point, fn: Hook) -> AbstractContextManager[None]:
        """Read or write the activations at a point while the context is open.

        Functions at one point act in the order in which their contexts were entered.
        """
        ...

    def forward(
        self,
        prompts: PromptLike | Sequence[PromptLike] | Batch,
        *,
        columns: Sequence[int] | None = None,
        until: int | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch pos vocab"]:
        """Logits of a forward pass.

        Args:
            prompts: Prompts, or rows of tokens.
            columns: Only the logits of these columns are computed.
            until: Stop after this block; the logits are then empty (`[batch, 0, 0]`).
            prefix: Tokens that were read before; the rows go on from there, and it is extended in place.
        """
        ...

    def prefill(self, batch: Batch) -> Prefix:
        """Read tokens and keep what is needed to go on from them."""
        ...

    def generate(
        self, prompts: PromptLike | Sequence[PromptLike], *, max_new_tokens: int = 64, **decoding: Any
    ) -> list[str]:
        """The answers, without their prompts; further options are transformers' own."""
        ...
