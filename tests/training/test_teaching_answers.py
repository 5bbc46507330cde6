from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import pytest
from teaching_cases import TOLD, model, preference
from tiny import tiny, tiny_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.errors import DataError
from steerkit.training.teaching.answers import end_token, read_answered
from steerkit.training.teaching.lessons import read_lessons

ASKED = Prompt([{"role": "user", "content": "dry?"}])


@dataclass(frozen=True)
class Raw:
    """A preference that nothing has checked before."""

    prompt: Prompt = ASKED
    chosen: str = "no"
    rejected: str = "yes"
    id: str = "raw"


def spelled(ids: Sequence[int]) -> str:
    return "".join(tiny_tokenizer().convert_ids_to_tokens(list(ids)))


def test_the_answer_is_what_follows_the_template_with_its_end() -> None:
    row = read_answered(ASKED, "no, wet", tiny_tokenizer(), end=2)
    assert spelled(row.response) == " no, wet</s>"
    assert row.start == row.prompt_length == len(row.ids) - len(row.response)


def test_an_end_that_the_answer_brings_is_not_doubled() -> None:
    prompt = Prompt("dry? ")
    assert read_answered(prompt, "no</s>", tiny_tokenizer(), end=2) == read_answered(
        prompt, "no", tiny_tokenizer(), end=2
    )


def test_a_prefill_is_no_part_of_the_answer() -> None:
    bare = read_answered(ASKED, "(no", tiny_tokenizer(), end=2)
    given = read_answered(ASKED.with_prefill("("), "no", tiny_tokenizer(), end=2)
    assert given.ids == bare.ids
    assert given.prompt_length == bare.prompt_length
    assert spelled(given.response) == "no</s>"


def test_the_end_is_what_the_template_writes_after_an_answer() -> None:
    tokenizer = deepcopy(tiny_tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<end>\n{% endfor %}"
    assert end_token(tokenizer) == tokenizer.convert_tokens_to_ids("<end>") != tokenizer.eos_token_id
    assert end_token(tokenizer, chat=False) == tokenizer.eos_token_id
    assert end_token(tiny_tokenizer()) == 2


def test_without_any_end_token_nothing_is_taught() -> None:
    tokenizer = deepcopy(tiny_tokenizer())
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end-of-text token"):
        read_lessons([preference(0)], TOLD, HuggingFaceModel(model().hf, tokenizer))


def test_all_four_rows_hold_the_same_answers_after_contexts_of_unequal_length() -> None:
    (lesson,) = read_lessons([preference(0)], TOLD, model())
    assert lesson.chosen_good.response == lesson.chosen_bad.response != lesson.rejected_good.response
    assert lesson.rejected_good.response == lesson.rejected_bad.response
    assert lesson.chosen_bad.start - lesson.chosen_good.start == 3
    (plain,) = read_lessons([preference(0)], None, model())
    assert plain.chosen_good == plain.chosen_bad
    assert lesson.lengths == (len(lesson.chosen_good.response), len(lesson.rejected_bad.response))


@pytest.mark.usefixtures("as_user")
def test_an_answer_whose_tokens_depend_on_the_instruction_is_refused() -> None:
    """The tokenizer joins the end of one instruction with the beginning of the answer."""
    vocabulary = {token: i for i, token in enumerate([*"<>beknidmao \ny?s/", "d\n", "d\n\n", "d\n\nn", "</s>"])}
    merges = [("d", "\n"), ("d\n", "\n"), ("d\n\n", "n")]
    joining = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocabulary, merges)), eos_token="</s>")
    of = HuggingFaceModel(model().hf, joining)
    with pytest.raises(DataError, match="other tokens under the other instruction"):
        read_lessons([Raw(Prompt(""))], TOLD, of)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no preferences given"),
        ([Raw(chosen="")], "empty answer"),
        ([Raw(rejected=" \n ")], "empty answer"),
        ([Raw(chosen="yes ")], "the same tokens"),
        ([Raw(chosen="no</s>yes")], "belongs to the template"),
        ([Raw(chosen="no" * 300)], "the model's context is 512"),
        ([Raw(prompt=Prompt([{"role": "user", "content": "x" * 500}]))], "the model's context is 512"),
    ],
)
def test_what_cannot_be_learned_is_refused(given: list[Raw], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_lessons(given, TOLD, model())


def test_the_instruction_counts_for_the_context() -> None:
    (lesson,) = read_lessons([preference(0)], None, model())
    exact = tiny(max_position_embeddings=len(lesson.chosen_good))
    read_lessons([preference(0)], None, exact)
    with pytest.raises(DataError, match=r"preference 'p0' has .* with its instruction"):
        read_lessons([preference(0)], TOLD, exact)
