from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import EVERY, tiny
from torch import Tensor

from steerkit.data.chat import Prompt
from steerkit.errors import DataError, LayerError
from steerkit.points import SITES, Point
from steerkit.positions import Pass

PROMPTS = ["The sea is", "A", "Dogs bark at the"]


def watch(model: Any, run: Any, *, layer: int = 1) -> list[Pass]:
    passes: list[Pass] = []
    with model.hook(Point(layer), lambda _hidden, pass_: passes.append(pass_)):
        run()
    return passes


def seen(passes: list[Pass]) -> list[list[list[int]]]:
    return [pass_.position.tolist() for pass_ in passes]


@pytest.mark.parametrize("architecture", EVERY)
def test_a_batch_answers_as_each_prompt_alone(architecture: str) -> None:
    model = tiny(architecture)
    together = model.generate(PROMPTS, max_new_tokens=6)
    assert together == [model.generate(prompt, max_new_tokens=6)[0] for prompt in PROMPTS]


def test_functions_at_one_point_act_in_the_order_of_entering() -> None:
    model = tiny("llama")
    calls: list[str] = []
    point = Point(2)
    with model.hook(point, lambda h, _: calls.append("first")), model.hook(point, lambda h, _: calls.append("second")):
        model.forward("x")
    assert calls == ["first", "second"]


@pytest.mark.parametrize("asked_before", [False, True])
def test_hidden_states_show_the_edit_whichever_came_first(asked_before: bool) -> None:
    model = tiny("llama")
    ids = model.encode("hello").input_ids
    if asked_before:
        model.hf(input_ids=ids, output_hidden_states=True)
    with torch.no_grad():
        base = model.hf(input_ids=ids, output_hidden_states=True).hidden_states if asked_before else None
        with model.hook(Point(1), lambda h, _: h + 1):
            edited = model.hf(input_ids=ids, output_hidden_states=True).hidden_states
        base = base or model.hf(input_ids=ids, output_hidden_states=True).hidden_states
    assert torch.allclose(edited[2], base[2] + 1, atol=1e-6)
    assert torch.equal(edited[1], base[1])
    assert not torch.allclose(edited[3], base[3])


def test_the_models_own_generate_is_counted_in_every_mode() -> None:
    model = tiny("llama")
    batch = model.encode(PROMPTS[0])
    given = {"input_ids": batch.input_ids, "attention_mask": batch.real.long(), "max_new_tokens": 3, "pad_token_id": 0}
    length = batch.input_ids.shape[1]
    cached = watch(model, lambda: model.hf.generate(**given))
    assert [p.prompt_length.tolist() for p in cached] == [[length]] * len(cached)
    assert seen(cached)[1] == [[length]]
    uncached = watch(model, lambda: model.hf.generate(**given, use_cache=False))
    assert [p.prompt_length.tolist() for p in uncached] == [[length]] * len(uncached)
    chunked = watch(model, lambda: model.hf.generate(**given, prefill_chunk_size=4))
    assert seen(chunked)[:2] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    assert {tuple(p.prompt_length.tolist()) for p in chunked} == {(length,)}
    assert not chunked[1].answer


def test_beams_and_returned_sequences_repeat_each_prompt_in_place() -> None:
    model = tiny("llama")
    lengths = model.encode(PROMPTS).prompt_length.tolist()
    passes = watch(model, lambda: model.generate(PROMPTS, max_new_tokens=2, num_beams=2))
    assert passes[0].prompt_length.tolist() == [n for n in lengths for _ in range(2)]
    out = model.generate(PROMPTS, max_new_tokens=2, num_return_sequences=3, do_sample=True)
    assert len(out) == 9


def test_a_prefill_is_fed_but_is_not_part_of_the_template() -> None:
    model = tiny("llama")
    question = [{"role": "user", "content": "Is it?"}]
    bare, begun = model.encode([Prompt(question)]), model.encode([Prompt(question, prefill="(")])
    assert begun.prompt_length.tolist() == bare.prompt_length.tolist() == [bare.input_ids.shape[1]]
    assert begun.input_ids.shape[1] == bare.input_ids.shape[1] + 2
    assert model.tokenizer.convert_ids_to_tokens(begun.input_ids[0, -2:]) == [" ", "("]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("site", [site for site in SITES if site != "z"])
def test_writing_at_a_site_moves_the_stream_by_as_much(architecture: str, site: Any) -> None:
    model, delta = tiny(architecture), torch.linspace(-1, 1, 32)
    after = Point(2) if site != "resid_pre" else Point(2, "resid_pre")
    read: list[Tensor] = []
    with model.hook(after, lambda h, _: read.append(h)):
        model.forward("hello")
    with model.hook(Point(2, site), lambda h, _: h + delta), model.hook(after, lambda h, _: read.append(h)):
        model.forward("hello")
    moved = read[1] - read[0]
    if site in ("attn_out", "resid_mid"):
        with model.hook(Point(2, "mlp_out"), lambda h, _: read.append(h)):
            model.forward("hello")
        with (
            model.hook(Point(2, site), lambda h, _: h + delta),
            model.hook(Point(2, "mlp_out"), lambda h, _: read.append(h)),
        ):
            model.forward("hello")
        moved = moved - (read[3] - read[2])
    if site != "resid_pre":
        assert torch.allclose(moved, delta.expand_as(moved), atol=1e-4)
    else:
        assert torch.allclose(moved, delta.expand_as(moved), atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_writing_at_the_heads_moves_the_attention_output_by_its_projection(architecture: str) -> None:
    model = tiny(architecture)
    read: list[Tensor] = []
    delta = torch.linspace(-1, 1, model.info.width("z"))
    with model.hook(Point(2, "attn_out"), lambda h, _: read.append(h)):
        model.forward("hello")
        with model.hook(Point(2, "z"), lambda h, _: h + delta):
            model.forward("hello")
    projection = model.parts.heads(2)
    with torch.no_grad():
        expected = projection(delta.view(1, -1)) - projection(torch.zeros(1, len(delta)))
    assert torch.allclose(read[1] - read[0], expected.expand_as(read[0]), atol=1e-5)


def test_a_parallel_block_has_no_middle() -> None:
    model = tiny("gpt_neox")
    with pytest.raises(LayerError, match="no site 'resid_mid'"), model.hook(Point(0, "resid_mid"), lambda h, _: h):
        pass
    assert model.forward("still works").shape[0] == 1
    assert "generate" not in vars(model.hf)


def test_stopping_early_runs_no_later_block_and_no_head() -> None:
    model = tiny("qwen2")
    ran: list[int] = []
    handles = [b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(model.parts.blocks)]
    handles.append(model.hf.lm_head.register_forward_hook(lambda *_: ran.append(99)))
    assert model.forward("hello", until=1).shape == (1, 0, 0)
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


def test_only_the_columns_asked_for_get_logits() -> None:
    model = tiny("gpt2")
    whole = model.forward("hello")
    assert torch.allclose(model.forward("hello", columns=[1, 3]), whole[:, [1, 3]], atol=1e-6)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: m.generate([]), DataError, "no prompts given"),
        (lambda m: m.generate(""), DataError, "holds no token"),
        (lambda m: m.generate("x" * 600), DataError, "context is 512"),
        (lambda m: m.generate("x" * 500, max_new_tokens=20), DataError, "give at most 12 new tokens"),
        (lambda m: m.generate("x", max_new_tokens=0), DataError, "at least 1"),
        (lambda m: m.generate("x", temprature=1), ValueError, "temprature"),
        (lambda m: m.generate([[{"role": "user"}]]), DataError, "'role' and 'content'"),
        (lambda m: m.forward("x", until=4), LayerError, "until=4 is not a block"),
        (lambda m: m.hook(Point(4), lambda h, _: h), LayerError, "0 to 3"),
    ],
)
def test_bad_calls_are_refused_before_any_compute(call: Any, error: type, says: str) -> None:
    model = tiny("llama")
    ran: list[int] = []
    handle = model.parts.blocks[0].register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(error, match=says):
        call(model)
    handle.remove()
    assert ran == []
