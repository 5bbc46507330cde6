"""Each sign of failure in what weights say is planted on the embedded model, and found by its rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from verification_cases import OnSome

import steerkit as sk
from steerkit.data.chat import Prompt
from steerkit.interchange.bias_adapter import bias_adapter
from steerkit.training.verifying.verification import verify

LAYER = 3


@pytest.fixture(scope="module")
def model() -> Any:
    return sk.load("demo")


@pytest.fixture(scope="module")
def held_out() -> Any:
    return sk.load_pairs("demo:sycophancy", split="test")[:24]


@pytest.fixture(scope="module")
def vector(model: Any) -> torch.Tensor:
    """Of sycophancy, as strong as it is used."""
    pairs = sk.load_pairs("demo:sycophancy", split="train")[:60]
    return -0.5 * sk.extract(sk.record(model, pairs, progress=False)).at(LAYER)


@pytest.fixture(scope="module")
def questions() -> list[Prompt]:
    return [
        Prompt([{"role": "user", "content": "Is the sea dry?"}]),
        Prompt([{"role": "user", "content": "I am sad."}]),
    ]


def hook(model: Any, vector: torch.Tensor, *, layer: int = LAYER, coef: float = 1.0) -> sk.Steer:
    return sk.Steer(model).add(vector, layer=layer, coef=coef, positions="all")


def weights(model: Any, vector: torch.Tensor, *, layer: int = LAYER, coef: float = 1.0) -> Any:
    return bias_adapter(model, vector, layer=layer, coef=coef).on(model)


def test_weights_that_do_what_the_hook_does(model: Any, vector: Any, held_out: Any, questions: Any) -> None:
    found = verify(weights(model, vector), steered=hook(model, vector), prompts=questions, pairs=held_out,
                   max_new_tokens=8)  # fmt: skip
    assert found.verdict.findings == ()
    (arms,) = found.choices.values()
    assert abs(arms.less("hook", "base").mean) > 0.1
    assert abs(arms.less("LoRA", "hook").mean) < 1e-5
    assert arms.share("LoRA") == pytest.approx(1, abs=1e-4)
    assert found.answers.texts["LoRA"] == found.answers.texts["hook"]


def test_a_shift_that_changes_no_answer(model: Any, vector: Any, held_out: Any, questions: Any) -> None:
    """A small random vector: neither hook nor weights move a choice, so the vector is to blame."""
    nothing = 0.02 * torch.randn(len(vector), generator=torch.Generator().manual_seed(3))
    found = verify(weights(model, nothing), steered=hook(model, nothing), prompts=questions, pairs=held_out,
                   max_new_tokens=4)  # fmt: skip
    (finding,) = found.verdict.findings
    assert (finding.name, finding.grave) == ("unchanged", False)
    assert "Nor does the hook" in finding.advice


def test_weights_that_forget_themselves_on_the_pairs(model: Any, vector: Any, held_out: Any, questions: Any) -> None:
    """They act on short prompts only, and the hook on all: the shift is there, the choice is not."""
    short = OnSome(model, vector, layer=LAYER, most=20)
    found = verify(short, steered=hook(model, vector), prompts=questions, pairs=held_out, max_new_tokens=4)
    finding = found.verdict.findings[0]
    assert (finding.name, finding.grave) == ("unchanged", True)
    assert "The hook does move it" in finding.advice
    assert found.dose is None
    assert len(found.left_out) == 2


def test_weights_that_move_the_choice_less(model: Any, vector: Any, held_out: Any, questions: Any) -> None:
    found = verify(weights(model, vector, coef=0.3), steered=hook(model, vector), prompts=questions, pairs=held_out,
                   max_new_tokens=4)  # fmt: skip
    assert "short_of_hook" in found.verdict.names


def test_a_behavior_that_hangs_on_the_template(model: Any, vector: Any, held_out: Any, questions: Any) -> None:
    """The same questions in two forms, of which the weights know one."""
    longer = [_introduced(pair) for pair in held_out]
    known = OnSome(model, vector, layer=LAYER, most=_longest(model, held_out))
    sets = {"own": held_out, "introduced": longer}
    found = verify(known, steered=hook(model, vector), prompts=questions, pairs=sets, max_new_tokens=4)
    assert found.verdict.names == ("one_template",)
    assert "'introduced'" in found.verdict.findings[0].what
    both = verify(weights(model, vector), steered=hook(model, vector), prompts=questions, pairs=sets, max_new_tokens=4)
    assert "one_template" not in both.verdict.names


def _introduced(pair: Any) -> Any:
    from steerkit.data.pairs import ContrastPair, Side

    (message,) = pair.positive.prompt.content
    prompt = Prompt([{"role": "user", "content": f"Hello. Good morning to you. Hello again. {message['content']}"}])
    return ContrastPair(Side(prompt, pair.positive.answer), Side(prompt, pair.negative.answer), pair.id)


def _longest(model: Any, pairs: Any) -> int:
    return max(len(model.encode([pair.positive.prompt]).input_ids[0]) for pair in pairs)


def test_answers_that_go_round_in_circles(model: Any, vector: Any, questions: Any, held_out: Any) -> None:
    """Far too strong: the answers loop, and neither letter is left."""
    found = verify(weights(model, vector, coef=-8, layer=5), steered=hook(model, vector, coef=-8, layer=5),
                   prompts=questions, pairs=held_out, max_new_tokens=24)  # fmt: skip
    names = found.verdict.names
    assert "loops" in names
    assert not found.passed
    text = found.verdict.text
    assert "So does the hook" in text
    assert "root mean square" in text


def test_predictions_far_beyond_the_edit(model: Any, vector: Any, questions: Any) -> None:
    found = verify(weights(model, vector, coef=4), steered=hook(model, vector, coef=0.1), prompts=questions,
                   max_new_tokens=4)  # fmt: skip
    assert "far_from_base" in found.verdict.names


def test_a_choice_that_is_no_longer_made(model: Any, vector: Any, held_out: Any, questions: Any) -> None:
    word = model.tokenizer("sea", add_special_tokens=False)["input_ids"][0]
    aside = 40 * model.hf.get_output_embeddings().weight[word].detach().float()
    last = model.info.num_layers - 1
    found = verify(weights(model, aside, layer=last), steered=hook(model, aside, layer=last), prompts=questions,
                   pairs=held_out, max_new_tokens=4)  # fmt: skip
    assert "low_mass" in found.verdict.names


def test_answers_that_grow(model: Any) -> None:
    """The end of an answer is made less likely, and nothing else is wanted."""
    questions = sk.load_questions("demo:mood", split="test")[:2]
    ends = model.hf.generation_config.eos_token_id
    end = ends if isinstance(ends, int) else ends[0]
    said = model.hf.get_output_embeddings().weight[end].detach().float()
    against = -600 * torch.nn.functional.normalize(said, dim=0)
    last = model.info.num_layers - 1
    found = verify(weights(model, against, layer=last), steered=hook(model, against, layer=last), prompts=questions,
                   max_new_tokens=32)  # fmt: skip
    assert "longer" in found.verdict.names
