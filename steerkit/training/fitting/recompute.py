"""Gradient checkpointing that is safe with hooks and adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Blocks that run meanwhile keep only their input; the backward pass runs them again.

    A block's `forward` is what runs again, not the block: hooks on it stay outside, so what they read carries gradients
    and a pass may stop after any block. transformers' own checkpointing acts only on a model in training mode, with its
    dropout. What acts in the forward pass must act in the backward pass too (see `Attached.hold`).

    Args:
        blocks: The decoder blocks.
    """
    before = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                del block.forward
            else:
                block.forward = own
