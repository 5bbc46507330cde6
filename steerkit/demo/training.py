"""Train the embedded model from scratch: `python -m steerkit.demo.training --seed 0 --out DIR`."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TextIO

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerkit.demo import corpus
from steerkit.demo.batching import Batch, batches, token_weights
from steerkit.demo.loss import PushedLoss
from steerkit.demo.muon import Muon
from steerkit.demo.tokenizer import BOS, END, PAD, build_tokenizer

TOKENIZER_SEED = 0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    tokens: int = 6_500_000
    batch_tokens: int = 2048
    layers: int = 8
    width: int = 128
    heads: int = 4
    inner: int = 512
    matrix_rate: float = 0.006
    vector_rate: float = 0.003
    weight_decay: float = 1.0
    push_layer: int = 3
    early_blocks: int = 2
    early_weight: float = 0.002
    letter_weight: float = 4.0
    opener_weight: float = 3.0
    content_weight: float = 2.0
    log_every: int = 50


@cache
def shared_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; it is the same for every training seed."""
    rng = random.Random(TOKENIZER_SEED)
    documents = (corpus.draw_document(rng, progress=1.0) for _ in range(20_000))
    return build_tokenizer(document.prompt + document.answer for document in documents)


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make an untrained Llama of the recipe's size."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=math.ceil(len(tokenizer) / 8) * 8,
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.convert_tokens_to_ids(BOS),
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    adam = torch.optim.AdamW(others, lr=recipe.vector_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay), adam]


def rate(progress: float) -> float:
    """Learning-rate factor: a short warm-up, a plateau, a linear descent over the last half."""
    return min(1.0, progress / 0.02 + 0.01, max(0.0, (1 - progress) / 0.5))


def held_back(progress: float) -> float:
    """How much early separation costs: nothing until the letters are learned, then more and more."""
    return min(1.0, max(0.0, (progress - 0.6) / 0.2))


class Trainer:
    """A model and what changes it.

    Args:
        recipe: What to train.
        compiled: Compile the blocks: faster, needs a C++ compiler.
        device: Where to train.
    """

    def __init__(self, recipe: Recipe, *, compiled: bool = True, device: str = "cpu") -> None:
        self.tokenizer = shared_tokenizer()
        self.model = new_model(recipe, self.tokenizer).to(device)
        if compiled:
            for block in self.model.model.layers:
                block.compile(dynamic=True)
        self.loss = PushedLoss(at=recipe.push_layer, early=recipe.early_blocks, width=recipe.width, device=device)
        self.optimizers = optimizers(self.model, recipe)
        self.recipe = recipe

    def step(self, batch: Batch, progress: float) -> float:
        """One update; `progress` runs from 0 to 1 over the training."""
        factor = rate(progress)
        early = self.recipe.early_weight * held_back(progress)
        loss = self.loss(self.model, batch.to(self.model.device), early_weight=early)
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("peak", group["lr"])
                group["lr"] = group["peak"] * factor
            optimizer.step()
        return float(loss.detach())


def train(
    recipe: Recipe, log: TextIO | None = None, compiled: bool = True, device: str = "cpu"
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train one model; every `log_every`th update is logged as a JSON line."""
    trainer = Trainer(recipe, compiled=compiled, device=device)
    weights = token_weights(
        trainer.tokenizer, letter=recipe.letter_weight, opener=recipe.opener_weight, content=recipe.content_weight
    )
    started, losses = time.perf_counter(), []
    for number, (batch, seen) in enumerate(
        batches(recipe.seed, recipe.tokens, recipe.batch_tokens, trainer.tokenizer, weights)
    ):
        losses.append(trainer.step(batch, seen / recipe.tokens))
        if log is not None and (number + 1) % recipe.log_every == 0:
            line = {
                "update": number + 1,
                "tokens": seen,
                "seconds": round(time.perf_counter() - started, 1),
                "loss": round(sum(losses) / len(losses), 4),
            }
            print(json.dumps(line), file=log, flush=True)
            losses = []
    return trainer.model, trainer.tokenizer


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model in float16 with its tokenizer."""
    half = deepcopy(model).to("cpu", torch.float16)
    half.config._attn_implementation = None
    half.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        max_new_tokens=48,
        do_sample=False,
    )
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Train with the shipped recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=Recipe.tokens)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--eager", action="store_true", help="do not compile: half as fast, needs no C++ compiler")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    arguments = parser.parse_args()
    recipe = Recipe(seed=arguments.seed, tokens=arguments.tokens)
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with (arguments.out / "training_log.jsonl").open("w", encoding="utf-8") as log:
        model, tokenizer = train(recipe, log, compiled=not arguments.eager, device=arguments.device)
    save(model, tokenizer, arguments.out)
    facts = {
        **asdict(recipe),
        "seconds": round(time.perf_counter() - started),
        "device": arguments.device,
        "parameters": model.num_parameters(),
        "torch": torch.__version__,
    }
    (arguments.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
