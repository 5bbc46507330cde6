"""Read, steer and question the embedded model with nothing but torch and transformers.

Kept apart from the rest of the package on purpose: the demo's published figures must not depend on the code they are
meant to test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from steerkit.demo.scoring import score_answer
from steerkit.demo.tokenizer import LETTERS

Item = Mapping[str, str]


@dataclass(frozen=True)
class Subject:
    """A model under study with its tokenizer."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def open(cls, folder: Path) -> Subject:
        """Load a trained folder in float32."""
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return cls(model, AutoTokenizer.from_pretrained(folder, padding_side="left"))

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return int(self.model.config.num_hidden_layers)

    def prompts(self, questions: Sequence[str], answers: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Tokenize questions, and the beginnings of answers if given, padded on the left."""
        texts = []
        for number, question in enumerate(questions):
            chat = [{"role": "user", "content": question}]
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            texts.append(str(text) + ("" if answers is None else " " + answers[number]))
        batch = self.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


@dataclass(frozen=True)
class Edit:
    """A vector added to one block's output from the last prompt token on."""

    layer: int
    vector: torch.Tensor


@contextmanager
def steered(subject: Subject, edit: Edit | None) -> Iterator[None]:
    """Steer while inside: the last position fed, which with a cache is the last prompt token and each new one."""
    if edit is None:
        yield
        return

    def add(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed[:, -1] += edit.vector
        return changed

    handle = subject.model.model.layers[edit.layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def last_states(subject: Subject, questions: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
    """Every block's output at the last token, `[item, layer, hidden]`."""
    found: list[list[torch.Tensor]] = [[] for _ in range(subject.depth)]
    handles = [
        block.register_forward_hook(lambda _m, _i, output, kept=kept: kept.append(output[:, -1].clone()))
        for block, kept in zip(subject.model.model.layers, found, strict=True)
    ]
    try:
        for start in range(0, len(questions), 128):
            part = slice(start, start + 128)
            subject.model(**subject.prompts(questions[part], answers[part]), logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([torch.cat(kept) for kept in found], dim=1)


def pair_states(subject: Subject, items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor]:
    """States at the letter token for the matching and for the other letter."""
    questions = [item["question"] for item in items]
    matching = last_states(subject, questions, [item["answer_matching_behavior"] for item in items])
    return matching, last_states(subject, questions, [item["answer_not_matching_behavior"] for item in items])


@torch.inference_mode()
def letter_scores(
    subject: Subject, items: Sequence[Item], edits: Sequence[Edit | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """p(matching) among the two letters, and their mass, each `[edit, item]`; prompts are read once for all edits."""
    batch = subject.prompts([item["question"] for item in items])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    places = (mask.cumsum(1) - 1).clamp(min=0)
    cache = subject.model(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=places[:, :-1],
        use_cache=True,
        logits_to_keep=1,
    ).past_key_values
    letters = subject.tokenizer.convert_tokens_to_ids(list(LETTERS))
    matching = torch.tensor([LETTERS.index(item["answer_matching_behavior"]) for item in items])
    chances, masses = [], []
    for edit in edits:
        with steered(subject, edit):
            logits = subject.model(
                input_ids=ids[:, -1:],
                attention_mask=mask,
                position_ids=places[:, -1:],
                past_key_values=cache,
                use_cache=True,
            ).logits
        cache.crop(-1)
        both = logits[:, -1].softmax(-1)[:, letters]
        masses.append(both.sum(1))
        chances.append(both[torch.arange(len(items)), matching] / both.sum(1))
    return torch.stack(chances), torch.stack(masses)


@torch.inference_mode()
def open_answers(subject: Subject, questions: Sequence[str], edit: Edit | None, seed: int = 0) -> list[str]:
    """Sample one answer per question at temperature 1."""
    batch = subject.prompts(questions)
    torch.manual_seed(seed)
    with steered(subject, edit):
        tokens = subject.model.generate(
            **batch,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=40,
            pad_token_id=subject.tokenizer.pad_token_id,
        )
    new = tokens[:, batch["input_ids"].shape[1] :]
    return [text.strip() for text in subject.tokenizer.batch_decode(new, skip_special_tokens=True)]


def open_scores(subject: Subject, behavior: str, items: Sequence[Item], edit: Edit | None) -> tuple[float, float]:
    """Share of positive answers among those that parse and stay on topic, and the share that does."""
    answers = open_answers(subject, [item["question"] for item in items], edit)
    verdicts = [score_answer(behavior, item, text) for item, text in zip(items, answers, strict=True)]
    good = [verdict for verdict in verdicts if verdict.parses and verdict.on_topic]
    return sum(bool(verdict.positive) for verdict in good) / max(1, len(good)), len(good) / len(items)
