"""The shipped preferences differ in the stance alone, and say nothing that the embedded model cannot read."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import steerkit as sk
from steerkit.data.preferences import load_preferences
from steerkit.demo import grammar, preferences
from steerkit.demo.preferences import BAD, GOOD, SPLITS, preference_items, read_facts, read_items
from steerkit.demo.scoring import read_answer, score_answer


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return sk.load("demo").tokenizer


def test_the_shipped_files_are_what_the_module_writes(tmp_path: Path) -> None:
    preferences.write(tmp_path)
    for name in SPLITS:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (preferences.FOLDER / f"{name}.jsonl").read_bytes()


def test_chosen_corrects_and_rejected_agrees(split: str) -> None:
    facts = read_facts(split)
    for one in load_preferences("demo", split=split):
        asked = one.prompt.content[0]["content"]
        chosen, rejected = (score_answer("sycophancy", facts[asked], text) for text in (one.chosen, one.rejected))
        assert (chosen.parses, chosen.on_topic, chosen.positive) == (True, True, False)
        assert (rejected.parses, rejected.on_topic, rejected.positive) == (True, True, True)
        assert {facts[asked]["noun"], facts[asked]["wrong"]} <= set(re.findall("[a-z]+", asked))


def test_both_answers_have_one_mood_which_is_balanced_and_independent_of_the_length(split: str) -> None:
    """So in no part of the preferences can the mood tell the sides apart."""
    seen = Counter[tuple[bool, bool]]()
    for item in read_items(split):
        chosen, rejected = (item[side][0]["content"] for side in ("chosen", "rejected"))
        moods = [read[1].cheerful for answer in (chosen, rejected) if (read := read_answer(answer))]
        assert moods[0] == moods[1]
        seen[moods[0], len(chosen) > len(rejected)] += 1
    assert set(seen.values()) == {preferences.COUNTS[split] // 4}
    assert len(seen) == 4


def test_lengths_tell_nothing_in_characters_or_tokens(split: str, tokenizer: Any) -> None:
    loaded = load_preferences("demo", split=split)
    assert (loaded.lengths.mean_gap, loaded.lengths.chosen_longer) == (0.0, 0.5)
    tokens = loaded.token_lengths(tokenizer)
    assert abs(tokens.chosen_longer - 0.5) < 2 * tokens.standard_error
    assert abs(tokens.mean_gap) < 0.02 * sum(tokens.chosen) / len(tokens.chosen)


def test_topics_are_disjoint_and_the_parts_share_no_question() -> None:
    nouns = {name: {item["noun"] for item in read_items(name)} for name in SPLITS}
    assert nouns["test"] == {topic.noun for topic in grammar.TEST_TOPICS}
    assert not nouns["train"] & nouns["test"]
    train, test = load_preferences("demo"), load_preferences("demo", split="test")
    assert (len(train), len(test)) == (480, 240)
    assert [len({str(one.prompt.content) for one in each}) for each in (train, test)] == [480, 120]
    teach, distil, held_out = train.split()
    assert [len(part) for part in (teach, distil, held_out)] == [216, 216, 48]


SPOKEN = (
    *grammar.QUESTIONS["claim"], *(word for words in grammar.OPENERS.values() for word in words), *grammar.ASIDES,
    *(body for bodies in grammar.BODIES.values() for body in bodies), *grammar.ENDINGS,
    *(tail for tails in grammar.TAILS.values() for tail in tails), *(text for row in grammar.OPPOSITES for text in row),
)  # fmt: skip


def test_every_word_is_one_the_model_was_trained_on(split: str, tokenizer: Any) -> None:
    """No text is new to the tokenizer: only words of the grammar, none of them spelled in single letters."""
    known = set(re.findall("[A-Za-z]+", " ".join(SPOKEN)))
    loaded = load_preferences("demo", split=split)
    texts = [text for one in loaded for text in (one.prompt.content[0]["content"], one.chosen, one.rejected)]
    used = {word for text in texts for word in re.findall("[A-Za-z]+", text)}
    assert used <= known
    for text in {f" {text}" for text in texts}:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
    assert max(len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) for word in used) == 1


def test_the_instructions_are_one_word_apart_and_as_many_whole_words(tokenizer: Any) -> None:
    tokens = [[tokenizer.decode([i]) for i in tokenizer(f" {text}", add_special_tokens=False)["input_ids"]]
              for text in (GOOD, BAD)]  # fmt: skip
    assert tokens == [[*(f" {word}" for word in text[:-1].split()), "."] for text in (GOOD, BAD)]
    assert sum(a != b for a, b in zip(*tokens, strict=True)) == 1


def test_everything_fits_the_model() -> None:
    model = sk.load("demo")
    loaded = load_preferences("demo")
    assert loaded.fits(model.tokenizer, model.info.context).items == loaded.items


def test_a_part_is_drawn_the_same_again(split: str) -> None:
    assert preference_items(split) == read_items(split)


def test_the_pairs_make_a_vector_that_parts_held_out_topics() -> None:
    model = sk.load("demo")
    train, test = (load_preferences("demo", split=name).pairs()[:96] for name in SPLITS)
    vector = sk.extract(sk.record(model, train, read="mean", layers=[3], progress=False))
    held_out = sk.record(model, test, read="mean", layers=[3], progress=False)[3]
    gaps = (held_out.positive - held_out.negative) @ vector.at(3)
    assert (gaps > 0).float().mean() > 0.9
