"""What each backend costs, against hooks written by hand on the same weights; and what its library costs by itself.

`python -m benchmarks.backends` also writes the table to `docs/backend_costs.txt`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

import steerkit as sk
from benchmarks.subjects import choices, llama
from benchmarks.timing import Ratio, ratio
from steerkit.backends.base import pad
from steerkit.backends.causal import CausalModel
from steerkit.data.encoding import encode
from steerkit.tables import text_table

NAMES = ("huggingface", "transformer_lens", "nnsight")
LAYER, TOKENS, PAIRS, BATCH = 8, 48, 32, 16
PROMPT = "What is true of the sea, and why?"
TABLE = Path(__file__).parents[1] / "docs" / "backend_costs.txt"


def subjects() -> dict[str, CausalModel]:
    """Copies of one model. TransformerLens computes attention in its eager form, so all of them do."""
    hf, tokenizer = llama().hf, llama().tokenizer
    hf.set_attn_implementation("eager")
    return {name: sk.load(deepcopy(hf), tokenizer=tokenizer, backend=name) for name in NAMES}


def run(*, runs: int = 9) -> Iterator[Ratio]:
    """16 layers of width 256: recording, steered generation in batches of 1 and 16, and the libraries alone."""
    models = subjects()
    yield from _recording(models, runs)
    for batch in (1, BATCH):
        yield from _generation(models, batch, runs)
        yield from _libraries_generate(models, batch, runs)
    yield from _libraries_forward(models, runs)


def _recording(models: dict[str, CausalModel], runs: int) -> Iterator[Ratio]:
    """All layers at the letter; by hand both sides are run whole, steerkit runs what they share once."""
    pairs, plain = choices(PAIRS), models["huggingface"]
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        return lambda _module, _given, output: kept.__setitem__(layer, output[:, -2].clone())

    @torch.no_grad()
    def by_hand() -> list[Tensor]:
        handles = [block.register_forward_hook(keep(i)) for i, block in enumerate(plain.parts.blocks)]
        sides = []
        for side in ("positive", "negative"):
            parts = []
            for first in range(0, PAIRS, BATCH):
                some = [getattr(pair, side) for pair in pairs[first : first + BATCH]]
                rows = [encode(one.prompt, plain.tokenizer, answer=one.answer) for one in some]
                batch = pad([row.ids for row in rows], [row.prompt_length for row in rows], pad_id=0)
                plain.hf(input_ids=batch.input_ids, attention_mask=batch.real.long(), use_cache=False)
                parts.append(torch.stack(list(kept.values()), dim=1))
            sides.append(torch.cat(parts))
        for handle in handles:
            handle.remove()
        return sides

    reference = by_hand()[0]
    for name, model in models.items():

        def ours(model: CausalModel = model) -> Any:
            return sk.record(model, pairs, batch_size=BATCH, progress=False)

        store = ours()
        for layer in store.layers:
            assert torch.allclose(store[layer].positive, reference[:, layer], atol=1e-4), f"{name}, layer {layer}"
        yield ratio(f"record, all layers: steerkit with {name} / hooks by hand", ours, by_hand, runs=runs)


def _given(model: CausalModel, batch: int) -> dict[str, Any]:
    tokens = model.encode([PROMPT] * batch)
    return {"input_ids": tokens.input_ids, "attention_mask": tokens.real.long(), "pad_token_id": 0, **_options()}


def _options() -> dict[str, Any]:
    return {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}


def _generation(models: dict[str, CausalModel], batch: int, runs: int) -> Iterator[Ratio]:
    """One layer steered from the last token of the prompt on."""
    plain = models["huggingface"]
    vector = 0.1 * torch.randn(plain.info.hidden_size, generator=torch.Generator().manual_seed(0))
    given = _given(plain, batch)

    def push(_module: Any, _inputs: Any, hidden: Tensor) -> Tensor:
        if hidden.shape[1] == 1:
            return hidden + vector
        return torch.cat([hidden[:, :-1], hidden[:, -1:] + vector], dim=1)

    def by_hand() -> list[str]:
        handle = plain.parts.blocks[LAYER].register_forward_hook(push)
        ids = plain.hf.generate(**given)
        handle.remove()
        return plain.tokenizer.batch_decode(ids[:, given["input_ids"].shape[1] :], skip_special_tokens=True)

    for name, model in models.items():
        steer = sk.Steer(model).add(vector, layer=LAYER)

        def ours(steer: sk.Steer = steer) -> list[str]:
            return steer.generate([PROMPT] * batch, **_options())

        assert ours() == by_hand(), name
        yield ratio(f"generate steered, batch {batch}: steerkit with {name} / a hook by hand", ours, by_hand, runs=runs)


def _libraries_generate(models: dict[str, CausalModel], batch: int, runs: int) -> Iterator[Ratio]:
    """Unsteered, without steerkit."""
    given = _given(models["huggingface"], batch)
    bridge: Any = models["transformer_lens"].bridge  # type: ignore[attr-defined]
    nn: Any = models["nnsight"].nn  # type: ignore[attr-defined]

    def alone() -> Tensor:
        return models["huggingface"].hf.generate(**given)

    def lens() -> Tensor:
        rest = {key: value for key, value in given.items() if key != "input_ids"}
        return bridge.hf_generate(given["input_ids"], return_type="tokens", **rest)

    def sight() -> Tensor:
        with nn.generate(**given) as tracer:
            ids = tracer.result.save()
        return cast(Tensor, ids)

    for name, own in (("TransformerLens (hf_generate)", lens), ("nnsight (generate)", sight)):
        assert torch.equal(own(), alone()), name
        yield ratio(f"generate, batch {batch}: {name} by itself / transformers", own, alone, runs=runs)


def _libraries_forward(models: dict[str, CausalModel], runs: int) -> Iterator[Ratio]:
    """Unsteered, without steerkit: 16 texts of 120 tokens."""
    plain = models["huggingface"]
    bridge: Any = models["transformer_lens"].bridge  # type: ignore[attr-defined]
    nn: Any = models["nnsight"].nn  # type: ignore[attr-defined]
    ids = torch.randint(4, 90, (BATCH, 120), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def alone() -> Tensor:
        return plain.hf(input_ids=ids, use_cache=False).logits

    @torch.no_grad()
    def lens() -> Tensor:
        return bridge.forward(ids, return_type="logits", use_cache=False)

    @torch.no_grad()
    def lens_cache() -> Tensor:
        return bridge.run_with_cache(ids)[0]

    @torch.no_grad()
    def sight() -> Tensor:
        with nn.trace(input_ids=ids, use_cache=False):
            logits = nn.output.logits.save()
        return cast(Tensor, logits)

    every = (("TransformerLens (forward)", lens), ("TransformerLens (run_with_cache)", lens_cache),
             ("nnsight (trace)", sight))  # fmt: skip
    for name, own in every:
        assert torch.allclose(own(), alone(), atol=1e-4), name
        yield ratio(f"forward, batch {BATCH}: {name} by itself / transformers", own, alone, runs=runs)


def main() -> int:
    """Print the table and keep it; `--runs N` for another number of runs."""
    torch.set_num_threads(1)
    runs = int(sys.argv[sys.argv.index("--runs") + 1]) if "--runs" in sys.argv else 9
    lines = [[line.name, line.value, f"{line.low:.3g} to {line.high:.3g}", line.runs] for line in run(runs=runs)]
    title = (
        "Time as a multiple of hooks written by hand (or of transformers), on the same weights: a random Llama of\n"
        f"16 blocks, width 256, float32, eager attention, one CPU thread; {TOKENS} new tokens, {PAIRS} pairs of 120\n"
        "tokens. The median of several runs in turns, and the smallest and largest of them."
    )
    text = text_table(["what", "ratio", "spread", "runs"], lines, title=title)
    TABLE.write_text(text + "\n", "utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
