from __future__ import annotations

import pytest
from tiny import CHAT_TEMPLATE, tiny_tokenizer

from steerkit.data.chat import Prompt, as_prompts, render
from steerkit.errors import DataError

SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi? "}]


class Templated:
    """A tokenizer that is only its chat template; rendering goes through transformers."""

    bos_token = None

    def __init__(self, chat_template: str) -> None:
        self.real = tiny_tokenizer()
        self.chat_template = chat_template

    def apply_chat_template(self, turns: list[dict[str, str]], **options: bool) -> str:
        return str(self.real.apply_chat_template(turns, chat_template=self.chat_template, **options))


def test_a_string_is_used_as_it_is() -> None:
    rendered = render(Prompt("Once upon", prefill=" a"), tiny_tokenizer(), answer=" time")
    assert (rendered.text, rendered.template_end) == ("Once upon a time", 9)
    assert rendered.special_tokens
    assert not render(Prompt("<s>Once"), tiny_tokenizer()).special_tokens


def test_messages_go_through_the_tokenizers_template() -> None:
    rendered = render(Prompt(SYSTEM, prefill="("), tiny_tokenizer(), answer="A)")
    assert rendered.text == "<s>[system] Be brief.[user]  Hi?  [bot] (A)"
    assert rendered.text[: rendered.template_end].endswith(" [bot]")
    assert not rendered.special_tokens


def test_llama_2_writes_the_system_prompt_inside_the_first_turn() -> None:
    rendered = render(Prompt(SYSTEM), tiny_tokenizer(), answer=" (A) ", template="llama-2-caa")
    assert rendered.text == "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi? [/INST] (A)"
    assert rendered.text[: rendered.template_end].endswith("[/INST]")


def test_plain_text_is_caas_form_for_base_models() -> None:
    rendered = render(Prompt([{"role": "user", "content": "Hi?"}]), tiny_tokenizer(), answer="(A)", template="plain")
    assert rendered.text == "Input: Hi?\nResponse: (A)"


def test_several_turns_are_written_in_order() -> None:
    said = [("user", "One"), ("assistant", "1"), ("user", "Two")]
    prompt = Prompt([{"role": role, "content": content} for role, content in said])
    llama = render(prompt, tiny_tokenizer(), template="llama-2-caa").text
    assert llama == "[INST] One [/INST] 1 [INST] Two [/INST]"
    plain = render(prompt, tiny_tokenizer(), template="plain").text
    assert plain == "Input: One\nResponse: 1\nInput: Two\nResponse:"


@pytest.mark.parametrize("content", ["text", SYSTEM])
def test_an_unknown_template_is_refused_for_text_and_messages(content: object) -> None:
    with pytest.raises(DataError, match=r"template='alpaca' is not known; choose one of plain, llama-2-caa"):
        render(Prompt(content), tiny_tokenizer(), template="alpaca")  # type: ignore[arg-type]


def test_a_template_that_drops_the_system_message_is_refused() -> None:
    silent = Templated(
        "{% for m in messages %}{% if m['role'] == 'user' %}U {{ m['content'] }} {% endif %}{% endfor %}"
    )
    with pytest.raises(DataError, match=r"leaves the system message 'Be brief.' out; put it into the user's message"):
        render(Prompt(SYSTEM), silent)


def test_a_template_that_refuses_a_role_is_named_as_the_cause() -> None:
    strict = Templated("{{ raise_exception('System role not supported') }}")
    with pytest.raises(DataError, match="cannot write these messages: System role not supported"):
        render(Prompt(SYSTEM), strict)


def test_a_block_of_thoughts_before_the_answer_belongs_to_the_template() -> None:
    thinking = Templated(
        CHAT_TEMPLATE.replace("' [bot] ' + m['content']", "' [bot]\n<think></think>\n' + m['content']")
    )
    rendered = render(Prompt([{"role": "user", "content": "Hi"}]), thinking, answer="(A)")
    assert rendered.text[: rendered.template_end].endswith("</think>\n")
    assert rendered.text[rendered.template_end :] == "(A)"


def test_a_template_for_generation_that_is_not_the_one_for_answers_ends_before_the_answer() -> None:
    opening = Templated(CHAT_TEMPLATE.replace("{{ ' [bot]' }}", "{{ ' [bot]<think>' }}"))
    rendered = render(Prompt([{"role": "user", "content": "(A) or (B)?"}]), opening, answer="(A)")
    assert rendered.text[: rendered.template_end].endswith("(B)? [bot]")
    assert rendered.text[rendered.template_end :] == " (A)"


def test_an_answer_of_spaces_adds_nothing_after_messages() -> None:
    prompt = Prompt([{"role": "user", "content": "Hi"}])
    for template in (None, "plain", "llama-2-caa"):
        assert render(prompt, tiny_tokenizer(), answer=" ", template=template) == render(
            prompt, tiny_tokenizer(), template=template
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [([], "a prompt without messages"),
     ([{"role": "user"}], "message 0 is .* needs the keys 'role' and 'content'"),
     ([{"role": "user", "content": 3}], "message 0 has a content of type int, not a string")],
)  # fmt: skip
def test_messages_are_checked(content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Prompt(content)  # type: ignore[arg-type]


def test_one_prompt_or_several() -> None:
    assert len(as_prompts("a")) == 1
    assert len(as_prompts(SYSTEM)) == 1
    assert len(as_prompts([SYSTEM, "a", Prompt("b")])) == 3
    with pytest.raises(DataError, match="no prompts given"):
        as_prompts([])
