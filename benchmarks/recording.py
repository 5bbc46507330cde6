"""Recording A/B pairs against two full forward passes with all hidden states."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import steerkit as sk
from benchmarks.subjects import choices, llama
from benchmarks.timing import Ratio, ratio
from steerkit.backends.base import pad
from steerkit.data.encoding import encode

BATCH = 16


def run(*, runs: int = 7) -> Iterator[Ratio]:
    """16 layers, 120-token prompts, batches of 16 pairs."""
    model, pairs = llama(), choices(64)

    def ours() -> None:
        sk.record(model, pairs, batch_size=BATCH, progress=False)

    def two_forwards() -> None:
        for first in range(0, len(pairs), BATCH):
            for side in ("positive", "negative"):
                sides = [getattr(pair, side) for pair in pairs[first : first + BATCH]]
                rows = [encode(s.prompt, model.tokenizer, answer=s.answer) for s in sides]
                batch = pad([r.ids for r in rows], [r.prompt_length for r in rows], pad_id=0)
                with torch.no_grad():
                    out = model.hf(
                        input_ids=batch.input_ids, attention_mask=batch.real.long(), output_hidden_states=True
                    )
                torch.stack([state[:, -2].clone() for state in out.hidden_states[1:]])

    yield ratio("record: shared prefix / two forwards", ours, two_forwards, runs=runs, at_most=0.55)
