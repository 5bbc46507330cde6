from __future__ import annotations

import json

import pytest
import torch
from tiny import tiny

from steerkit.data.chat import Prompt
from steerkit.diagnostics import token_projection
from steerkit.errors import InputError, MismatchError, VectorError
from steerkit.vectors import SteeringVector

TEXTS = ["Hi there", "A rather longer text <b>&\nthan the first", "x"]


def vector(**settings: object) -> SteeringVector:
    return SteeringVector(torch.randn(4, 32), layers=range(4), **settings)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("layer", [0, 2])
def test_each_token_has_its_own_cosine(architecture: str, layer: int) -> None:
    """Value i is that of token i of what transformers itself reads, text by text and without padding."""
    model, v = tiny(architecture), vector()
    result = token_projection(model, TEXTS, v, layer=layer)
    for text, found in zip(TEXTS, result.texts, strict=True):
        ids = torch.tensor([found.ids])
        with torch.no_grad():
            hidden = model.hf(ids, output_hidden_states=True).hidden_states[layer + 1][0]
        expected = torch.cosine_similarity(hidden, v.at(layer).expand(len(hidden), -1))
        torch.testing.assert_close(found.cosines, expected, atol=1e-5, rtol=1e-4)
        assert "".join(found.tokens).endswith(text)
        assert len(found.tokens) == len(found.ids) == len(found.cosines)


def test_the_label_does_not_drift() -> None:
    """A token that alone carries the direction is the one that is colored: with its own embedding as the vector."""
    model = tiny("llama")
    token = model.tokenizer.convert_tokens_to_ids("Q")
    own = model.hf.get_input_embeddings().weight[token].detach().float()
    v = SteeringVector(own, layers=0, site="resid_pre")
    prompt = Prompt([{"role": "user", "content": "abc Q def"}])
    (found,) = token_projection(model, ["longer than the other one, so that it is padded", prompt], v, layer=0).texts[
        1:
    ]
    at = int(found.cosines.argmax())
    assert found.tokens[at] == "Q"
    assert float(found.cosines[at]) == pytest.approx(1, abs=1e-5)
    assert found.tokens[0] == "<s>"
    assert found.prompt_length == len(found.ids)


def test_an_answer_is_told_from_its_prompt() -> None:
    prompt = Prompt([{"role": "user", "content": "Why?"}], prefill=" So")
    result = token_projection(tiny("llama"), prompt, vector(), layer=1)
    frame = result.to_frame()
    assert frame[frame["part"] == "answer"]["token"].tolist() == [" ", "S", "o"]
    assert "'S'" in repr(result)


def test_batches_do_not_matter() -> None:
    model, v = tiny("llama"), vector()
    one = token_projection(model, TEXTS, v, layer=1, batch_size=1)
    two = token_projection(model, TEXTS, v, layer=1, batch_size=2)
    for a, b in zip(one.texts, two.texts, strict=True):
        torch.testing.assert_close(a.cosines, b.cosines, atol=1e-5, rtol=1e-4)


def test_html_is_escaped_and_colored() -> None:
    result = token_projection(tiny("llama"), TEXTS, vector(), layer=1)
    page = result.to_html()
    assert "&lt;" in page
    assert "<b>" not in page
    assert page == result._repr_html_()
    assert page.count("<span title=") == sum(len(text.tokens) for text in result.texts)
    content = json.loads(result.to_json())
    assert content["texts"][0]["cosines"] == pytest.approx(result.texts[0].cosines.tolist())
    assert len(result.plot().data) == 3


def test_bad_input_is_named() -> None:
    model = tiny("llama")
    with pytest.raises(VectorError, match="hidden size 3"):
        token_projection(model, "x", SteeringVector(torch.ones(3), layers=0), layer=0)
    with pytest.raises(VectorError, match="no layer 2"):
        token_projection(model, "x", SteeringVector(torch.ones(32), layers=0), layer=2)
    with pytest.raises(InputError, match="no prompts given"):
        token_projection(model, [], vector(), layer=0)
    with pytest.raises(InputError, match="text 0 has 600 tokens, the model takes 512"):
        token_projection(model, "x" * 600, vector(), layer=0)
    with pytest.raises(InputError, match="batch_size=0"):
        token_projection(model, "x", vector(), layer=0, batch_size=0)
    made = {**model.info.as_dict(), "fingerprint": "another"}
    with pytest.raises(MismatchError, match="fingerprint another"):
        token_projection(model, "x", vector(meta={"model": made}), layer=0)
    token_projection(model, "x", vector(meta={"model": made}), layer=0, override=True)
