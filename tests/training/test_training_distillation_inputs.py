"""What cannot be distilled is refused before anything is computed, with what to do instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from distillation_cases import pairs, tiny, vector_for

from steerkit.adapters import Lora
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.errors import DataError, InputError, LayerError, MismatchError, PositionError, SteeringError, VectorError
from steerkit.steering import Steer
from steerkit.training.distilling.distillation import distill
from steerkit.training.fitting.fit import Fit
from steerkit.vectors import SteeringVector

pytestmark = pytest.mark.usefixtures("as_user")

INFINITE = float("inf")


@pytest.fixture(scope="module")
def model() -> HuggingFaceModel:
    """A model that must not run."""
    made = tiny("llama")

    def refuse(*_: Any) -> None:
        raise AssertionError("the model ran")

    made.hf.model.register_forward_pre_hook(refuse)
    return made


LONG = "a" * 600
CASES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no layer": ({"layer": None}, LayerError, "needs a layer"),
    "a layer beyond the model": ({"layer": 4}, LayerError, "layer 4 does not exist; the model has 4 blocks, 0 to 3"),
    "a negative layer": ({"layer": -1}, LayerError, "layer=-1"),
    "a layer twice": ({"layer": [2, 2]}, LayerError, "twice"),
    "a layer that the vector lacks": ({"layer": 0}, VectorError, "the vector has no layer 0"),
    "an infinite coefficient": ({"coef": INFINITE}, SteeringError, "coef=inf is not finite"),
    "no number": ({"coef": float("nan")}, SteeringError, "coef=nan is not finite"),
    "a coefficient by row": ({"coef": torch.tensor([1.0, 2.0])}, InputError, "differs by row"),
    "an unknown scope": ({"positions": "answer"}, PositionError, "positions='answer'"),
    "a scope beyond every token": ({"positions": 400}, DataError, "no token of 8 sequences stands at positions=400"),
    "the same where answers come": ({"positions": 400, "prompts": ["a"]}, DataError, "there is nothing to distil"),
    "an unknown unit": ({"unit": "norm"}, SteeringError, "unit='norm'"),
    "a unit that the vector does not know": ({"unit": "gap"}, VectorError, "needs the vector's meta"),
    "no prompts": ({"prompts": None}, DataError, "no prompts given"),
    "an empty list": ({"prompts": []}, DataError, "no prompts given"),
    "an empty prompt": ({"prompts": ["  "]}, DataError, "an empty prompt"),
    "a number for a prompt": ({"prompts": [3]}, DataError, "a prompt of type int"),
    "a long prompt": ({"prompts": [LONG]}, DataError, "prompt 0 has 60[0-9] tokens; with max_new_tokens=32"),
    "no room for an answer": ({"prompts": ["a" * 500]}, DataError, "exceeds the model's context of 512"),
    "a long pair": ({"prompts": [*pairs(), Prompt("b"), LONG]}, DataError, "prompt 1 has 60[0-9] tokens"),
    "an unknown writer": ({"answers": "mine"}, DataError, "answers='mine'"),
    "no new tokens": ({"max_new_tokens": 0}, DataError, "max_new_tokens=0"),
    "unknown targets": ({"lora": Lora(targets=["c_attn"])}, InputError, "c_attn"),
    "a block that is never trained": ({"lora": Lora(blocks=[3])}, InputError, "blocks \\[3\\] would never be trained"),
    "another hidden size": ({"source": torch.ones(7)}, VectorError, "hidden size 7"),
    "something else": ({"source": "sycophancy", "layer": None, "prompts": None}, InputError, "a str cannot be dist"),
    "a source with its own texts": ({"source": "x", "layer": None}, InputError, "has its own texts"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_before_anything_runs(model: HuggingFaceModel, name: str) -> None:
    change, error, message = CASES[name]
    given: dict[str, Any] = {"source": vector_for(model, 1, 2), "layer": 2, "prompts": pairs(), **change}
    with pytest.raises(error, match=message):
        distill(model, given.pop("source"), progress=False, **given)


def test_a_vector_of_another_model_is_refused(model: HuggingFaceModel) -> None:
    made = {"model": {**model.info.as_dict(), "fingerprint": "another"}}
    vector = SteeringVector(torch.ones(1, model.info.hidden_size), layers=[2], meta=made)
    with pytest.raises(MismatchError, match="made with another"):
        distill(model, vector, layer=2, prompts=pairs(), progress=False)


def test_no_edit_and_no_model_are_refused(model: HuggingFaceModel) -> None:
    with pytest.raises(InputError, match="no edit to distil"):
        distill(model, Steer(model), prompts=pairs(), progress=False)
    with pytest.raises(InputError, match="plain Hugging Face model, not on a LlamaForCausalLM"):
        distill(model.hf, torch.ones(32), layer=1, prompts=pairs(), progress=False)


def test_a_folder_that_cannot_hold_the_result_is_refused(model: HuggingFaceModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name, message in (("file", "is a file"), ("model", "holds a model")):
        with pytest.raises(InputError, match=message):
            distill(model, vector_for(model, 2), layer=2, prompts=pairs(), path=tmp_path / name, progress=False)


def test_states_that_are_no_numbers_are_named_before_training() -> None:
    broken = tiny("llama")
    with torch.no_grad():
        broken.hf.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        distill(broken, torch.ones(32), layer=1, prompts=pairs(), fit=Fit(steps=1), progress=False)
