from __future__ import annotations

import pytest
from tiny import tiny_tokenizer

from steerkit.data.chat import Prompt, render
from steerkit.errors import DataError
from steerkit.training.teaching.instructions import BAD, GOOD, Instructions, find_place, instruct

NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m['role'] }}] {{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
DROPS_SYSTEM = "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}>"
ASKED = Prompt([{"role": "user", "content": "Is the sea dry?"}], prefill="(")


def with_template(template: str):
    from copy import deepcopy

    tokenizer = deepcopy(tiny_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def test_the_default_pair_is_equally_long_and_says_opposites() -> None:
    assert len(GOOD.split()) == len(BAD.split())
    assert GOOD.count(".") == BAD.count(".")
    assert GOOD.count(",") == BAD.count(",")
    assert Instructions() == Instructions(GOOD, BAD)


def test_an_instruction_is_a_system_message_where_the_template_writes_one() -> None:
    pair = Instructions("Be kind.", "Be mean.")
    (good,) = pair.before([ASKED], "good", tokenizer=tiny_tokenizer())
    assert good.content == ({"role": "system", "content": "Be kind."}, *ASKED.content)
    assert good.prefill == "("
    assert render(good, tiny_tokenizer()).text == "<s>[system] Be kind.[user] Is the sea dry? [bot] ("


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_it_stands_before_the_question_where_the_template_takes_none(template: str) -> None:
    tokenizer = with_template(template)
    assert find_place(tokenizer) == "user"
    (good,) = Instructions("Be kind.", "Be mean.").before([ASKED], "good", tokenizer=tokenizer)
    assert good.content == ({"role": "user", "content": "Be kind.\n\nIs the sea dry?"},)
    assert "Be kind.\n\nIs the sea dry?" in render(good, tokenizer).text


def test_it_joins_a_system_message_that_is_there() -> None:
    prompt = Prompt([{"role": "system", "content": "You are a fish."}, *ASKED.content])
    told = instruct(prompt, "Be kind.")
    assert [m["content"] for m in told.content] == ["Be kind.\n\nYou are a fish.", "Is the sea dry?"]


def test_both_have_the_same_separator_before_plain_text() -> None:
    for text in ("Human: hi\n\nAssistant:", "\n\nHuman: hi\n\nAssistant:"):
        assert instruct(Prompt(text), "Be kind. ").content == "Be kind.\n\nHuman: hi\n\nAssistant:"
    assert instruct(Prompt("<s>Once"), "Be kind.", bos="<s>").content == "<s>Be kind.\n\nOnce"


def test_tokens_are_counted_for_each() -> None:
    assert Instructions("kind", "be mean ").tokens(tiny_tokenizer()) == (4, 7)


def test_swapping_twice_is_the_pair() -> None:
    pair = Instructions("kind", "mean")
    assert pair.swapped == Instructions("mean", "kind")
    assert pair.swapped.swapped == pair


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(("good", "bad"), [("be kind", "be kind"), ("be kind", " be  kind\n"), ("", "x"), ("x", " "),
                                           ("x", None)])  # fmt: skip
def test_an_empty_or_equal_pair_is_refused(good: str, bad: str) -> None:
    with pytest.raises(DataError, match="instruction"):
        Instructions(good, bad)


@pytest.mark.usefixtures("as_user")
def test_an_unknown_tone_is_refused() -> None:
    with pytest.raises(DataError, match="'good' or 'bad'"):
        Instructions().before([ASKED], "nice", tokenizer=tiny_tokenizer())  # type: ignore[arg-type]
