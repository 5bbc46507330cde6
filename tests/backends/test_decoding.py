"""Every way of decoding, against a loop written here that knows no cache: the whole text anew for each token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from tiny import tiny
from torch import Tensor
from transformers import CompileConfig, GenerationConfig, StaticCache

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import ModelError
from steerkit.points import Point
from steerkit.steering import Edit, Steer

VECTOR = 1.5 * torch.linspace(-1, 1, 32)
PROMPTS = ["The sea is", "A", "Dogs bark at the"]
NEW = 9
LAYER = 1
SCOPES: list[Any] = ["all", "prompt", "generation", [2, 11, 17], slice(-1, None, 2)]
MODES: dict[str, dict[str, Any]] = {
    "cached": {},
    "uncached": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "static cache, compiled": {
        "cache_implementation": "static",
        "compile_config": CompileConfig(backend="eager", mode=None),
    },
    "prefill by 4": {"prefill_chunk_size": 4},
    "prefill by 1": {"prefill_chunk_size": 1},
    "static cache, prefill by 5": {"cache_implementation": "static", "prefill_chunk_size": 5},
}
MODES["static cache, compiled"]["compile_config"]._compile_all_devices = True


def make(architecture: str = "llama", **changes: Any) -> HuggingFaceModel:
    model = tiny(architecture, **changes)
    model.hf.generation_config.eos_token_id = None
    return model


def chosen(positions: Any, prompt: int, total: int) -> list[int]:
    """Written out: which tokens of a text are meant."""
    tokens = range(total)
    if isinstance(positions, str):
        return list({"all": tokens, "prompt": tokens[:prompt], "generation": tokens[prompt - 1 :]}[positions])
    if isinstance(positions, slice):
        start = positions.start + prompt if positions.start < 0 else positions.start
        return list(tokens[start : positions.stop : positions.step])
    return [one for one in positions if one < total]


@contextmanager
def by_hand(model: HuggingFaceModel, prompt: int, positions: Any) -> Iterator[None]:
    """The same steering by a bare hook, for passes that hold the whole text."""

    def add(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        delta = torch.zeros_like(hidden)
        delta[:, chosen(positions, prompt, hidden.shape[1])] = VECTOR
        return (hidden + delta, *output[1:]) if isinstance(output, tuple) else hidden + delta

    handle = model.parts.blocks[LAYER].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def written_out(model: HuggingFaceModel, prompt: str, positions: Any, *, new: int = NEW) -> list[int]:
    ids = model.encode(prompt).input_ids
    length = ids.shape[1]
    with by_hand(model, length, positions):
        for _ in range(new):
            logits = model.hf(input_ids=ids, use_cache=False).logits[0, -1]
            ids = torch.cat([ids, logits.argmax().view(1, 1)], dim=1)
    return ids[0, length:].tolist()


def plain(model: HuggingFaceModel, prompts: list[str], **options: Any) -> Tensor:
    """New tokens by the model's own `generate`, so that they can be told apart where texts look alike."""
    batch = model.encode(prompts)
    given = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, **options}
    ids = model.hf.generate(input_ids=batch.input_ids, attention_mask=batch.real.long(), **given)
    return ids[:, batch.input_ids.shape[1] :]


def steered(model: HuggingFaceModel, prompts: list[str], positions: Any, **options: Any) -> tuple[Any, int]:
    """The same under an addition, and how many tokens its receipt counts."""
    with Steer(model).add(VECTOR, layer=LAYER, positions=positions) as steer:
        ids = plain(model, prompts, **options)
    return ids.tolist(), steer.receipts[0].tokens


@pytest.fixture(autouse=True)
def _forget_compiled() -> Iterator[None]:
    yield
    torch.compiler.reset()


def with_window(architecture: str) -> HuggingFaceModel:
    return make(architecture, **({"sliding_window": 8} if architecture == "mistral" else {}))


@cache
def every_prompt_written_out(architecture: str) -> list[list[list[int]]]:
    """By scope and prompt: the same whatever the mode."""
    model = with_window(architecture)
    return [[written_out(model, prompt, positions) for prompt in PROMPTS] for positions in SCOPES]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral"])
def test_a_padded_batch_in_every_mode_is_as_written_out(architecture: str, mode: str) -> None:
    model = with_window(architecture)
    base = plain(model, PROMPTS).tolist()
    lengths = [model.encode(prompt).input_ids.shape[1] for prompt in PROMPTS]
    for positions, expected in zip(SCOPES, every_prompt_written_out(architecture), strict=True):
        found, counted = steered(model, PROMPTS, positions, **MODES[mode])
        assert found == expected != base, positions
        if mode != "uncached":
            assert counted == sum(len(chosen(positions, n, n + NEW - 1)) for n in lengths), positions
    assert plain(model, PROMPTS, **MODES[mode]).tolist() == base


@contextmanager
def fed(model: HuggingFaceModel) -> Iterator[list[tuple[int, int]]]:
    """By pass, columns behind it and in it, as the decoder is given them."""
    passes: list[tuple[int, int]] = []

    def note(_module: Any, _args: Any, kwargs: Any) -> None:
        cache = kwargs["past_key_values"]
        passes.append((0 if cache is None else int(cache.get_seq_length()), kwargs["input_ids"].shape[1]))

    handle = model.parts.decoder.register_forward_pre_hook(note, with_kwargs=True)
    yield passes
    handle.remove()


ASSISTED: dict[str, Any] = {
    "by prompt lookup": lambda: {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1},
    "by another model": lambda: {"assistant_model": make(num_hidden_layers=1, seed=3).hf},
    "by the very same model": lambda: {"assistant_model": make().hf},
}


@pytest.mark.parametrize("by", ASSISTED)
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_assisted_decoding_is_as_written_out(architecture: str, by: str) -> None:
    """A pass holds several tokens to be checked, and what is thrown away is cut off the cache."""
    model = with_window(architecture)
    options, prompt = ASSISTED[by](), "ababab the sea the sea the"
    base, length = plain(model, [prompt]).tolist(), model.encode(prompt).input_ids.shape[1]
    checked, moved = 0, 0
    for positions in SCOPES:
        with fed(model) as passes:
            found, counted = steered(model, [prompt], positions, **options)
        expected = written_out(model, prompt, positions)
        assert found == [expected], positions
        moved += found != base
        checked += sum(size > 1 for past, size in passes if past)
        tokens = [n for past, size in passes for n in chosen(positions, length, past + size) if n >= past]
        assert counted == len(tokens), positions
    assert checked > 0
    assert moved >= 4
    assert plain(model, [prompt], **options).tolist() == base


def test_a_model_that_drafts_by_its_own_first_blocks_is_steered_in_both() -> None:
    model, prompt = make(), "The sea is"
    for positions in SCOPES:
        found, _ = steered(model, [prompt], positions, assistant_early_exit=3)
        assert found == [written_out(model, prompt, positions)]


BEAMS = {"num_beams": 3, "num_return_sequences": 2}


@cache
def beams_without_a_cache() -> list[list[list[int]]]:
    """By scope: the beams of each prompt alone."""
    model, by_scope = make(), []
    for positions in SCOPES:
        found: list[list[int]] = []
        for prompt in PROMPTS:
            with by_hand(model, model.encode(prompt).input_ids.shape[1], positions):
                found += plain(model, [prompt], **BEAMS, use_cache=False).tolist()
        by_scope.append(found)
    return by_scope


@pytest.mark.parametrize("mode", ["cached", "static cache", "static cache, compiled", "prefill by 4"])
def test_beams_are_those_of_a_search_without_a_cache(mode: str) -> None:
    model = make()
    for positions, expected in zip(SCOPES, beams_without_a_cache(), strict=True):
        found, counted = steered(model, PROMPTS, positions, **BEAMS, **MODES[mode])
        assert found == expected, positions
        lengths = [model.encode(prompt).input_ids.shape[1] for prompt in PROMPTS]
        assert counted == 3 * sum(len(chosen(positions, n, n + NEW - 1)) for n in lengths)


@pytest.mark.parametrize("mode", ["cached", "static cache"])
def test_samples_are_those_of_the_same_dice_without_a_cache(mode: str) -> None:
    model, options = make(), {"do_sample": True, "num_return_sequences": 3, "temperature": 0.7}
    for positions in SCOPES:
        torch.manual_seed(5)
        found, _ = steered(model, ["The sea is"], positions, **options, **MODES[mode])
        torch.manual_seed(5)
        with by_hand(model, 10, positions):
            expected = plain(model, ["The sea is"], **options, use_cache=False)
        assert found == expected.tolist()


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator to offload from")
def test_an_offloaded_cache_is_as_any_other() -> None:
    model = make()
    found, _ = steered(model, PROMPTS, "generation", cache_implementation="offloaded")
    assert found == [written_out(model, prompt, "generation") for prompt in PROMPTS]


def test_a_quantized_cache_is_counted_as_any_other() -> None:
    pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
    model = make()
    options = {"cache_implementation": "quantized", "cache_config": {"nbits": 4, "residual_length": 4}}

    def add(_module: Any, _args: Any, output: Tensor) -> Tensor:
        added = torch.zeros_like(output)
        added[:, -1] = VECTOR
        return output + added

    found, counted = steered(model, PROMPTS, "generation", **options)
    handle = model.parts.blocks[LAYER].register_forward_hook(add)
    expected = plain(model, PROMPTS, **options).tolist()
    handle.remove()
    assert found == expected
    assert counted == 3 * NEW


def test_a_mask_that_generate_infers_is_inferred() -> None:
    model = make()
    ids = model.encode(PROMPTS).input_ids
    with Steer(model).add(VECTOR, layer=LAYER) as steer:
        out = model.hf.generate(input_ids=ids, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    assert out[:, ids.shape[1] :].tolist() == [written_out(model, prompt, "generation") for prompt in PROMPTS]
    assert steer.receipts[0].tokens == 3 * NEW


@torch.no_grad()
def test_a_loop_of_ones_own_with_a_static_cache_and_its_whole_mask() -> None:
    model = make()
    batch = model.encode(PROMPTS)
    width = batch.input_ids.shape[1]
    mask = torch.zeros(3, 40, dtype=torch.long)
    mask[:, :width] = batch.real
    for positions in SCOPES:
        cache = StaticCache(config=model.hf.config, max_cache_len=40)
        ids, position, found, now = batch.input_ids, batch.position.clamp(min=0), [], mask.clone()
        with Steer(model).add(VECTOR, layer=LAYER, positions=positions):
            for step in range(NEW):
                out = model.hf(input_ids=ids, attention_mask=now, position_ids=position, past_key_values=cache)
                ids = out.logits[:, -1:].argmax(-1)
                found.append(ids)
                now[:, width + step] = 1
                position = position[:, -1:] + 1
        assert torch.cat(found, 1).tolist() == [written_out(model, prompt, positions) for prompt in PROMPTS]


@torch.no_grad()
def test_a_mask_of_ones_own_form_leaves_the_count_to_the_position_ids() -> None:
    model = make()
    batch = model.encode(PROMPTS)
    mask = torch.ones(batch.input_ids.shape[1], batch.input_ids.shape[1], dtype=torch.bool).tril()
    mask = (mask & batch.real.unsqueeze(1)) | torch.eye(len(mask), dtype=torch.bool)
    with Steer(model).add(VECTOR, layer=LAYER, positions=[2, 7]):
        square = model.hf(
            input_ids=batch.input_ids, attention_mask=mask.unsqueeze(1), position_ids=batch.position.clamp(min=0)
        ).logits
        flat = model.forward(PROMPTS)
    assert torch.allclose(square[batch.real], flat[batch.real], atol=1e-5)


def test_rows_that_end_at_different_times_are_each_as_alone() -> None:
    model = make()
    rows = [[Edit(VECTOR, layer=1, coef=1)], [], [Edit(VECTOR, layer=2, coef=-1)]]
    free = Steer(model).rows(rows).generate(PROMPTS, max_new_tokens=24)
    ends = model.tokenizer.convert_tokens_to_ids([answer[at] for answer, at in zip(free, (3, 9, 15), strict=True)])
    options = {"max_new_tokens": 24, "eos_token_id": ends}
    together = Steer(model).rows(rows).generate(PROMPTS, **options)
    alone = [Steer(model).rows([row]).generate([p], **options)[0] for row, p in zip(rows, PROMPTS, strict=True)]
    assert together == alone
    assert len({len(answer) for answer in together}) > 1
    static = Steer(model).rows(rows).generate(PROMPTS, **options, cache_implementation="static")
    assert static == alone


def test_what_generate_returns_of_the_hidden_states_shows_the_edit() -> None:
    model = make()
    options = {"output_hidden_states": True, "return_dict_in_generate": True, "max_new_tokens": 3, "pad_token_id": 0}
    ids = model.encode("The sea is").input_ids
    with torch.inference_mode():
        base = model.hf.generate(input_ids=ids, **options).hidden_states
        with model.hook(Point(LAYER), lambda hidden, _: hidden + 1):
            edited = model.hf.generate(input_ids=ids, **options).hidden_states
    assert torch.allclose(edited[0][LAYER + 1], base[0][LAYER + 1] + 1, atol=1e-6)
    assert len(edited) == 3


def test_continuous_batching_is_refused_while_hooked() -> None:
    model = make()
    config = GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=-1)
    steer = Steer(model).add(VECTOR, layer=LAYER)
    with steer, pytest.raises(ModelError, match="continuous batching puts the tokens of all requests into one row"):
        model.hf.generate_batch([[5, 6, 7]], generation_config=config)
    with steer, pytest.raises(ModelError, match="continuous batching"):
        model.hf.generate(torch.tensor([[5, 6, 7]]), cache_implementation="paged", max_new_tokens=2)
    assert "init_continuous_batching" not in vars(model.hf)
