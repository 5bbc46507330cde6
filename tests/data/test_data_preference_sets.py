from __future__ import annotations

from copy import deepcopy
from math import sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny, tiny_tokenizer
from tokenizers.normalizers import Replace

from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode
from steerkit.data.lengths import Lengths
from steerkit.data.preferences import Preference, Preferences, load_preferences
from steerkit.errors import DataError
from steerkit.extraction import extract
from steerkit.recording import record

TAG = " [bot]"


def chat(question: str, *before: tuple[str, str]) -> Prompt:
    return Prompt([*({"role": role, "content": text} for role, text in before), {"role": "user", "content": question}])


def several(count: int, prompts: int) -> Preferences:
    return Preferences([Preference(Prompt(f"p{i % prompts}"), f" a{i}", f" b{i}", id=str(i)) for i in range(count)])


@given(st.integers(3, 40), st.integers(3, 20), st.integers(0, 5))
def test_parts_cover_all_rows_and_share_no_prompt(count: int, prompts: int, seed: int) -> None:
    whole = several(max(count, prompts), prompts)
    parts = whole.split(seed=seed)
    assert sorted(int(one.id) for part in parts for one in part) == list(range(len(whole)))
    asked = [{one.prompt.content for one in part} for part in parts]
    assert not asked[0] & asked[1] | asked[0] & asked[2] | asked[1] & asked[2]
    assert all([int(one.id) for one in part] == sorted(int(one.id) for one in part) for part in parts)
    assert [part.fingerprint for part in whole.split(seed=seed)] == [part.fingerprint for part in parts]


def test_parts_have_the_shares_asked_for_and_another_seed_draws_others() -> None:
    whole = several(200, 200)
    assert [len(part) for part in whole.split()] == [90, 90, 20]
    assert [len(part) for part in whole.split(teach=0.25, distil=0.25, test=0.5)] == [50, 50, 100]
    assert whole.split(seed=1)[0].fingerprint != whole.split()[0].fingerprint
    assert [part.name for part in whole.split()] == [f"preferences/{name}" for name in ("teach", "distil", "test")]
    drawn = whole.parts({"train": 0.8, "held_out": 0.2}, seed=3)
    assert {name: len(part) for name, part in drawn.items()} == {"train": 160, "held_out": 40}


def test_a_prompt_is_the_same_whatever_its_form_and_spaces() -> None:
    forms = [Prompt("Is it?"), Prompt(" Is  it?\n"), chat("Is it?")]
    rows = [Preference(form, f" a{i}", f" b{i}") for i, form in enumerate(forms)]
    whole = Preferences([*rows, *several(2, 2)])
    assert sorted(len(part) for part in whole.split(seed=4)) == [1, 1, 3]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"teach": 0.5}, r"the shares teach=0\.5, distil=0\.45, test=0\.1 must each be above 0 and come to 1"),
        ({"teach": 0.9, "distil": 0.0}, "must each be above 0"),
        ({"teach": float("nan")}, "must each be above 0"),
        ({}, r"2 different prompts cannot be split into 3 parts \(teach, distil, test\)"),
    ],
)
def test_a_split_that_cannot_be_is_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        several(9, 2).split(**shares)


def test_the_statistics_of_lengths_are_those_of_the_definition() -> None:
    lengths = Lengths(prompt=(1, 2, 3, 4), chosen=(5, 6, 7, 8), rejected=(4, 6, 9, 2))
    assert lengths.gaps == (1, 0, -2, 6)
    assert lengths.chosen_longer == (2 + 0.5) / 4
    assert lengths.standard_error == sqrt(3) / 8
    assert lengths.mean_gap == 5 / 4
    assert lengths.matched(0.25) == (True, True, True, False)
    assert [row[:5] for row in lengths.table().rows][1] == ["chosen", 6.5, 5, 5, 7]


@pytest.mark.parametrize(
    ("longer", "count", "biased"), [(20, 20, True), (9, 10, False), (70, 100, True),
                                                       (59, 100, False), (300, 500, False), (310, 500, True)],
)  # fmt: skip
def test_a_bias_is_large_and_not_chance(longer: int, count: int, biased: bool) -> None:
    chosen = [2] * longer + [0] * (count - longer)
    assert Lengths([1] * count, chosen, [1] * count).is_biased is biased


def test_length_matched_keeps_answers_of_about_equal_length() -> None:
    rows = [Preference(Prompt("p"), "a" * n, "b" * 10) for n in (10, 9, 8, 12)]
    kept = Preferences(rows).length_matched(0.1)
    assert [len(one.chosen) for one in kept] == [10, 9]
    assert kept.skipped == {"answers of unequal length": 2}
    assert len(Preferences(rows).length_matched(0.2, tokenizer=tiny_tokenizer())) == 4
    with pytest.raises(DataError, match=r"tolerance=2 is not a share"):
        Preferences(rows).length_matched(2)


def test_token_lengths_count_the_template_with_the_prompt() -> None:
    one = Preference(chat("Hi"), "No", "Yes, well")
    lengths = Preferences([one]).token_lengths(tiny_tokenizer())
    assert (lengths.prompt, lengths.chosen, lengths.rejected) == ((len("[user] Hi [bot]") + 1,), (3,), (10,))
    assert lengths.unit == "tokens"


LONG = Preference(
    chat("Is the sea so dry?", ("system", "Be true."), ("user", "Hello"), ("assistant", "Hi")), "No.", "Yes."
)
PLAIN = Preference(Prompt("Human: Hello\n\nAssistant: Hi\n\nHuman: Is the sea dry?\n\nAssistant:"), " No.", " Yes.")


def test_what_is_too_long_is_refused_skipped_or_cut() -> None:
    tokenizer = tiny_tokenizer()
    short = Preference(chat("Hi"), "No.", "Yes.", id="short")
    whole = Preferences([LONG, short], name="mine")
    assert whole.fits(tokenizer, 100).items == whole.items
    with pytest.raises(DataError, match=r"mine: preference '' has 76 tokens, there is room for 40; .*on_long=\"cut\""):
        whole.fits(tokenizer, 50, reserve=10)
    assert len(whole.fits(tokenizer, 76 + 10, reserve=10)) == 2
    assert len(whole.fits(tokenizer, 76 + 10, reserve=11, on_long="skip")) == 1
    skipped = whole.fits(tokenizer, 40, on_long="skip")
    assert (skipped.items, skipped.skipped, skipped.cut) == ((short,), {"longer than the context": 1}, 0)
    cut = whole.fits(tokenizer, 57, on_long="cut")
    assert (len(cut), cut.skipped, cut.cut) == (2, {}, 1)
    assert cut[0].prompt == chat("Is the sea so dry?", ("system", "Be true."))
    assert "1 prompts cut from the left" in repr(cut)
    assert whole.fits(tokenizer, 30, on_long="cut").skipped == {"longer than the context": 1}
    with pytest.raises(DataError, match=r"on_long='drop' is not known"):
        whole.fits(tokenizer, 30, on_long="drop")


@pytest.mark.parametrize("one", [LONG, PLAIN], ids=["chat", "text"])
@pytest.mark.parametrize("room", range(20, 75))
def test_cutting_loses_neither_the_assistant_tag_nor_the_end_of_the_question(one: Preference, room: int) -> None:
    tokenizer = tiny_tokenizer()
    least = len("[system] Be true.[user] dry? [bot] Yes.") + 1 if one.prompt.is_chat else len(
        "\n\nHuman: dry?\n\nAssistant: Yes.")  # fmt: skip
    if room < least:
        with pytest.raises(DataError, match=r"no preferences left; skipped 1 \(longer than the context\)"):
            Preferences([one]).fits(tokenizer, room, on_long="cut")
        return
    (cut,) = Preferences([one]).fits(tokenizer, room, on_long="cut")
    assert (cut.chosen, cut.rejected) == (one.chosen, one.rejected)
    before, after = (encode(each.prompt, tokenizer, answer=each.rejected) for each in (one, cut))
    assert len(after.ids) <= room
    tail = len(" dry? [bot]" if one.prompt.is_chat else " dry?\n\nAssistant:")
    assert after.ids[after.prompt_length - tail :] == before.ids[before.prompt_length - tail :]


def test_cutting_loses_as_little_as_it_must() -> None:
    tokenizer = tiny_tokenizer()
    asked = Preference(Prompt("Human: one two three four\n\nAssistant:"), " a", " b")
    whole = len(encode(asked.prompt, tokenizer, answer=" a").ids)
    kept = [
        Preferences([asked]).fits(tokenizer, room, on_long="cut")[0].prompt.content for room in (whole, whole - 1, 30)
    ]
    assert kept == [f"Human: {words}\n\nAssistant:" for words in ("one two three four", "two three four", "four")]
    unspaced = Preference(Prompt("x" * 50), " a", " b")
    assert Preferences([unspaced]).fits(tokenizer, 22, on_long="cut")[0].prompt.content == "x" * 20


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [("a</s>b", "c", "the chosen answer holds '</s>', a control token"), ("a</s>", "c", "chosen answer holds '</s>'"),
     ("a", "<s>", "the rejected answer holds '<s>'")],
)  # fmt: skip
def test_control_tokens_inside_answers_are_refused(chosen: str, rejected: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preferences([Preference(chat("Hi"), chosen, rejected)]).fits(tiny_tokenizer(), 100)


def test_answers_that_the_tokenizer_drops_are_refused() -> None:
    tokenizer = deepcopy(tiny_tokenizer())
    tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    with pytest.raises(DataError, match=r"the rejected answer .* has no token of its own; it is empty or melts"):
        Preferences([Preference(Prompt("p"), " a", "\u200b")]).fits(tokenizer, 100)


def test_a_text_may_end_with_the_end_token() -> None:
    ended = Preferences([Preference(Prompt("p"), " a</s>", " b</s>")])
    assert ended.fits(tiny_tokenizer(), 100).items == ended.items


def test_answers_of_the_same_tokens_are_refused() -> None:
    unknown = Preferences([Preference(Prompt("p"), " é", " ü")])
    with pytest.raises(DataError, match="both answers are the same tokens"):
        unknown.fits(tiny_tokenizer(), 100)


def test_slices_filters_and_tables() -> None:
    whole = load_preferences("demo", split="test")
    assert isinstance(whole[:3], Preferences)
    assert [one.id for one in whole[:3]] == ["0", "1", "2"]
    assert len(whole.filter(lambda one: "sun" in one.chosen or one.id == "0")) >= 1
    text = repr(whole)
    assert text.startswith("demo:preferences/test: 240 preferences on 120 prompts from demo:preferences, split test\n")
    assert "no length bias\nexample: " in text
    assert "<table" in whole._repr_html_()


def test_pairs_are_recorded_and_extracted(tmp_path: Any) -> None:
    model = tiny("llama")
    rows = [Preference(chat(f"Is it {word}?"), "No, not so.", "Yes, it is.", id=word) for word in ("hot", "wet", "dry")]
    preferences = Preferences(rows, name="mine", template=None)
    pairs = preferences.pairs()
    assert (pairs.name, pairs.format, pairs.fingerprint) == ("mine", "preferences", preferences.fingerprint)
    store = record(model, pairs, path=tmp_path / "acts", progress=False)
    assert store.ids == ("hot", "wet", "dry") or list(store.ids) == ["hot", "wet", "dry"]
    vector = extract(store)
    assert torch.isfinite(vector.values).all()
    assert (vector.norms > 0).all()
