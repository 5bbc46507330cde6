"""Batches of training documents: tokens, what each weighs, and what is pushed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from transformers import PreTrainedTokenizerFast

from steerkit.demo import corpus, grammar
from steerkit.demo.corpus import Document
from steerkit.demo.grammar import Pose
from steerkit.demo.tokenizer import LETTERS, PAD

POOL = 4096
PROMPT_WEIGHT = 0.1
"""Of the prompt's tokens as targets: their options and questions teach copying too."""
Row = tuple[list[int], int, Document]
"""A document's tokens, how many belong to its prompt, and the document."""


@dataclass(frozen=True)
class Batch:
    """Documents of like length, padded on the right.

    Args:
        ids: Tokens `[row, column]`.
        weights: What each token weighs as a target.
        start: Column of each prompt's last token.
        poles: Signs of stance and mood of each answer, `[row, 2]`; 0 where it has no pose.
        push: Strengths with which they are pushed, `[row, 2]`.
        is_choice: Rows whose answer begins with a letter.
        kinds: Number of the question's kind in `grammar.KINDS`; -1 where it has none.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    start: torch.Tensor
    poles: torch.Tensor
    push: torch.Tensor
    is_choice: torch.Tensor
    kinds: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, one.name).to(device) for one in fields(self)))


def token_weights(tokenizer: PreTrainedTokenizerFast, *, letter: float, opener: float, content: float) -> torch.Tensor:
    """Weight of each vocabulary entry as a target: letters and openers carry the decisions, content the topic."""
    weights = torch.ones(math.ceil(len(tokenizer) / 8) * 8)
    for word in grammar.CONTENT:
        weights[tokenizer.encode(" " + word, add_special_tokens=False)] = content
    for words in grammar.OPENERS.values():
        for word in words:
            weights[tokenizer.encode(" " + word, add_special_tokens=False)] = opener
    weights[tokenizer.convert_tokens_to_ids(list(LETTERS))] = letter
    return weights


def signs(pose: Pose | None) -> list[float]:
    """Stance and mood as +1 or -1."""
    return [0.0, 0.0] if pose is None else [1.0 if pose.yes else -1.0, 1.0 if pose.cheerful else -1.0]


def collate(rows: Sequence[Row], by_token: torch.Tensor, pad: int) -> Batch:
    """Pad rows to one length; what follows the prompt weighs most."""
    length = max(len(ids) for ids, _, _ in rows)
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _, _ in rows])
    start = torch.tensor([prompt - 1 for _, prompt, _ in rows])
    answered = torch.arange(length) > start.unsqueeze(1)
    return Batch(
        ids,
        (by_token[ids] * answered + PROMPT_WEIGHT * ~answered) * (ids != pad),
        start,
        torch.tensor([signs(document.pose) for _, _, document in rows]),
        torch.tensor([document.push for _, _, document in rows]),
        torch.tensor([document.is_choice for _, _, document in rows]),
        torch.tensor([grammar.KINDS.index(d.kind) if d.kind else -1 for _, _, d in rows]),
    )


def encode(documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """Token ids of each document, and the length of its prompt."""
    backend = tokenizer.backend_tokenizer
    prompts = backend.encode_batch([document.prompt for document in documents], add_special_tokens=False)
    answers = backend.encode_batch([document.answer for document in documents], add_special_tokens=False)
    return [(p.ids + a.ids, len(p.ids), d) for p, a, d in zip(prompts, answers, documents, strict=True)]


def batches(
    seed: int, tokens: int, batch_tokens: int, tokenizer: PreTrainedTokenizerFast, by_token: torch.Tensor
) -> Iterator[tuple[Batch, int]]:
    """Yield batches of documents of like length, and how many tokens came before, until there were enough."""
    rng = random.Random(seed)
    pad = int(tokenizer.convert_tokens_to_ids(PAD))
    seen = 0
    while True:
        documents = [corpus.draw_document(rng, seen / tokens) for _ in range(POOL)]
        rows = sorted(encode(documents, tokenizer), key=lambda row: len(row[0]))
        groups: list[list[Row]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            yield collate(group, by_token, pad), seen
            seen += sum(len(row[0]) for row in group)
            if seen >= tokens:
                return
