from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from steerkit.data.chat import Prompt, render
from steerkit.data.encoding import encode, shared_prefix
from steerkit.errors import DataError

REAL = ("CraftGPT-5M-chat", "TinyStories-656K", "stories260K")
words = st.text(alphabet="abcdefgh ABC.,?()\n", min_size=1, max_size=30).filter(lambda text: text.strip())


def ask(text: str, prefill: str = "") -> Prompt:
    return Prompt([{"role": "user", "content": text}], prefill=prefill)


def spelled(ids: Sequence[int]) -> str:
    """What tokens of the tiny tokenizer say: one character each."""
    return "".join(tiny_tokenizer().convert_ids_to_tokens(list(ids)))


def word_tokenizer(*, appended: bool) -> PreTrainedTokenizerFast:
    """Words as tokens, `<s>` before the text and, if asked, `</s>` after it."""
    vocab = {"<s>": 0, "</s>": 1, "<unk>": 2}
    for word in ("Is", "it", "dry", "?", "Yes", "No", "(", "A", "B", ")", "Input", "Response", ":", "\n"):
        vocab[word] = len(vocab)
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    after = " </s>" if appended else ""
    special = [("<s>", 0), ("</s>", 1)] if appended else [("<s>", 0)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"<s> $A{after}", special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@given(text=words, answer=words, prefill=st.sampled_from(["", "("]), chat=st.booleans())
def test_the_prompts_tokens_spell_exactly_the_template(text: str, answer: str, prefill: str, chat: bool) -> None:
    tokenizer = tiny_tokenizer()
    prompt = ask(text, prefill) if chat else Prompt(text, prefill)
    encoded = encode(prompt, tokenizer, answer=answer)
    end = render(prompt, tokenizer, answer=answer).template_end
    head = encoded.ids[: encoded.prompt_length]
    assert spelled(head).removeprefix("<s>") == encoded.text[:end].removeprefix("<s>")
    assert head == encode(Prompt(prompt.content), tokenizer).ids


@given(text=words, answer=words)
def test_a_character_is_held_by_its_token(text: str, answer: str) -> None:
    tokenizer = tiny_tokenizer()
    encoded = encode(ask(text), tokenizer, answer=answer)
    for character in range(3, len(encoded.text)):
        assert spelled([encoded.ids[encoded.token_at(character)]]) == encoded.text[character]


@pytest.mark.parametrize("template", [None, "plain", "llama-2-caa"])
def test_the_last_template_token_predicts_the_answer(template: str | None) -> None:
    tokenizer = tiny_tokenizer()
    encoded = encode(ask("Hi", "("), tokenizer, answer="A", template=template)
    ends = {None: "[bot]", "plain": "Response:", "llama-2-caa": "[/INST]"}
    head, tail = encoded.ids[: encoded.prompt_length], encoded.ids[encoded.prompt_length :]
    assert spelled(head).endswith(ends[template])
    assert spelled(tail) == " (A"


def test_a_tokenizer_without_a_template_gets_plain_text() -> None:
    bare = tiny_tokenizer(chat=False)
    assert encode(ask("Hi"), bare) == encode(ask("Hi"), tiny_tokenizer(), template="plain")
    assert encode(ask("Hi"), bare).text == "Input: Hi\nResponse:"


@pytest.mark.parametrize("appended", [True, False])
def test_an_end_token_that_the_tokenizer_appends_is_taken_off(appended: bool) -> None:
    tokenizer = word_tokenizer(appended=appended)
    encoded = encode(Prompt("Is it dry?"), tokenizer, answer=" Yes")
    assert tokenizer.convert_ids_to_tokens(list(encoded.ids)) == ["<s>", "Is", "it", "dry", "?", "Yes"]
    assert encoded.prompt_length == 5
    assert encoded.starts[0] == -1
    assert encoded.text[encoded.starts[5] : encoded.ends[5]] == "Yes"


def test_an_end_token_that_the_text_itself_writes_stays() -> None:
    tokenizer = word_tokenizer(appended=False)
    assert encode(Prompt("Is it dry? </s>"), tokenizer).ids[-1] == 1


def test_a_beginning_that_the_text_itself_writes_is_not_doubled() -> None:
    tokenizer = word_tokenizer(appended=False)
    assert encode(Prompt("<s>Is it"), tokenizer).ids == encode(Prompt("Is it"), tokenizer).ids


def test_a_token_that_stands_after_the_text_does_not_belong_to_the_prompt() -> None:
    tokenizer = word_tokenizer(appended=True)
    tokenizer.eos_token = None
    encoded = encode(Prompt("Is it"), tokenizer, answer=" dry")
    assert encoded.ids[-1] == 1
    assert encoded.prompt_length == 3


def test_without_a_prompt_the_special_tokens_stand_for_it() -> None:
    tokenizer = word_tokenizer(appended=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> </s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    encoded = encode(Prompt(""), tokenizer, answer="Yes")
    assert (len(encoded.ids), encoded.prompt_length) == (3, 2)


def test_a_character_that_the_tokenizer_drops_has_no_token() -> None:
    vocab = {"<unk>": 0, "A": 1, "B": 2}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace("(", "")
    raw.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    encoded = encode(Prompt("A"), tokenizer, answer="(B")
    assert encoded.ids == (1, 2)
    assert encoded.token_at(2) == 1
    with pytest.raises(DataError, match=r"no token holds character 1 of 'A\(B': the tokenizer dropped it"):
        encoded.token_at(1)
    with pytest.raises(DataError, match="the text has 3 characters"):
        encoded.token_at(3)


def test_no_token_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="the prompt '' holds no token; give some text"):
        encode(Prompt(""), tiny_tokenizer())


class Slow:
    """A slow tokenizer over the tiny one: the same tokens, no offsets."""

    is_fast = False
    eos_token_id, eos_token, bos_token, chat_template = 2, "</s>", "<s>", None

    def __call__(self, text: str, *, add_special_tokens: bool, return_offsets_mapping: bool = False) -> dict[str, Any]:
        assert not return_offsets_mapping
        return {"input_ids": tiny_tokenizer()(text, add_special_tokens=add_special_tokens)["input_ids"]}


@given(text=words, answer=words)
def test_a_slow_tokenizer_finds_the_same_end_of_the_template(text: str, answer: str) -> None:
    slow, fast = encode(ask(text), Slow(), answer=answer), encode(ask(text), tiny_tokenizer(chat=False), answer=answer)
    assert (slow.ids, slow.prompt_length) == (fast.ids, fast.prompt_length)
    with pytest.raises(DataError, match="a slow tokenizer gives no offsets"):
        slow.token_at(0)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("template", [None, "plain", "llama-2-caa"])
@pytest.mark.parametrize("prefill", ["", "("])
def test_real_tokenizers_end_the_template_where_the_answer_begins(
    data_root: Path, name: str, template: str | None, prefill: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_root / "models" / name)
    prompt = ask("Would you like to play?\n\nChoices:\n (A) Yes\n (B) No", prefill)
    answer = "A)" if prefill else "(A)"
    encoded = encode(prompt, tokenizer, answer=answer, template=template)
    end = render(prompt, tokenizer, answer=answer, template=template).template_end
    assert encoded.text[end:] == " (A)"
    last = encoded.prompt_length - 1
    assert encoded.starts[last] < end
    assert all(start >= end for start in encoded.starts[last + 1 :])
    assert encoded.text[encoded.starts[last] : end] in ("]", "T]", " [/inst]", ":")
    held = encoded.token_at(len(encoded.text) - 2)
    assert encoded.text[encoded.starts[held] : encoded.ends[held]] in ("A", "(A")


def test_a_token_that_reaches_over_the_templates_end_belongs_to_it(data_root: Path) -> None:
    """TinyStories-656K writes the colon and the space after it as one token."""
    tokenizer = AutoTokenizer.from_pretrained(data_root / "models" / "TinyStories-656K")
    encoded = encode(ask("Hi"), tokenizer, answer="A")
    assert tokenizer.convert_ids_to_tokens(list(encoded.ids))[-2:] == [":▁", "A"]
    assert encoded.prompt_length == len(encoded.ids) - 1


def test_shared_prefix_counts_to_the_first_difference() -> None:
    assert shared_prefix([], [1]) == 0
    assert shared_prefix([1, 2], [1, 2, 3]) == 2
