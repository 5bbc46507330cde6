from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from steerkit.data.chat import Prompt
from steerkit.data.letters import encode_pair
from steerkit.data.loading import load_pairs
from steerkit.data.pairs import ContrastPair, Side
from steerkit.errors import DataError

QUESTION = "Is the sea dry? (A) Yes (B) No (C) Maybe"


def pair(positive: str, negative: str, *, prefill: str = "", other: str = QUESTION) -> ContrastPair:
    ask, ask_other = (Prompt([{"role": "user", "content": text}], prefill) for text in (QUESTION, other))
    return ContrastPair(Side(ask, positive), Side(ask_other, negative), id="7")


def joined_tokenizer(*pieces: str) -> PreTrainedTokenizerFast:
    """One token a character, but some pieces are one token each."""
    vocab = {"<unk>": 0}
    for piece in [*pieces, *map(chr, range(10, 127))]:
        vocab[piece] = len(vocab)
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    longest = "|".join(piece.replace("(", r"\(").replace(")", r"\)") for piece in pieces)
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{longest}|[\s\S]"), behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


@pytest.mark.parametrize("template", [None, "plain", "llama-2-caa"])
@pytest.mark.parametrize(
    ("positive", "negative", "prefill"), [("(A)", "(B)", ""), ("A)", "C)", "("), ("B", "A", ""), (" (A)", " (B)", "")]
)
def test_the_letters_token_holds_the_letter(positive: str, negative: str, prefill: str, template: str | None) -> None:
    tokenizer = tiny_tokenizer()
    both = encode_pair(pair(positive, negative, prefill=prefill), tokenizer, template=template)
    assert both.shared == both.letter_positive == both.letter_negative
    for encoded, answer in ((both.positive, positive), (both.negative, negative)):
        assert tokenizer.convert_ids_to_tokens(encoded.ids[both.shared]) == answer.strip(" ()")


def test_a_letter_that_is_joined_with_its_bracket_is_found() -> None:
    tokenizer = joined_tokenizer("(A", "(B", "A)")
    both = encode_pair(pair("(A)", "(B)"), tokenizer)
    assert [tokenizer.convert_ids_to_tokens(side.ids[both.shared]) for side in (both.positive, both.negative)] == [
        "(A",
        "(B",
    ]
    assert both.letter_positive == both.letter_negative == both.shared


def test_sides_that_are_cut_differently_each_have_their_own_letter() -> None:
    tokenizer = joined_tokenizer(" (A", "B)")
    both = encode_pair(pair("(A)", "(B)"), tokenizer)
    assert both.letter_positive == both.shared
    assert both.letter_negative == both.shared + 2
    assert tokenizer.convert_ids_to_tokens(both.positive.ids[both.letter_positive or 0]) == " (A"
    assert tokenizer.convert_ids_to_tokens(both.negative.ids[both.letter_negative or 0]) == "B)"


def test_answers_that_are_not_letters_have_no_letter_but_a_first_difference() -> None:
    both = encode_pair(pair("Yes", "Yesterday"), tiny_tokenizer())
    assert (both.letter_positive, both.letter_negative) == (None, None)
    assert both.shared == len(both.positive.ids) == len(both.negative.ids) - 6


def test_letters_are_found_where_the_prompts_differ_too() -> None:
    both = encode_pair(pair("(A)", "(B)", other=QUESTION + " Think."), tiny_tokenizer())
    assert both.letter_positive == len(both.positive.ids) - 2
    assert both.letter_negative == len(both.negative.ids) - 2
    assert both.shared < both.letter_positive


def test_pairs_may_differ_in_the_prompt_alone() -> None:
    sides = [
        Side(Prompt([{"role": "system", "content": s}, {"role": "user", "content": "Hi"}])) for s in ("Glad", "Sad")
    ]
    both = encode_pair(ContrastPair(sides[0], sides[1]), tiny_tokenizer())
    assert both.shared == len("<s>[system] ") - 2
    assert both.positive.prompt_length == len(both.positive.ids)


def test_sides_that_become_the_same_tokens_are_refused() -> None:
    with pytest.raises(DataError, match=r"pair '7': both sides become the same 56 tokens .* drops what they differ in"):
        encode_pair(pair("é", "ü"), tiny_tokenizer())


def test_a_template_that_changes_the_answer_is_refused() -> None:
    class Lower:
        is_fast, chat_template, bos_token, eos_token_id = True, "yes", None, None

        def apply_chat_template(self, turns: list[dict[str, str]], **options: bool) -> str:
            return " ".join(turn["content"].lower() for turn in turns)

        def __call__(self, text: str, **options: bool) -> Any:
            return tiny_tokenizer()(text, **options)

    with pytest.raises(DataError, match=r"chat template changes the answer '\(A\)'"):
        encode_pair(pair("(A)", "(B)"), Lower())


def test_a_slow_tokenizer_takes_the_first_difference() -> None:
    class Slow:
        is_fast, chat_template, bos_token, eos_token_id = False, None, "<s>", 2
        eos_token = "</s>"

        def __call__(self, text: str, *, add_special_tokens: bool, return_offsets_mapping: bool = False) -> Any:
            return {"input_ids": tiny_tokenizer()(text, add_special_tokens=add_special_tokens)["input_ids"]}

    slow, fast = (encode_pair(pair("(A)", "(B)"), t) for t in (Slow(), tiny_tokenizer(chat=False)))
    assert (slow.letter_positive, slow.letter_negative, slow.shared) == (fast.letter_positive,) * 3
    assert encode_pair(pair("(A)", "(B)", other="No? (A) (B)"), Slow()).letter_positive is None


@pytest.mark.parametrize("name", ["CraftGPT-5M-chat", "TinyStories-656K", "stories260K"])
@pytest.mark.parametrize("template", [None, "llama-2-caa"])
def test_the_letter_of_every_real_item_is_the_first_difference(
    data_root: Path, name: str, template: str | None
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_root / "models" / name)
    folder = data_root / "data" / "caa" / "datasets" / "test" / "survival-instinct"
    for item in load_pairs(folder / "test_dataset_ab.json"):
        both = encode_pair(item, tokenizer, template=template)
        assert both.letter_positive is not None
        assert both.letter_negative is not None
        assert min(both.letter_positive, both.letter_negative) == both.shared
        for side, at, letter in (
            (both.positive, both.letter_positive, item.positive_letter),
            (both.negative, both.letter_negative, item.negative_letter),
        ):
            assert tokenizer.convert_ids_to_tokens(side.ids[at]).strip("_▁(").upper() == letter
        if name != "CraftGPT-5M-chat":  # it joins the bracket with an A, not with a C
            assert both.letter_positive == both.letter_negative
