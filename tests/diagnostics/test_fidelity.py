"""Shifts of weights against those of an edit: closed forms, naive code, and what must not matter."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from tiny import tiny
from torch import Tensor

from steerkit.adapters import Adapter, Lora, attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode
from steerkit.data.pairs import ContrastPair, Side
from steerkit.diagnostics.imitation import Fidelity, fidelity
from steerkit.diagnostics.passages import Passage
from steerkit.errors import DataError, InputError, LayerError, MismatchError, PositionError, SteeringError
from steerkit.positions import Positions
from steerkit.steering import Steer

QUESTION = [{"role": "user", "content": "What is it?"}]
PROMPTS = [
    Prompt(QUESTION, prefill="a word"),
    Prompt("And so", prefill=" we went on and on"),
    Prompt("x", prefill="yz"),
]
NEUTRAL = ["Rain fell.", "It was a plain grey day"]
LAYER = 2


def vector(seed: int = 1) -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(seed))


def steer(model: HuggingFaceModel, *, coef: float = 1.0, positions: Positions = "generation", seed: int = 1) -> Steer:
    return Steer(model).add(vector(seed), layer=LAYER, coef=coef, positions=positions)


def constant_adapter(model: HuggingFaceModel, value: Tensor) -> Adapter:
    """A vector as the bias of an otherwise empty adapter: it adds the same at every token."""
    config = LoraConfig(r=1, target_modules=["down_proj"], layers_to_transform=[LAYER], lora_bias=True)
    with attach(model, {"made": config}) as attached:
        blank = attached.adapter("made")
    (key,) = [name for name in blank.weights if name.endswith("lora_B.bias")]
    return Adapter(blank.config, {**blank.weights, key: value / (config.lora_alpha / config.r)})


def idle_adapter(model: HuggingFaceModel) -> Adapter:
    with attach(model, {"made": Lora(r=2).config(model)}) as attached:
        return attached.adapter("made")


def assert_same(one: Fidelity, other: Fidelity) -> None:
    for name in ("base", "wanted", "realized", "residual", "cosine", "prompt_leak", "later_leak", "neutral_leak"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=2e-5, rtol=2e-4, equal_nan=True)
    for name in ("kl_base", "kl_steered", "kl_edit", "kl_prompt", "kl_neutral"):
        assert getattr(one, name).as_dict() == pytest.approx(
            getattr(other, name).as_dict(), abs=2e-5, rel=1e-3, nan_ok=True
        )


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_edit_is_true_to_itself(architecture: str) -> None:
    steered = steer(tiny(architecture))
    result = fidelity(steered, steered, PROMPTS)
    rows = slice(LAYER, None)
    assert result.residual[rows].tolist() == [0.0, 0.0]
    torch.testing.assert_close(result.cosine[rows], torch.ones(2), atol=1e-12, rtol=0)
    assert result.kl_steered.mean == result.kl_steered.rms == result.kl_steered.p95 == 0.0
    assert result.kl_base == result.kl_edit
    assert result.kl_base.mean > 0
    assert result.targets == (LAYER,)
    assert bool(result.residual[:LAYER].isnan().all())
    below = fidelity(steered, Steer(tiny(architecture)).add(vector(), layer=0), PROMPTS).residual
    assert bool(below[:LAYER].isnan().all())  # something moved where nothing was wanted: no ratio


def test_an_idle_adapter_misses_everything() -> None:
    model = tiny()
    result = fidelity(steer(model), idle_adapter(model).on(model), PROMPTS, neutral=NEUTRAL)
    assert result.residual[LAYER:].tolist() == [1.0, 1.0]
    assert result.cosine[LAYER:].tolist() == [0.0, 0.0]
    assert result.realized.tolist() == [0.0] * 4
    assert result.kl_base.mean == result.kl_prompt.mean == result.kl_neutral.rms == 0.0
    assert result.kl_steered.mean > 0


def test_a_constant_adapter_is_the_hook_at_all_positions() -> None:
    model = tiny()
    adapted = constant_adapter(model, vector()).on(model)
    result = fidelity(steer(model, positions="all"), adapted, PROMPTS)
    assert float(result.residual[LAYER:].max()) <= 1e-6
    assert result.kl_steered.mean <= 1e-6
    assert bool(result.prompt_leak.isnan().all())  # every token is in scope
    aside = fidelity(steer(model), adapted, PROMPTS)
    assert float(aside.prompt_leak[LAYER]) == pytest.approx(1, abs=1e-5)
    assert float(aside.residual[LAYER]) <= 1e-6


@settings(max_examples=20, deadline=None)
@given(coef=st.floats(-3, 3).filter(lambda value: abs(value) > 1e-3))
def test_a_multiple_of_the_shift_has_a_closed_form(coef: float) -> None:
    """At the edited layer s = c w: residual |c - 1|, length |c|, cosine the sign of c."""
    model = tiny()
    at = fidelity(steer(model), steer(model, coef=coef), PROMPTS[:1]).at(LAYER)
    assert at["residual"] == pytest.approx(abs(coef - 1), abs=2e-5)
    assert at["norm_ratio"] == pytest.approx(abs(coef), abs=2e-5)
    assert at["cosine"] == pytest.approx(math.copysign(1, coef), abs=1e-4)


def test_the_numbers_are_those_of_plain_code() -> None:
    """Text by text, without padding, from the hidden states that transformers itself returns."""
    model = tiny()
    steered, other = steer(model), steer(model, positions="all", seed=2)
    result = fidelity(steered, other, PROMPTS, neutral=NEUTRAL)
    row = LAYER + 1  # hidden_states counts the embeddings; the last is behind the final norm
    missed = lengths = cosines = leaked = tokens = outside = 0.0
    kl: list[float] = []
    for prompt in PROMPTS:
        one = encode(prompt, model.tokenizer)
        base, aim, got = (_states(model, thing, one.ids) for thing in (None, steered, other))
        w, s = aim[0][row] - base[0][row], got[0][row] - base[0][row]
        first = one.prompt_length - 1
        missed += float((s - w)[first:].norm(dim=-1).sum())
        lengths += float(w[first:].norm(dim=-1).sum())
        cosines += float(torch.cosine_similarity(s, w)[first:].sum())
        leaked += float(s[:first].norm(dim=-1).sum())
        tokens, outside = tokens + len(one.ids) - first, outside + first
        kl += _kl(got[1], base[1])[first:]
    at = result.at(LAYER)
    assert result.tokens == tokens
    assert at["residual"] == pytest.approx(missed / lengths, rel=1e-4)
    assert at["cosine"] == pytest.approx(cosines / tokens, rel=1e-3, abs=1e-4)
    assert at["prompt_leak"] == pytest.approx((leaked / outside) / (lengths / tokens), rel=1e-4)
    counts = [len(encode(Prompt(text), model.tokenizer).ids) for text in NEUTRAL]
    last, before = (
        float((vector(2) - vector()).norm()),
        float(vector(2).norm()),
    )  # the edit moves each text's last token
    astray = (len(counts) * last + (sum(counts) - len(counts)) * before) / sum(counts)
    assert at["neutral_leak"] == pytest.approx(astray / float(vector().norm()), rel=1e-4)
    assert result.kl_base.mean == pytest.approx(sum(kl) / len(kl), rel=1e-3)
    assert result.kl_base.rms == pytest.approx(math.sqrt(sum(x * x for x in kl) / len(kl)), rel=1e-3)
    assert result.kl_base.p95 == pytest.approx(sorted(kl)[math.ceil(0.95 * len(kl)) - 1], rel=1e-3)


def _states(model: HuggingFaceModel, thing: Any, ids: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    if thing is None:
        with torch.no_grad():
            out = model.hf(torch.tensor([ids]), output_hidden_states=True)
        return [one[0] for one in out.hidden_states], out.logits[0]
    # the scope begins at the template's last token, which a bare call of the model cannot know
    with thing, torch.no_grad(), model._passes.announce(torch.tensor([_prompt_length(model, ids)])):
        out = model.hf(torch.tensor([ids]), output_hidden_states=True)
    return [one[0] for one in out.hidden_states], out.logits[0]


def _prompt_length(model: HuggingFaceModel, ids: tuple[int, ...]) -> int:
    found = [encode(prompt, model.tokenizer) for prompt in PROMPTS]
    return next(one.prompt_length for one in found if one.ids == ids)


def _kl(student: Tensor, other: Tensor) -> list[float]:
    p, q = student.double().softmax(-1), other.double().softmax(-1)
    return [float((a * (a / b).log()).sum()) for a, b in zip(p, q, strict=True)]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_padding_and_batches_do_not_matter(architecture: str) -> None:
    model = tiny(architecture)
    steered, other = steer(model), steer(model, positions="all", seed=2)
    together = fidelity(steered, other, PROMPTS, neutral=NEUTRAL)
    assert_same(together, fidelity(steered, other, PROMPTS, neutral=NEUTRAL, batch_size=1))
    assert_same(together, fidelity(steered, other, PROMPTS, neutral=NEUTRAL, batch_size=2))


def test_many_logits_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from steerkit.diagnostics import divergence, passages

    model = tiny()
    steered, other = steer(model), steer(model, seed=2)
    whole = fidelity(steered, other, PROMPTS)
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda batch: seen.append(len(batch)) or forward(batch))
    monkeypatch.setattr(passages, "LOGITS", 1)
    monkeypatch.setattr(divergence, "CHUNK", 1)
    assert_same(whole, fidelity(steered, other, PROMPTS))
    assert seen == [1] * 9


def test_tokens_out_of_scope_are_told_apart() -> None:
    """Scope in the middle: what lies before belongs to the prompt, what lies behind is later."""
    model = tiny()
    ids = tuple(range(4, 14))
    one = Passage(ids, 4, tuple(4 <= i < 7 for i in range(10)))
    everywhere, middle = steer(model, positions="all"), steer(model, positions=[4, 5, 6])
    at = fidelity(middle, everywhere, [one]).at(LAYER)
    assert (at["residual"], at["prompt_leak"], at["later_leak"]) == pytest.approx((0, 1, 1), abs=1e-5)
    at = fidelity(middle, steer(model, positions=slice(4, None)), [one]).at(LAYER)
    assert (at["prompt_leak"], at["later_leak"]) == pytest.approx((0, 1), abs=1e-5)
    at = fidelity(everywhere, everywhere, [one]).at(LAYER)
    assert (at["prompt_leak"], at["later_leak"]) == (0, 0)  # what the edit does there too has not gone astray


def test_the_scope_is_that_of_the_edit() -> None:
    model = tiny()
    lengths = [len(encode(prompt, model.tokenizer).ids) for prompt in PROMPTS]
    everywhere = steer(model, positions="all")
    assert fidelity(everywhere, everywhere, PROMPTS).tokens == sum(lengths)
    two = steer(model).add(vector(), layer=1, positions=-1)
    from_last = sum(n - encode(p, model.tokenizer).prompt_length + 1 for n, p in zip(lengths, PROMPTS, strict=True))
    assert fidelity(two, two, PROMPTS).tokens == from_last
    assert fidelity(two, two, PROMPTS, positions=0).tokens == len(PROMPTS)
    assert fidelity(two, two, PROMPTS).targets == (1, 2)


def test_a_prompt_is_continued_by_the_steered_answer() -> None:
    model = tiny()
    steered = steer(model, coef=3, seed=3)
    (answer,) = steered.generate("And so", max_new_tokens=12, do_sample=False)
    assert len(answer) > 10
    asked = fidelity(steered, steered, "And so", max_new_tokens=12)
    assert_same(asked, fidelity(steered, steered, Prompt("And so", prefill=answer)))
    assert fidelity(steered, steered, "And so", max_new_tokens=0).tokens == 1
    fidelity(steered, steered, "x" * 505, max_new_tokens=50)  # the context has room for fewer


def test_pairs_are_read_on_both_sides() -> None:
    model = tiny()
    pair = ContrastPair(Side(Prompt(QUESTION), "yes"), Side(Prompt(QUESTION), "never"))
    steered = steer(model)
    result = fidelity(steered, steered, [pair])
    assert (result.texts, result.tokens) == (2, 1 + 3 + 1 + 5 + 2)  # the template's last token, a space, the letters


def test_weights_may_be_a_model_of_their_own() -> None:
    model, merged = tiny(), tiny()
    bias = torch.nn.Parameter(vector())
    merged.hf.model.layers[LAYER].mlp.down_proj.bias = bias
    result = fidelity(steer(model, positions="all"), merged, PROMPTS)
    assert float(result.residual[LAYER]) <= 1e-6


def test_half_precision_is_compared_in_single() -> None:
    model = tiny()
    model.hf.to(torch.bfloat16)
    model = HuggingFaceModel(model.hf, model.tokenizer, name="tiny")
    steered = steer(model)
    result = fidelity(steered, steered, PROMPTS)
    assert result.residual.dtype == torch.float32
    assert (result.at(LAYER)["residual"], result.kl_steered.mean) == (0.0, 0.0)
    assert result.rounding == torch.finfo(torch.bfloat16).eps
    assert result.at(LAYER)["wanted"] == pytest.approx(float(vector().norm()), rel=0.02)


def test_the_model_stays_itself() -> None:
    model = tiny()
    before = model.forward("And so")
    fidelity(steer(model), constant_adapter(model, vector()).on(model), PROMPTS)
    assert torch.equal(model.forward("And so"), before)


def test_a_result_shows_and_keeps_its_numbers() -> None:
    model = tiny()
    result = fidelity(steer(model), steer(model, coef=0.5), PROMPTS, neutral=NEUTRAL)
    assert "0.500 of the wanted shift is missed at layer 2" in repr(result)
    assert "weights from edit" in repr(result)
    assert "weights from edit" in result._repr_html_()
    content = json.loads(result.to_json())
    assert content["residual"][:2] == [None, None]
    assert content["kl_base"]["tokens"] == result.tokens
    frame = result.to_frame()
    assert frame["norm_ratio"].tolist()[LAYER] == pytest.approx(0.5, abs=1e-5)
    names = [trace.name for trace in result.plot().data]
    assert "leak to neutral text" in names
    assert "leak to later tokens" not in names
    assert fidelity(Steer(model), Steer(model), PROMPTS).summary == "nothing was to move"


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_named() -> None:
    model = tiny()
    steered = steer(model)
    with pytest.raises(InputError, match="a str cannot be compared"):
        fidelity(steered, "weights", PROMPTS)
    with pytest.raises(MismatchError, match="num_layers is 4 in tiny-llama and 2"):
        fidelity(steered, tiny(num_hidden_layers=2), PROMPTS)
    with pytest.raises(LayerError, match="layer 9 does not exist"):
        fidelity(steered, steered, PROMPTS, layers=9)
    with pytest.raises(PositionError, match="'answer' is not a scope"):
        fidelity(steered, steered, PROMPTS, positions="answer")
    with pytest.raises(DataError, match="no prompts given"):
        fidelity(steered, steered, [])
    with pytest.raises(DataError, match="sequence 0 has 601 tokens"):
        fidelity(steered, steered, Prompt("x" * 600, prefill="y"))
    with pytest.raises(InputError, match="batch_size=0"):
        fidelity(steered, steered, PROMPTS, batch_size=0)
    with pytest.raises(InputError, match="max_new_tokens=-1"):
        fidelity(steered, steered, PROMPTS, max_new_tokens=-1)
    with steered, pytest.raises(SteeringError, match="acts at this moment"):
        fidelity(steered, steered, PROMPTS)
    with pytest.raises(InputError, match="layer 7 was not measured"):
        fidelity(steered, steered, PROMPTS).at(7)
