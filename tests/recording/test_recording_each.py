from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recording_cases import answers, ask, by_hand, choices, computed, refused_mask, systems
from tiny import tiny

from steerkit.data.encoding import encode
from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.errors import DataError, InputError
from steerkit.recording import record
from steerkit.store import ActivationStore


def check(
    store: ActivationStore, model: Any, pairs: Pairs, *, dtype: torch.dtype = torch.float32, most: int = 999
) -> int:
    """Token by token against transformers' own hidden states; how many tokens that were."""
    count = 0
    for layer in store.layers:
        found = store[layer]
        for i, pair in enumerate(pairs):
            for name in ("positive", "negative"):
                side: Side = getattr(pair, name)
                start = encode(side.prompt, model.tokenizer, answer=side.answer).prompt_length if side.answer else 0
                wanted = by_hand(model, side)[layer, start:][:most].to(dtype).float()
                got = getattr(found, name)[i]
                assert got.shape == wanted.shape
                torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-2 if dtype != torch.float32 else 1e-5)
                count += len(got)
    return count


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("make", [answers, choices, systems])
def test_every_token_is_that_of_transformers(architecture: str, make: Any, tmp_path: Path) -> None:
    model, pairs = tiny(architecture), make()
    in_memory = record(model, pairs, read="each")
    on_disk = record(model, pairs, read="each", path=tmp_path / "s", shard_pairs=2, batch_tokens=150)
    assert in_memory.manifest["path"] == "packed"
    assert check(in_memory, model, pairs) == check(on_disk, model, pairs) > 4 * 2 * len(pairs)
    handle = refused_mask(model)
    plain = record(model, pairs, read="each")
    handle.remove()
    assert plain.manifest["path"] == "plain"
    check(plain, model, pairs)


def test_the_limit_keeps_the_first_tokens_and_computes_no_others() -> None:
    model, pairs = tiny("llama"), answers()
    fed: list[int] = []
    handle = model.parts.blocks[0].register_forward_pre_hook(lambda _module, args: fed.append(args[0].shape[1]))
    store = record(model, pairs, read="each", max_tokens=3)
    short, fed[:] = max(fed), []
    record(model, pairs, read="each")
    handle.remove()
    assert short < max(fed)
    check(store, model, pairs, most=3)
    assert store[0].positive.offsets.tolist() == [0, 3, 6, 9]
    assert [row["position"][1] - row["position"][0] + 1 for row in store.index] == [3] * 6


def test_the_index_says_which_tokens() -> None:
    model, pairs = tiny("llama"), answers()
    store = record(model, pairs, read="each")
    lengths = [int(n) for pair in zip(store[1].positive.lengths, store[1].negative.lengths, strict=True) for n in pair]
    assert [row["position"][1] - row["position"][0] + 1 for row in store.index] == lengths
    assert store.index[0]["position"][0] == encode(ask("Mood?"), model.tokenizer).prompt_length


def test_half_precision() -> None:
    model, pairs = tiny("llama"), answers()
    check(record(model, pairs, read="each", dtype="bfloat16"), model, pairs, dtype=torch.bfloat16)


def test_one_side_without_an_answer_is_refused() -> None:
    pairs = Pairs([ContrastPair(Side(ask("Mood?"), "glad"), Side(ask("Mood??")), id="p")])
    with pytest.raises(DataError, match="pair 'p' has a side without answer tokens; read='each'"):
        record(tiny("llama"), pairs, read="each")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"read": "each", "max_tokens": 0}, "max_tokens=0 is not valid; give an integer of at least 1"),
        ({"read": "last", "max_tokens": 4}, "max_tokens=4 limits the tokens kept of a side; it needs read='each'"),
        ({"read": "each", "statistics": "mean"}, "statistics='mean' are of one row a side"),
        ({"shard_pairs": -1}, "shard_pairs=-1 is not valid"),
        ({"statistics": "median"}, "statistics='median' is not valid; choose 'mean' or 'covariance'"),
        ({"keep": "nothing"}, "keep='nothing' is not valid; choose 'rows' or 'statistics'"),
        ({"keep": "statistics"}, "keep='statistics' stores no rows; say which statistics"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str, as_user: None) -> None:
    model = tiny("llama")
    with pytest.raises(InputError, match=message):
        record(model, answers(), **options)
    assert computed(model, answers(), **options) == 0
