from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny, tiny_hf, tiny_tokenizer
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

import steerkit as sk
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.backends.transformer_lens import TransformerLensModel
from steerkit.errors import InputError, ModelError
from steerkit.points import Point

PROMPTS = ["The sea is", "A", "Dogs bark at the"]
SCOPES = ["all", "prompt", "generation", 0, -1, slice(1, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_hf("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def boot(folder: Path, **options: Any) -> Any:
    return TransformerBridge.boot_transformers(str(folder), device="cpu", **options)


def pair(architecture: str = "llama") -> tuple[HuggingFaceModel, TransformerLensModel]:
    """The same weights under plain hooks and as a bridge."""
    plain = HuggingFaceModel.wrap(tiny_hf(architecture, attn_implementation="eager"), tiny_tokenizer())
    return plain, TransformerLensModel.wrap(tiny_hf(architecture, attn_implementation="eager"), tiny_tokenizer())


def vector() -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(1))


def carried(bridge: Any) -> int:
    """Hooks in the whole bridge."""
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in bridge.original_model.modules())


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())


@pytest.mark.parametrize("compatible", [False, True])
def test_an_existing_bridge_is_accepted_as_it_is(folder: Path, compatible: bool) -> None:
    plain, bridge = sk.load(folder), boot(folder)
    if compatible:
        bridge.enable_compatibility_mode(no_processing=True)
    model = sk.load(bridge)
    assert isinstance(model, TransformerLensModel)
    assert model.bridge is bridge
    assert model.info == plain.info
    batch = plain.encode(PROMPTS)
    assert close(model.forward(batch)[batch.real], plain.forward(batch)[batch.real])
    assert sk.load(bridge, backend="transformer_lens").info == model.info
    with pytest.raises(InputError, match="run by transformer_lens"):
        sk.load(bridge, backend="nnsight")


def test_the_bridges_own_tokenizer_begins_plain_text_as_the_bridge_does(folder: Path) -> None:
    bridge = boot(folder)
    own, given = sk.load(bridge), sk.load(bridge, tokenizer=tiny_tokenizer())
    assert own.encode("hello").input_ids.tolist() == bridge.to_tokens("hello").tolist()
    assert given.encode("hello").input_ids.tolist() == sk.load(folder).encode("hello").input_ids.tolist()
    chat = [{"role": "user", "content": "hello"}]
    assert own.encode([chat]).input_ids.tolist() == given.encode([chat]).input_ids.tolist()
    bridge.tokenizer = None
    with pytest.raises(ModelError, match="no tokenizer; give one"):
        sk.load(bridge)


def test_folded_weights_are_refused(folder: Path) -> None:
    bridge = boot(folder)
    bridge.enable_compatibility_mode()
    with pytest.raises(ModelError, match=r"folded and centered.*no_processing=True"):
        sk.load(bridge)


def test_anything_else_of_transformer_lens_is_refused() -> None:
    with pytest.raises(ModelError, match=r"HookPoint is no bridge.*boot_transformers"):
        sk.load(HookPoint())


def test_a_vector_goes_from_one_backend_to_the_other(folder: Path, tmp_path: Path) -> None:
    plain, model = sk.load(folder), sk.load(boot(folder), tokenizer=tiny_tokenizer())
    question, matching, other = "question", "answer_matching_behavior", "answer_not_matching_behavior"
    items = [{question: f"{text}\n (A) Yes\n (B) No", matching: "(A)", other: "(B)"} for text in PROMPTS]
    (tmp_path / "pairs.json").write_text(json.dumps(items))
    pairs = sk.load_pairs(tmp_path / "pairs.json")
    made = [sk.extract(sk.record(one, pairs, progress=False)) for one in (plain, model)]
    assert close(made[1].values, made[0].values)
    made[1].save(tmp_path / "vector.safetensors")
    loaded = sk.SteeringVector.load(tmp_path / "vector.safetensors")
    texts = [sk.Steer(one).add(loaded, layer=1, coef=3).generate(PROMPTS, max_new_tokens=5) for one in (plain, model)]
    assert texts[0] == texts[1]


def test_edits_act_in_the_bridges_own_calls() -> None:
    plain, model = pair()
    bridge, batch = model.bridge, plain.encode("hello there")
    tokens = batch.input_ids
    base, _ = bridge.run_with_cache(tokens)  # which wires hooks of its own the first time, as transformers does
    before = carried(bridge)
    with sk.Steer(plain).add(vector(), layer=1, coef=2, positions="all"):
        wanted = plain.forward(batch)
    with sk.Steer(model).add(vector(), layer=1, coef=2, positions="all"):
        assert close(bridge(tokens), wanted)
        logits, cache = bridge.run_with_cache(tokens)
        assert close(logits, wanted)
        bridge.reset_hooks()
        found: list[Tensor] = []
        hooked = [("blocks.1.hook_out", lambda hidden, hook: found.append(hidden.clone()))]
        assert close(bridge.run_with_hooks(tokens, fwd_hooks=hooked), wanted)
    _, clean = bridge.run_with_cache(tokens)
    assert torch.allclose(cache["blocks.1.hook_out"] - clean["blocks.1.hook_out"], 2 * vector(), atol=1e-5)
    assert torch.equal(found[0], cache["blocks.1.hook_out"])
    assert torch.equal(bridge(tokens), base)
    assert carried(bridge) == before
    assert not {"generate", "generate_stream"} & set(vars(bridge))


@pytest.mark.parametrize("positions", SCOPES, ids=str)
@pytest.mark.parametrize("cache", [True, False])
def test_the_bridges_own_decoding_is_steered_at_the_right_tokens(cache: bool, positions: Any) -> None:
    plain, model = pair()
    bridge, batch, length = model.bridge, plain.encode("hello there"), 11
    options = {"max_new_tokens": 5, "do_sample": False, "verbose": False, "use_past_kv_cache": cache}
    with sk.Steer(plain).add(vector(), layer=1, coef=3, positions=positions):
        wanted = plain.hf.generate(batch.input_ids, max_new_tokens=5, pad_token_id=0, use_cache=cache)
    with sk.Steer(model).add(vector(), layer=1, coef=3, positions=positions) as steer:
        assert bridge.generate(batch.input_ids, **options).tolist() == wanted.tolist()
        touched = steer.receipts[0].tokens
        parts = list(bridge.generate_stream(batch.input_ids, max_tokens_per_yield=2, **options))
        assert torch.cat(parts, dim=1)[:, -5:].tolist() == wanted[:, length:].tolist()
        assert steer.receipts[0].tokens == 2 * touched
        out = bridge.hf_generate(batch.input_ids, max_new_tokens=5, do_sample=False, use_past_kv_cache=cache)
        assert out.tolist() == wanted.tolist()


@pytest.mark.parametrize("positions", ["generation", "prompt", 1])
@pytest.mark.parametrize("cache", [True, False])
def test_the_bridges_own_batches_are_steered_as_padded(folder: Path, cache: bool, positions: Any) -> None:
    model, texts = sk.load(boot(folder)), ["hello there", "hi"]
    plain = sk.load(tiny_hf("llama", attn_implementation="eager"), tokenizer=model.tokenizer)
    with sk.Steer(plain).add(vector(), layer=1, coef=3, positions=positions):
        wanted = plain.generate(texts, max_new_tokens=4)
    with sk.Steer(model).add(vector(), layer=1, coef=3, positions=positions):
        found = model.bridge.generate(texts, max_new_tokens=4, do_sample=False, verbose=False, use_past_kv_cache=cache)
    bare = [one.replace(" ", "") for one in found]  # the tokenizer puts spaces between characters
    assert bare == [(text + answer).replace(" ", "") for text, answer in zip(texts, wanted, strict=True)]


def test_a_stream_left_half_read_leaves_other_passes_alone() -> None:
    _, model = pair()
    tokens = model.encode("hello there").input_ids
    seen: list[list[int]] = []
    with model.hook(Point(1), lambda hidden, pass_: seen.append(pass_.prompt_length.tolist())):
        stream = model.bridge.generate_stream(tokens, max_new_tokens=4, do_sample=False, use_past_kv_cache=False,
                                              max_tokens_per_yield=1, verbose=False)  # fmt: skip
        next(stream)
        model.bridge(tokens[:, :3])
        next(stream)
        stream.close()
        model.bridge(tokens[:, :4])
    assert seen[0] == seen[2] == [11]
    assert seen[1] == [3]
    assert seen[-1] == [4]


def test_a_generate_of_the_users_own_comes_back() -> None:
    _, model = pair()
    mine = lambda *args, **kwargs: "mine"  # noqa: E731
    vars(model.bridge)["generate"] = mine
    with model.hook(Point(0), lambda hidden, pass_: None):
        assert model.bridge.generate() == "mine"
    assert vars(model.bridge)["generate"] is mine


def test_the_users_own_hooks_stay_and_see_the_edit() -> None:
    plain, model = pair()
    batch = plain.encode("hello")
    model.bridge.add_hook("blocks.2.hook_out", lambda hidden, hook: hidden * 1.5)
    with plain.hook(Point(2), lambda hidden, _: (hidden + vector()) * 1.5):
        wanted = plain.forward(batch)
    with model.hook(Point(2), lambda hidden, _: hidden + vector()):
        assert close(model.forward(batch), wanted)
    with plain.hook(Point(2), lambda hidden, _: hidden * 1.5):
        assert close(model.forward(batch), plain.forward(batch))


def test_olmo_2_is_read_after_its_norms() -> None:
    """TransformerLens's own name `hook_attn_out` was once the value before the norm."""
    plain, model = pair("olmo2")
    seen: dict[int, list[Tensor]] = {0: [], 1: []}
    for i, one in enumerate((plain, model)):
        for site in ("resid_pre", "attn_out", "mlp_out", "resid_post"):
            with one.hook(Point(1, site), lambda hidden, _, i=i: seen[i].append(hidden.clone())):  # type: ignore[arg-type]
                one.forward("hello there")
        assert close(sum(seen[i][:3], torch.zeros(())), seen[i][3])
    assert all(close(b, a) for a, b in zip(seen[0], seen[1], strict=True))


def test_an_architecture_without_adapter_is_refused_clearly() -> None:
    with pytest.raises(ModelError, match=r"cannot run HeliumForCausalLM: Unsupported.*backend='huggingface'"):
        sk.load(tiny_hf("helium"), tokenizer=tiny_tokenizer(), backend="transformer_lens")


def test_plain_weights_have_their_plain_fingerprint_where_fused_ones_were_split() -> None:
    for architecture in ("gpt2", "gpt_neox", "phi3"):
        wrapped = TransformerLensModel.wrap(tiny_hf(architecture), tiny_tokenizer())
        assert wrapped.info.fingerprint == tiny(architecture).info.fingerprint
