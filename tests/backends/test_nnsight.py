from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_hf, tiny_tokenizer
from torch import Tensor

import steerkit as sk
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.backends.nnsight import NNsightModel
from steerkit.errors import InputError, ModelError
from steerkit.points import Point

from nnsight import NNsight, NNsightDeprecationWarning  # isort: skip - what is imported after it cannot be type-checked
from nnsight.modeling.language import LanguageModel  # isort: skip
from nnsight.modeling.transformers import TransformersModel  # isort: skip

PROMPTS = ["The sea is", "A", "Dogs bark at the"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_hf("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def pair(architecture: str = "llama") -> tuple[HuggingFaceModel, NNsightModel]:
    """The same weights under plain hooks and under nnsight."""
    return (HuggingFaceModel.wrap(tiny_hf(architecture), tiny_tokenizer()),
            NNsightModel.wrap(tiny_hf(architecture), tiny_tokenizer()))  # fmt: skip


def vector() -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(1))


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())


def test_an_existing_model_is_accepted_as_it_is(folder: Path) -> None:
    plain, nn = sk.load(folder), TransformersModel(str(folder), task="text-generation", dispatch=True)
    model = sk.load(nn)
    assert isinstance(model, NNsightModel)
    assert model.nn is nn
    assert model.info == plain.info
    assert close(model.forward("hello"), plain.forward("hello"))
    with pytest.raises(InputError, match="run by nnsight"):
        sk.load(nn, backend="huggingface")


def test_the_deprecated_language_model_is_accepted(folder: Path) -> None:
    with warnings.catch_warnings(action="ignore", category=NNsightDeprecationWarning):
        nn = LanguageModel(str(folder), dispatch=True)
    assert sk.load(nn).info == sk.load(folder).info


def test_a_model_without_weights_is_refused(folder: Path) -> None:
    nn = TransformersModel(str(folder), task="text-generation", tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match=r"holds no weights yet.*dispatch"):
        sk.load(nn)
    nn.dispatch()
    assert sk.load(nn).info == sk.load(folder).info


def test_anything_else_of_nnsight_is_refused() -> None:
    with pytest.raises(ModelError, match=r"NNsight.*TransformersModel"):
        sk.load(NNsight(torch.nn.Linear(2, 2)))


def test_a_model_without_tokenizer_is_refused() -> None:
    nn = TransformersModel(tiny_hf("llama"), tokenizer=tiny_tokenizer(), task="text-generation")
    nn.tokenizer = None
    with pytest.raises(ModelError, match="no tokenizer; give one"):
        sk.load(nn)


@pytest.mark.parametrize("positions", ["all", "prompt", "generation", 0, -1, slice(1, 3)], ids=str)
def test_edits_act_in_traces_and_generations_of_the_users_own(positions: Any) -> None:
    plain, model = pair()
    nn, batch = model.nn, plain.encode("hello there")
    tokens = batch.input_ids
    with torch.no_grad(), sk.Steer(plain).add(vector(), layer=1, coef=3, positions=positions):
        wanted = plain.hf(tokens).logits
        decoded = plain.hf.generate(tokens, max_new_tokens=5, pad_token_id=0)
    with torch.no_grad(), sk.Steer(model).add(vector(), layer=1, coef=3, positions=positions) as steer:
        with nn.trace(tokens):
            hidden = nn.model.layers[1].output.save()
            logits = nn.output.logits.save()
        with nn.generate(tokens, max_new_tokens=5, pad_token_id=0) as tracer:
            ids = tracer.result.save()
        assert steer.receipts[0].passes == 6
    with torch.no_grad(), nn.trace(tokens):
        clean = nn.model.layers[1].output.save()
    assert close(logits, wanted)
    assert ids.tolist() == decoded.tolist()
    selected = (hidden - clean).norm(dim=-1) > 1e-3
    assert torch.allclose((hidden - clean)[selected], 3 * vector(), atol=1e-5)


def test_edits_act_on_every_invoke_of_a_batch() -> None:
    plain, model = pair()
    nn = model.nn
    for positions in ("prompt", "generation", 1):
        with sk.Steer(plain).add(vector(), layer=1, coef=3, positions=positions):
            wanted = plain.forward(PROMPTS)
            decoded = plain.generate(PROMPTS, max_new_tokens=4)
        with torch.no_grad(), sk.Steer(model).add(vector(), layer=1, coef=3, positions=positions):
            with nn.trace() as tracer:
                with tracer.invoke(PROMPTS[0]):
                    first = nn.output.logits.save()
                with tracer.invoke(PROMPTS[1:]):
                    rest = nn.output.logits.save()
            with nn.generate(max_new_tokens=4, pad_token_id=0) as tracer:
                with tracer.invoke(PROMPTS[0]):
                    pass
                with tracer.invoke(PROMPTS[1:]):
                    pass
                with tracer.invoke():
                    ids = tracer.result.save()
        real = plain.encode(PROMPTS).real
        assert close(torch.cat([first, rest])[real], wanted[real])
        assert plain.tokenizer.batch_decode(ids[:, real.shape[1] :], skip_special_tokens=True) == decoded


@pytest.mark.parametrize("remote", [False, "local"])
@pytest.mark.parametrize("architecture", ["llava", "qwen2_vl", "gemma3", "mamba"])
def test_padding_is_known_in_traces_of_the_users_own(architecture: str, remote: Any) -> None:
    plain, model = pair(architecture)
    model.remote = remote
    nn = model.nn
    batch = plain.encode(["hello there", "hi"])
    given = {"input_ids": batch.input_ids, "attention_mask": batch.real.long()}
    for positions in (1, "generation", "prompt"):
        with torch.no_grad(), sk.Steer(plain).add(vector(), layer=1, coef=3, positions=positions):
            wanted = plain.hf(**given).logits[batch.real]
            decoded = plain.hf.generate(**given, max_new_tokens=3, pad_token_id=0)
        with torch.no_grad(), sk.Steer(model).add(vector(), layer=1, coef=3, positions=positions):
            with nn.trace(**given, remote=remote):
                logits = nn.output.logits.save()
            with nn.generate(**given, max_new_tokens=3, pad_token_id=0, remote=remote) as tracer:
                ids = tracer.result.save()
        assert close(logits[batch.real], wanted)
        assert ids.tolist() == decoded.tolist()


def test_the_users_own_stored_edits_stay_untouched() -> None:
    plain, model = pair()
    nn = model.nn
    with nn.edit(inplace=True):
        nn.model.layers[2].output = nn.model.layers[2].output * 1.5
    kept = list(nn._edits)
    with plain.hook(Point(2), lambda hidden, _: hidden * 1.5):
        base = plain.forward("hello")
        assert close(model.forward("hello"), base)
        with plain.hook(Point(1), lambda hidden, _: hidden + vector()):
            wanted = plain.forward("hello")
    with model.hook(Point(1), lambda hidden, _: hidden + vector()):
        assert close(model.forward("hello"), wanted)
        with nn.edit(inplace=True):
            nn.model.layers[3].output = nn.model.layers[3].output * 2
    assert [one in nn._edits for one in kept] == [True]
    assert len(nn._edits) == 2
    nn.clear_edits()
    with model.hook(Point(1), lambda hidden, _: hidden + vector()):
        nn.clear_edits()
    assert close(model.forward("hello"), plain.forward("hello"))


class Mine(Exception):
    """What a user's hook raises."""


def test_an_exception_comes_through_as_it_is_and_leaves_nothing() -> None:
    _, model = pair()
    base, generated = model.forward("hello"), model.generate("hello", max_new_tokens=4)
    error = Mine("of my own")

    def fail(*_: Any) -> None:
        raise error

    for run in (lambda: model.forward("hello"), lambda: model.generate("hello", max_new_tokens=4),
                lambda: model.forward("hello", until=2)):  # fmt: skip
        with pytest.raises(Mine) as caught, sk.Steer(model).add(vector(), layer=1), model.hook(Point(1), fail):
            run()
        assert caught.value is error
    assert not model.nn._edits
    assert torch.equal(model.forward("hello"), base)
    assert model.generate("hello", max_new_tokens=4) == generated


def test_the_module_itself_stays_plain_and_generate_its_own() -> None:
    _, model = pair()
    ids = model.encode("hello").input_ids
    with torch.no_grad():
        base = model.hf(ids).logits
        with sk.Steer(model).add(vector(), layer=1, positions="all"):
            assert torch.equal(model.hf(ids).logits, base)
    assert "generate" not in vars(model.hf)
    assert not model.nn._edits
