"""Which tokens are changed: scopes under padding, prefill, the cache and beams, against naive code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import tiny
from torch import Tensor

from steerkit.backends.base import Batch
from steerkit.data.chat import Prompt
from steerkit.points import Point
from steerkit.steering import Edit, Steer

VECTOR = torch.linspace(-1, 1, 32)
PROMPTS = ["The sea is", "A", "Dogs bark at the"]
QUESTION = [{"role": "user", "content": "Is it wet? (A) yes (B) no"}]


@contextmanager
def naive_caa(model: Any, *, layer: int, added: Tensor, from_pos: int) -> Iterator[None]:
    """CAA's block wrapper: `output += (position_ids >= from_pos) * (multiplier * vector)`."""

    def wrap(_module: Any, _args: Any, kwargs: Any, output: Any) -> Any:
        mask = (kwargs["position_ids"] >= from_pos).unsqueeze(-1).float()
        return output + mask * added

    handle = model.parts.blocks[layer].register_forward_hook(wrap, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def changed(model: Any, steer: Steer, run: Any, *, layer: int = 1) -> list[list[list[int]]]:
    """By pass and row, the columns of a point that the edits changed."""
    before: list[Tensor] = []
    found = []
    with (
        model.hook(Point(layer), lambda h, _: before.append(h)),
        steer,
        model.hook(Point(layer), lambda h, _: found.append((before[-1] != h).any(-1))),
    ):
        run()
    return [[row.nonzero().flatten().tolist() for row in one] for one in found]


def test_generation_equals_caa_with_its_prefill() -> None:
    model = tiny("llama")
    prompt = Prompt(QUESTION, prefill="(")
    encoded = model.encode(prompt)
    from_pos = int(encoded.prompt_length[0]) - 1
    steer = Steer(model).add(VECTOR, layer=1, coef=-2)
    with naive_caa(model, layer=1, added=-2 * VECTOR, from_pos=from_pos):
        logits, answer = model.forward(prompt), model.generate(prompt, max_new_tokens=8)
    assert torch.equal(steer.forward(prompt), logits)
    assert steer.generate(prompt, max_new_tokens=8) == answer != model.generate(prompt, max_new_tokens=8)
    width = encoded.input_ids.shape[1]
    assert changed(model, steer, lambda: model.forward(prompt)) == [[list(range(from_pos, width))]]
    assert width - from_pos == 3


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_right_padding_in_a_raw_forward(architecture: str) -> None:
    model = tiny(architecture)
    rows = [list(map(int, row[row != 0])) for row in model.encode(PROMPTS).input_ids]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])

    def run() -> Any:
        with torch.no_grad():
            return model.hf(input_ids=ids, attention_mask=mask).logits

    expected = {
        "all": [list(range(len(row))) for row in rows],
        "prompt": [list(range(len(row))) for row in rows],
        "generation": [[len(row) - 1] for row in rows],
        -1: [[len(row) - 1] for row in rows],
    }
    for positions, columns in expected.items():
        steer = Steer(model).add(VECTOR, layer=1, positions=positions)  # type: ignore[arg-type]
        assert changed(model, steer, run) == [columns]
        with steer:
            together = run()
        for i, row in enumerate(rows):
            assert torch.allclose(together[i, : len(row)], steer.forward(PROMPTS[i])[0], atol=1e-5)


def test_scopes_under_left_padding() -> None:
    model = tiny("llama")
    run = lambda: model.forward(PROMPTS)  # noqa: E731
    width = len(PROMPTS[2])
    starts = [width - len(prompt) for prompt in PROMPTS]
    for positions, columns in {
        "all": [list(range(start, width)) for start in starts],
        "generation": [[width - 1]] * 3,
        0: [[start] for start in starts],
        3: [[starts[0] + 3], [], [3]],
        -2: [[width - 2], [], [width - 2]],
    }.items():
        steer = Steer(model).add(VECTOR, layer=1, positions=positions)  # type: ignore[arg-type]
        assert changed(model, steer, run) == [columns]


@pytest.mark.parametrize(
    ("positions", "steps"),
    [(12, [3]), ([11, 14], [2, 5]), (slice(12, 14), [3, 4]), (slice(11, None, 2), [2, 4]), ("generation", range(6))],
)
def test_an_absolute_position_beyond_the_prompt_acts_at_its_decoding_step(positions: Any, steps: Any) -> None:
    model = tiny("llama")
    prompt = "ten tokens"
    steer = Steer(model).add(VECTOR, layer=1, positions=positions)
    run = lambda: model.generate(prompt, max_new_tokens=6, min_new_tokens=6)  # noqa: E731
    acted = [bool(one[0]) for one in changed(model, steer, run)]
    wanted = [step in steps for step in range(6)]
    assert acted[1:] == wanted[1:]
    assert acted[0] == (positions == "generation")


def test_the_models_own_calls_are_steered_and_a_manual_loop_counts_on() -> None:
    model = tiny("llama")
    ids = model.encode("ten tokens").input_ids
    steer = Steer(model).add(VECTOR, layer=1, positions="prompt")
    expected = steer.generate("ten tokens", max_new_tokens=5, min_new_tokens=5)
    with steer:
        out = model.hf.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, min_new_tokens=5,
                                pad_token_id=0)  # fmt: skip
    assert model.tokenizer.batch_decode(out[:, 10:], skip_special_tokens=True) == expected

    def by_hand() -> None:
        with torch.no_grad():
            step = model.hf(input_ids=ids, use_cache=True)
            for _ in range(3):
                token = step.logits[:, -1:].argmax(-1)
                step = model.hf(input_ids=token, past_key_values=step.past_key_values, use_cache=True)

    assert changed(model, steer, by_hand) == [[list(range(10))], [[]], [[]], [[]]]


def test_every_row_of_a_batch_is_steered() -> None:
    model = tiny("llama")
    base, steered = model.forward(PROMPTS), Steer(model).add(VECTOR, layer=1).forward(PROMPTS)
    assert ((steered - base)[:, -1].abs().amax(-1) > 1e-2).all()


def test_a_coefficient_by_row_equals_separate_runs() -> None:
    model, coefs = tiny("qwen2"), [-2.0, 0.0, 1.5]
    for operation in ("add", "ablate", "preserve"):

        def steer(coef: Any, kind: str = operation) -> Steer:
            if kind == "ablate":
                return Steer(model).ablate(VECTOR, layer=[1, 2], coef=coef)
            return Steer(model).add(VECTOR, layer=[1, 2], coef=coef, preserve_norm=kind == "preserve")

        together = steer(torch.tensor(coefs))
        alone = [steer(coef).generate(prompt, max_new_tokens=6)[0] for coef, prompt in zip(coefs, PROMPTS, strict=True)]
        assert together.generate(PROMPTS, max_new_tokens=6) == alone
        logits = together.forward(PROMPTS)
        for i, coef in enumerate(coefs):
            assert torch.allclose(logits[i], steer(coef).forward(PROMPTS)[i], atol=1e-5)
        assert torch.equal(logits[1], model.forward(PROMPTS)[1])


def plans(model: Any) -> list[list[Edit]]:
    from steerkit.steering import Ablate

    other = VECTOR.roll(3)
    return [
        [Edit(VECTOR, layer=[1, 3], coef=2), Edit(other, layer=1, operation=Ablate(), positions="all")],
        [],
        [Edit(other, layer=1, coef=-2), Edit(VECTOR, layer=2, coef=-2, operation=Ablate())],
    ]


def run_alone(model: Any, edits: list[Edit], prompt: str, **decoding: Any) -> list[str]:
    steer = Steer(model)
    for edit in edits:
        steer.apply(edit.operation, edit.vector, layer=edit.layer, coef=edit.coef, positions=edit.positions)
    return steer.generate(prompt, max_new_tokens=6, **decoding)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_edits_by_row_equal_separate_runs(architecture: str) -> None:
    model = tiny(architecture)
    rows = plans(model)
    steer = Steer(model).rows(rows)
    alone = [run_alone(model, edits, prompt)[0] for edits, prompt in zip(rows, PROMPTS, strict=True)]
    assert steer.generate(PROMPTS, max_new_tokens=6) == alone
    beams = [run_alone(model, edits, prompt, num_beams=3)[0] for edits, prompt in zip(rows, PROMPTS, strict=True)]
    assert steer.generate(PROMPTS, max_new_tokens=6, num_beams=3) == beams
    assert torch.equal(steer.forward(PROMPTS)[1], model.forward(PROMPTS)[1])


def test_beams_equal_single_prompts() -> None:
    model = tiny("llama")
    steer = Steer(model).add(VECTOR, layer=1, coef=2)
    together = steer.generate(PROMPTS, max_new_tokens=6, num_beams=3, num_return_sequences=2)
    alone = [steer.generate(prompt, max_new_tokens=6, num_beams=3, num_return_sequences=2) for prompt in PROMPTS]
    assert together == [answer for answers in alone for answer in answers]


def test_sampling_with_a_seed_equals_a_hand_made_hook() -> None:
    model, coefs = tiny("llama"), torch.tensor([-2.0, 0.0, 2.0])
    sampling = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 6}

    def by_hand(_module: Any, _args: Any, output: Tensor) -> Tensor:
        added = torch.zeros_like(output)
        for row in range(output.shape[0]):
            added[row, -1] = coefs[row // 2] * VECTOR
        return output + added

    torch.manual_seed(3)
    steered = Steer(model).add(VECTOR, layer=1, coef=coefs).generate(PROMPTS, **sampling)
    handle = model.parts.blocks[1].register_forward_hook(by_hand)
    torch.manual_seed(3)
    manual = model.generate(PROMPTS, **sampling)
    handle.remove()
    torch.manual_seed(3)
    assert steered == manual != model.generate(PROMPTS, **sampling)


def test_chunked_prefill_and_a_prefix_keep_the_count() -> None:
    model = tiny("llama")
    for positions in ("prompt", "generation", "all", -1, 4):
        steer = Steer(model).add(VECTOR, layer=1, positions=positions)  # type: ignore[arg-type]
        batch = model.encode("ten tokens")
        with steer:
            whole = model.forward(batch)
            head = Batch(batch.input_ids[:, :6], batch.position[:, :6], batch.prompt_length)
            tail = Batch(batch.input_ids[:, 6:], batch.position[:, 6:], batch.prompt_length)
            pieces = model.forward(tail, prefix=model.prefill(head))
            again = model.forward(
                Batch(tail.input_ids, tail.position, tail.prompt_length - 2), prefix=model.prefill(head)
            )
        assert torch.allclose(pieces, whole[:, 6:], atol=1e-5)
        assert torch.equal(again, pieces) == (positions in ("all", 4))
    steer = Steer(model).add(VECTOR, layer=1, positions=[4, 9, 11]).add(VECTOR, layer=2)
    whole = steer.generate("ten tokens", max_new_tokens=5)
    assert steer.generate("ten tokens", max_new_tokens=5, prefill_chunk_size=4) == whole
