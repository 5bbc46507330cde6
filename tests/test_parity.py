from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny, tiny_hf, tiny_tokenizer
from torch import Tensor

import steerkit as sk
from steerkit.agreement import Parity, ParityRow, parity
from steerkit.agreement.greedy import Answers, compare_answers
from steerkit.agreement.subjects import attending, attention_of
from steerkit.agreement.workload import SHARE, default_pairs, plan
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.backends.loading import BACKENDS
from steerkit.errors import DataError, InputError, LayerError, VectorError
from steerkit.points import Point

QUANTITIES = ["weights", "logits", "states", "recorded states", "p(matching)", "sweep cells", "steered tokens",
              "steered logits", "greedy answers"]  # fmt: skip


def failing(found: Parity, backend: str) -> list[str]:
    return [row.quantity for row in found.of(backend) if not row.passed]


def row_of(found: Parity, backend: str, quantity: str) -> ParityRow:
    return next(row for row in found.of(backend) if row.quantity == quantity)


def test_the_demo_model_is_the_same_through_every_backend() -> None:
    found = sk.parity("demo")
    assert found.passed
    assert {row.backend for row in found.rows} == set(BACKENDS)
    for backend in ("transformer_lens", "nnsight"):
        assert [row.quantity for row in found.of(backend)] == QUANTITIES
    assert found.summary == "the same within rounding: huggingface, transformer_lens, nnsight"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_base_models_without_chat_template_and_pad_token_are_the_same(architecture: str) -> None:
    tokenizer = deepcopy(tiny_tokenizer(chat=False))
    tokenizer.pad_token = None
    hf = tiny_hf(architecture)
    found = parity(hf, tokenizer=tokenizer)
    assert found.passed
    assert tokenizer.pad_token is None
    assert len(found.of("transformer_lens")) == len(found.of("nnsight")) == len(QUANTITIES)
    assert "steerkit" not in type(hf.model.layers[0] if architecture == "llama" else hf.transformer.h[0]).__module__


def test_each_backend_is_held_against_the_attention_that_it_runs() -> None:
    model = tiny("llama", attn_implementation="sdpa")
    found = parity(model)
    assert {row.attention for row in found.of("transformer_lens")} == {"eager"}
    assert {row.attention for row in found.of("nnsight")} == {"sdpa"}
    apart = [row for row in found.of("huggingface") if row.kind == "for comparison"]
    assert [row.quantity for row in apart] == ["logits", "states", "steered logits", "greedy answers"]
    assert all(0 < (row.difference or 0) < 1e-5 for row in apart)
    cells = "sweep cells"  # tails join at their layers with plain hooks alone: other shapes, other rounding
    assert {row.difference for row in found.of("transformer_lens") if row.quantity != cells} == {0.0}
    assert all(row.difference < 1e-5 for row in found.of("transformer_lens") if row.quantity == cells)
    assert attention_of(model) == "sdpa"


def test_an_eager_model_needs_no_comparison_of_attention() -> None:
    found = parity(tiny("llama", attn_implementation="eager"))
    assert {row.kind for row in found.rows} == {"measured"}
    assert {row.attention for row in found.rows} == {"eager"}


def test_attention_is_put_back_also_after_an_error() -> None:
    model = tiny("llama", attn_implementation="sdpa")

    def fail() -> None:
        with attending(model, "eager") as taken:
            assert taken
            assert attention_of(model) == "eager"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert attention_of(model) == "sdpa"
    with attending(model, "no such thing") as taken:
        assert not taken


def test_the_reference_is_held_against_transformers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What all backends share could be wrong in all of them alike."""
    model = tiny("llama")
    assert [row.quantity for row in parity(model, backends="huggingface").rows] == [
        "logits",
        "states",
        "steered logits",
    ]
    hook = HuggingFaceModel.hook

    def late(self: Any, point: Point, fn: Any) -> Any:
        return hook(self, point, lambda hidden, p: fn(hidden, replace(p, prompt_length=p.prompt_length + 1)))

    monkeypatch.setattr(HuggingFaceModel, "hook", late)
    assert failing(parity(model, backends="huggingface"), "huggingface") == ["steered logits"]


def test_one_extra_model_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from steerkit.backends.nnsight import NNsightModel
    from steerkit.backends.transformer_lens import TransformerLensModel

    alive: list[weakref.ref[Any]] = []

    def spy(cls: Any) -> None:
        wrap = cls.wrap

        def wrapped(hf: Any, tokenizer: Any, **names: Any) -> Any:
            assert not [one for one in alive if one() is not None]
            alive.append(weakref.ref(hf))
            return wrap(hf, tokenizer, **names)

        monkeypatch.setattr(cls, "wrap", wrapped)

    spy(TransformerLensModel)
    spy(NNsightModel)
    assert parity(tiny("llama"), backends=["transformer_lens", "nnsight"]).passed
    assert len(alive) == 2


def test_a_vector_of_the_user_and_pairs_with_open_answers() -> None:
    model = tiny("gpt2")
    vector = sk.SteeringVector(torch.randn(2, 32), layers=[0, 3])
    pairs = sk.load_pairs("demo:mood", split="test")
    found = parity(model, vector=vector, coef=-0.5, pairs=pairs[:3], backends=["transformer_lens"])
    assert found.passed
    assert f"16 of {len(pairs)} pairs" in parity(model, pairs=pairs, backends="huggingface").setup
    assert "times -0.5, at resid_post of block 3" in found.setup
    open_pairs = [
        replace(
            pair,
            positive=replace(pair.positive, answer=" yes, it is"),
            negative=replace(pair.negative, answer=" nobody knows"),
        )
        for pair in default_pairs()
    ]
    found = parity(model, pairs=open_pairs, backends=["transformer_lens"])
    assert found.passed
    assert "sweep cells" not in [row.quantity for row in found.rows]
    assert "no sweep cells: pair '0'" in found.setup


def test_the_random_vector_is_as_long_as_stated() -> None:
    model = tiny("llama")
    found = parity(model, layer=1, seed=3, backends="huggingface")
    norm = float(found.setup.split("of norm ")[1].split()[0])
    texts = [pair.positive.prompt.content + pair.positive.answer for pair in default_pairs()]
    norms = []
    for text in texts:
        with torch.no_grad():
            ids = model.encode(text).input_ids
            norms.append(model.hf(input_ids=ids, output_hidden_states=True).hidden_states[2][0, -8:].norm(dim=-1))
    assert norm == pytest.approx(SHARE * float(torch.cat(norms).mean()), rel=1e-3)
    assert "seed 3" in found.setup
    work = plan(model, None, layer=1, coef=1.0, pairs=None, seed=3)
    assert float(work.vector.norm()) == pytest.approx(norm, rel=1e-3)
    assert not torch.equal(work.vector, plan(model, None, layer=1, coef=1.0, pairs=None, seed=4).vector)
    assert "block 1" in found.setup


def _answers(scores: Tensor) -> Answers:
    return Answers(scores.argmax(-1), scores, tiny_tokenizer())


def test_a_token_that_flips_at_a_tie_is_told_from_one_that_does_not() -> None:
    scores = torch.zeros(1, 3, 50)
    scores[0, :, 10], scores[0, :, 11] = 20.0, 20.0 - 1e-5
    tied = scores.clone()
    tied[0, 1, 11] = 20.0 + 1e-5
    tied[0, 2] = 5.0
    found = compare_answers(_answers(tied), _answers(scores), 1e-5)
    assert found.difference < 1e-5
    assert "pair 0, new token 1" in found.where
    assert "a tie" in found.where
    scores[0, 1, 11] = 19.0
    found = compare_answers(_answers(tied), _answers(scores), 1e-5)
    assert found.difference > 1e-2
    assert found.where.endswith("margin 1 logits: no tie")


def test_what_is_no_number_does_not_pass() -> None:
    nan = ParityRow("nnsight", "logits", float("nan"), 1e-5)
    assert not nan.passed
    found = Parity("m", "float32", "", (nan,))
    assert json.loads(found.to_json())["rows"][0]["difference"] is None
    assert found.plot().data[0].x == (1e5,)


def test_it_prints_draws_and_writes_itself() -> None:
    found = parity(tiny("llama"), backends=["huggingface", "nnsight"])
    text = repr(found)
    assert text.startswith("Parity of tiny-llama, float32: 4 built-in pairs; random vector of norm")
    assert text.endswith("the same within rounding: huggingface, nnsight")
    told = json.loads(found.to_json())
    assert told["passed"]
    assert len(told["rows"]) == len(found.rows)
    assert "<table" in found._repr_html_()
    assert {trace.name for trace in found.plot().data} == {"huggingface, sdpa", "nnsight, sdpa"}


@contextmanager
def _never(*_: Any, **__: Any) -> Iterator[None]:
    raise AssertionError("a model ran before the input was checked")
    yield


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"backends": "vllm"}, InputError, "backend 'vllm' is not known; choose from huggingface"),
        ({"backends": []}, InputError, "name at least one"),
        ({"backends": ["nnsight", "nnsight"]}, InputError, "each once"),
        ({"vector": torch.ones(31)}, VectorError, "31"),
        ({"vector": sk.SteeringVector(torch.ones(1, 16), layers=[1])}, VectorError, "16"),
        ({"vector": [1.0]}, VectorError, "give a SteeringVector"),
        ({"vector": torch.zeros(32)}, VectorError, "steers nothing"),
        ({"vector": sk.SteeringVector(torch.ones(1, 32), layers=[1]), "layer": 2}, VectorError, "layer 2"),
        ({"layer": 4}, LayerError, "layer 4 does not exist"),
        ({"layer": -1}, LayerError, "layer=-1 is not valid"),
        ({"coef": float("nan")}, InputError, "coef=nan is not valid"),
        ({"coef": 0}, InputError, "other than 0"),
        ({"coef": "2"}, InputError, "coef='2' is not valid"),
        ({"pairs": []}, DataError, "pairs is empty"),
        ({"pairs": "demo:mood"}, DataError, "what sk.load_pairs returns"),
        ({"tokenizer": "x"}, InputError, "leave tokenizer out"),
    ],
)
def test_bad_input_is_one_clear_error_before_anything_runs(
    given: dict[str, Any], error: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama")
    monkeypatch.setattr(HuggingFaceModel, "_run", _never)
    with pytest.raises(error, match=says):
        parity(model, **given)


@pytest.mark.usefixtures("as_user")
def test_a_model_that_another_backend_has_taken_over_is_refused() -> None:
    model = sk.load(tiny_hf(), tokenizer=tiny_tokenizer(), backend="nnsight")
    with pytest.raises(InputError, match="run by nnsight"):
        parity(model)
    with pytest.raises(InputError, match="run by nnsight"):
        parity(model.nn, tokenizer=tiny_tokenizer())


@pytest.mark.usefixtures("as_user")
def test_pairs_that_leave_no_room_for_an_answer_are_refused() -> None:
    with pytest.raises(DataError, match="an answer must follow"):
        parity(tiny("llama", max_position_embeddings=32))
    short = tiny("llama", max_position_embeddings=60)
    assert row_of(parity(short, backends="nnsight"), "nnsight", "greedy answers").where.startswith("all 20 tokens")


@pytest.mark.parametrize("name", ["CraftGPT-5M-chat", "TinyStories-656K", "stories260K"])
def test_pretrained_models_are_the_same_as_they_were_saved(data_root: Any, name: str) -> None:
    found = parity(data_root / "models" / name)
    assert found.passed
    told = "; no sweep cells: pair '0': the answers differ in 1 and 2 tokens"
    measured = len(QUANTITIES) - (told in found.setup)
    assert len(found.of("transformer_lens")) == len(found.of("nnsight")) == measured
    assert (told in found.setup) == (name == "CraftGPT-5M-chat")
