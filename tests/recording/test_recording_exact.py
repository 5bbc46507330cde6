from __future__ import annotations

from typing import Any

import pytest
import torch
from recording_cases import (
    answers,
    ask,
    check,
    choices,
    refused_mask,
    same,
    systems,
    torch_hook,
)
from tiny import CLASSIC, tiny

from steerkit.data.letters import encode_pair
from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.points import SITES
from steerkit.recording import record


@pytest.mark.parametrize("architecture", sorted(CLASSIC))
def test_packed_is_plain_is_transformers(architecture: str) -> None:
    model = tiny(architecture)
    packed = record(model, choices())
    assert packed.manifest["path"] == "packed"
    check(packed, model, choices(), "letter")
    handle = refused_mask(model)
    plain = record(model, choices())
    handle.remove()
    assert plain.manifest["path"] == "plain"
    assert "this model takes no 4D mask" in plain.manifest["path_reason"]
    same(packed, plain, 1e-5)
    assert float(packed[3].difference.norm(dim=-1).min()) > 1e-2


RULES = ("last", "mean", 0, 3, -2)
CASES = [(read, make) for make in (answers, systems, choices) for read in RULES]
CASES.remove(("mean", systems))  # has no answers to average over: an error, tested with the bad inputs


@pytest.mark.parametrize(("read", "make"), CASES)
def test_read_rules(read: str | int, make: Any) -> None:
    model = tiny("llama")
    store = record(model, make(), read=read)
    assert store.manifest["read"] == read
    check(store, model, make(), read)


def test_read_rules_by_default() -> None:
    model = tiny("gpt2")
    assert record(model, choices()).manifest["read"] == "letter"
    assert record(model, answers()).manifest["read"] == "last"
    mixed = Pairs([*choices(2), *answers()])
    assert record(model, mixed).manifest["read"] == "last"


def test_letter_without_letters_is_the_first_token_that_differs() -> None:
    model = tiny("llama")
    pairs = Pairs([ContrastPair(Side(ask("Mood?"), "glad"), Side(ask("Mood?"), "gloomy"))])
    store = record(model, pairs, read="letter")
    assert [row["token"] for row in store.index] == ["a", "o"]
    check(store, model, pairs, "letter")


def test_packed_means_are_plain_means() -> None:
    model = tiny("qwen3")
    packed = record(model, answers(), read="mean")
    handle = refused_mask(model)
    plain = record(model, answers(), read="mean")
    handle.remove()
    assert (packed.manifest["path"], plain.manifest["path"]) == ("packed", "plain")
    same(packed, plain, 1e-5)


@pytest.mark.parametrize("site", SITES)
def test_every_site(site: Any) -> None:
    model = tiny("llama")
    stores = [record(model, choices(), site=site)]
    handle = refused_mask(model)
    stores.append(record(model, choices(), site=site))
    handle.remove()
    same(*stores, 1e-5)
    assert stores[0].site == site
    if site == "resid_pre":
        post = record(model, choices())
        torch.testing.assert_close(stores[0][2].positive, post[1].positive, atol=1e-6, rtol=1e-6)


def test_a_window_shorter_than_the_text_goes_plain() -> None:
    model = tiny("mistral", sliding_window=16)
    assert model.info.window == 16
    store = record(model, choices())
    assert store.manifest["path"] == "plain"
    assert "window of 16" in store.manifest["path_reason"]
    check(store, model, choices(), "letter")
    assert record(tiny("mistral", sliding_window=400), choices()).manifest["path"] == "packed"


def test_a_model_that_ignores_the_mask_is_found_out() -> None:
    """Attention that sees both tails: the check at run time must notice, or the rows would be wrong."""
    model = tiny("llama")

    def open_up(_module: Any, args: Any, kwargs: Any) -> Any:
        mask = kwargs["attention_mask"]
        if mask is None or mask.ndim != 4:
            return None
        causal = torch.ones(mask.shape[-2:], dtype=torch.bool).tril()
        return args, {**kwargs, "attention_mask": torch.where(causal, 0.0, torch.finfo(mask.dtype).min)[None, None]}

    handle = model.parts.decoder.register_forward_pre_hook(open_up, with_kwargs=True)
    store = record(model, choices())
    handle.remove()
    assert store.manifest["path"] == "plain"
    assert "packed differs from plain" in store.manifest["path_reason"]
    check(store, model, choices(), "letter")


@pytest.mark.parametrize("make", [choices, answers, systems])
def test_batches_do_not_matter(make: Any) -> None:
    model = tiny("gpt2")
    one = record(model, make(), batch_size=1)
    for size in (2, 16):
        other = record(model, make(), batch_size=size)
        for layer in one.layers:
            for side in ("positive", "negative"):
                a, b = getattr(one[layer], side), getattr(other[layer], side)
                assert float(((a - b).norm(dim=-1) / a.norm(dim=-1)).max()) < 1e-6


def test_row_order_is_that_of_the_pairs() -> None:
    model = tiny("llama")
    pairs = Pairs([choices(9)[i] for i in (4, 1, 8, 0)])
    store = record(model, pairs, batch_size=2)
    assert store.ids == ["q4", "q1", "q8", "q0"]
    check(store, model, pairs, "letter")


@pytest.mark.parametrize("layers", [1, [2, 0], [3]])
def test_some_layers_are_rows_of_all(layers: Any) -> None:
    model = tiny("qwen2")
    everything = record(model, choices())
    some = record(model, choices(), layers=layers)
    assert some.layers == tuple(sorted([layers] if isinstance(layers, int) else layers))
    same(some, everything.select(some.layers))


def test_later_blocks_and_the_head_never_run() -> None:
    model = tiny("llama")
    ran: list[str] = []
    watched = {"block 1": model.hf.model.layers[1], "block 2": model.hf.model.layers[2],
               "norm": model.hf.model.norm, "head": model.hf.lm_head}  # fmt: skip
    handles = [m.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, m in watched.items()]
    record(model, choices(), layers=[0, 1])
    assert set(ran) == {"block 1"}
    record(model, choices())
    assert set(ran) == {"block 1", "block 2"}
    for handle in handles:
        handle.remove()


def test_the_shared_prefix_is_computed_once() -> None:
    model = tiny("llama")
    seen: list[int] = []
    with torch_hook(model.hf.model.embed_tokens, lambda m, args, out: seen.append(args[0].numel())):
        record(model, choices(1))
    length = len(encode_pair(choices(1)[0], model.tokenizer).positive.ids)
    assert seen[-1] == length  # the prefix, two letters, and no closing bracket


def test_the_model_is_left_as_it_was() -> None:
    model = tiny("llama")
    before = model.forward(["hello"]).clone()
    record(model, choices())
    assert torch.equal(model.forward(["hello"]), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.hf.modules())
