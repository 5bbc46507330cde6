from __future__ import annotations

import json

import pytest
import torch
from questions_data import QUESTIONS, choice, letter_pairs, word_pairs
from tiny import tiny

from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.errors import DataError
from steerkit.evaluation.choices import score_choices
from steerkit.evaluation.questions import read_questions
from steerkit.steering import Steer


def test_letters_are_read_at_the_last_shared_token_over_the_whole_vocabulary() -> None:
    model, pairs = tiny(), letter_pairs()
    scores = score_choices(model, pairs, batch_size=2)
    assert scores.scoring == "letter"
    for i, pair in enumerate(pairs):
        text = model.tokenizer.apply_chat_template(
            pair.positive.prompt.content, tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([model.tokenizer(text + " (", add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            p = model.hf(ids).logits[0, -1].softmax(-1)
        a, b = (float(p[model.tokenizer.convert_tokens_to_ids(letter)]) for letter in "AB")
        matching = a if pair.positive_letter == "A" else b
        assert float(scores.items.p_matching[i]) == pytest.approx(matching / (a + b), abs=1e-5)
        assert float(scores.items.mass[i]) == pytest.approx(a + b, abs=1e-6)


def test_answers_of_several_tokens_are_scored_by_all_of_them() -> None:
    model, pairs = tiny("gpt2"), word_pairs()
    scores = score_choices(model, pairs, batch_size=2)
    assert scores.scoring == "sequence"
    for i, question in enumerate(read_questions(pairs, model.tokenizer, model.info)):
        logs = []
        for answer in (question.positive, question.negative):
            ids = torch.tensor([[*question.shared, *answer]])
            with torch.no_grad():
                log = model.hf(ids).logits[0].log_softmax(-1)
            start = len(question.shared)
            logs.append(sum(float(log[start + k - 1, token]) for k, token in enumerate(answer)))
        expected = torch.sigmoid(torch.tensor(logs[0] - logs[1], dtype=torch.float64))
        assert float(scores.items.p_matching[i]) == pytest.approx(float(expected), abs=1e-4)


def test_the_scoring_is_chosen_for_all_pairs_alike_and_can_be_chosen_by_hand() -> None:
    model, mixed = tiny(), Pairs([*letter_pairs(), *word_pairs()])
    assert score_choices(model, mixed).scoring == "sequence"
    first = score_choices(model, word_pairs(), scoring="letter")
    assert first.scoring == "letter"
    assert not torch.allclose(first.items.p_matching, score_choices(model, word_pairs()).items.p_matching)


@pytest.mark.parametrize("pairs", [letter_pairs(), word_pairs()])
def test_a_batch_is_what_each_pair_is_alone_also_steered(pairs: Pairs) -> None:
    model, shift = tiny("gpt2"), 3 * torch.randn(32)
    with Steer(model) as steer:
        steer.add(shift, layer=1)
        whole = score_choices(model, pairs)
        for i in range(len(pairs)):
            alone = score_choices(model, pairs[i : i + 1], scoring=whole.scoring)
            assert float(alone.items.p_matching[0]) == pytest.approx(float(whole.items.p_matching[i]), abs=1e-5)
    plain = score_choices(model, pairs)
    assert (plain.items.p_matching - whole.items.p_matching).abs().max() > 0.01


def test_steering_begins_at_the_last_token_of_the_template() -> None:
    model, pairs = tiny(), letter_pairs()
    question = read_questions(pairs, model.tokenizer, model.info)[0]
    assert [model.tokenizer.decode([token]) for token in question.tail] == ["]", " ", "("]
    with Steer(model) as steer:
        steer.add(torch.ones(32), layer=0)
        score_choices(model, pairs)
    assert steer.receipts[0].tokens == 3 * len(pairs)


def test_a_steer_can_be_scored_itself() -> None:
    model, shift = tiny(), 3 * torch.randn(32)
    steer = Steer(model).add(shift, layer=2, coef=-1)
    outside = score_choices(steer, letter_pairs())
    with steer:
        inside = score_choices(model, letter_pairs())
    assert torch.equal(outside.items.p_matching, inside.items.p_matching)
    difference = outside.minus(score_choices(model, letter_pairs()))
    assert difference.count == len(QUESTIONS)
    assert difference.mean != 0


def test_one_coefficient_a_row_keeps_its_row() -> None:
    model, shift = tiny(), 3 * torch.randn(32)
    coefs = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    with Steer(model) as steer:
        steer.add(shift, layer=1, coef=coefs)
        rows = score_choices(model, letter_pairs()).items.p_matching
    for i, coef in enumerate(coefs.tolist()):
        with Steer(model) as steer:
            steer.add(shift, layer=1, coef=coef)
            alone = score_choices(model, letter_pairs()[i : i + 1]).items.p_matching
        assert float(rows[i]) == pytest.approx(float(alone[0]), abs=1e-5)


def test_other_letters_are_scored_as_their_own_and_counted() -> None:
    model = tiny()
    pairs = Pairs([choice("Is it?", "(C)", "(A)", name="c"), choice("Is it?", "(A)", "(B)", name="a")])
    scores = score_choices(model, pairs)
    assert scores.beyond == 1
    assert scores.other_items.count == scores.a_items.count == 1
    assert float(scores.items.p_matching[0]) > 0
    caa = scores.under("caa")
    assert caa.items.p_matching[0] == 0
    assert caa.items.p_matching[1] == scores.items.p_matching[1]
    assert "counted as 0" in repr(caa)


def test_the_table_and_its_other_forms_hold_the_numbers() -> None:
    scores = score_choices(tiny(), letter_pairs())
    text = repr(scores)
    assert "matching A" in text
    assert "matching B" in text
    assert scores._repr_html_().count("<tr>") == 5
    frame = scores.to_frame()
    assert frame["id"].tolist() == list(scores.items.id)
    assert frame["p_matching"].mean() == pytest.approx(scores.p_matching)
    loaded = json.loads(scores.to_json())
    assert loaded["p_matching"] == scores.p_matching
    assert loaded["items"]["letter"] == ["B", "A", "B", "A", "B"]
    assert {trace.name for trace in scores.plot().data} == {"matching A", "matching B"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pairs": []}, "no pairs"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"template": "llama-9"}, "llama-9"),
        ({"pairs": [choice("y" * 600, "(A)", "(B)", name="long")]}, "'long' has"),
        ({"pairs": [choice("Is it?", "", "(B)", name="none")]}, "'none' lacks an answer"),
        ({"pairs": [choice("Is it?", "(A)", "(A)", name="same")]}, "'same'"),
        ({"pairs": [ContrastPair(Side(Prompt("a"), "A"), Side(Prompt("b"), "B"))]}, "'0' has two different prompts"),
    ],
)
def test_bad_input_is_refused(given: dict[str, object], message: str) -> None:
    given = {"pairs": letter_pairs(), **given}
    with pytest.raises(DataError, match=message):
        score_choices(tiny(), given.pop("pairs"), **given)
