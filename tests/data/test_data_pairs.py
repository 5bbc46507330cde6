from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Pairs, Side, letter_index
from steerkit.errors import DataError


def choice(number: int, positive: str = "(A)", negative: str = "(B)") -> ContrastPair:
    prompt = Prompt([{"role": "user", "content": f"Question {number}?\n\nChoices:\n (A) yes\n (B) no"}])
    return ContrastPair(Side(prompt, positive), Side(prompt, negative), id=str(number))


def many(count: int) -> Pairs:
    return Pairs([choice(i) for i in range(count)], name="many")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("(A)", "A"), (" (B)", "B"), ("C", "C"), ("A.", "A"), ("B) ", "B"), ("D).", "D"),
     ("Anna", None), ("a", None), ("", None), ("(AB)", None), ("Yes", None), ("(A) yes", None)],
)  # fmt: skip
def test_a_letter_is_found_only_in_an_answer_that_is_a_letter(answer: str, letter: str | None) -> None:
    assert Side(Prompt("q"), answer).letter == letter
    index = letter_index(answer)
    assert (None if index is None else answer[index]) == letter


def test_a_pair_is_a_choice_only_with_two_different_letters() -> None:
    assert choice(0).is_choice
    assert not choice(0, "(A)", "A").is_choice
    assert not choice(0, "Yes", "No").is_choice
    assert not choice(0, "(A)", "No").is_choice


def test_letters_and_those_beyond_a_and_b_are_counted() -> None:
    pairs = Pairs([choice(0), choice(1, "(B)", "(A)"), choice(2, "(C)", "(A)"), choice(3, "(A)", "(D)")])
    assert pairs.letters == {"A": 2, "B": 1, "C": 1}
    assert pairs.beyond_ab == 2
    kept = pairs.with_letters("AB")
    assert [pair.id for pair in kept] == ["0", "1"]
    assert kept.skipped == {"other letters": 2}
    assert "skipped 2 (other letters)" in repr(kept)
    assert len(pairs.with_letters("ABCD")) == 4
    with pytest.raises(DataError, match=r"no pairs left; skipped 4 \(other letters\)"):
        pairs.with_letters("XY")


def test_a_slice_is_pairs_again_and_an_index_is_a_pair() -> None:
    pairs = many(5)
    assert isinstance(pairs[1:3], Pairs)
    assert [pair.id for pair in pairs[1:3]] == ["1", "2"]
    assert pairs[1:3].name == "many"
    assert pairs[-1].id == "4"
    assert pairs[2] in pairs
    with pytest.raises(IndexError):
        pairs[5]


def test_the_fingerprint_is_of_the_content_alone() -> None:
    pairs = many(3)
    renamed = Pairs([ContrastPair(p.positive, p.negative, id="x" + p.id) for p in pairs], name="other", source="there")
    assert renamed.fingerprint == pairs.fingerprint
    assert len(pairs.fingerprint) == 16
    assert pairs[::-1].fingerprint != pairs.fingerprint
    swapped = Pairs([ContrastPair(p.negative, p.positive) for p in pairs])
    assert swapped.fingerprint != pairs.fingerprint
    prefilled = Pairs([ContrastPair(Side(p.positive.prompt.with_prefill("("), "A)"), p.negative) for p in pairs])
    assert prefilled.fingerprint != pairs.fingerprint
    # Pinned: a fingerprint in a stored vector must mean the same in later versions.
    assert Pairs([ContrastPair(Side(Prompt("a"), "b"), Side(Prompt("a"), "c"))]).fingerprint == "b5568f2b8aef66d4"


@given(count=st.integers(2, 40), test=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_a_split_has_every_pair_once_and_is_drawn_by_its_seed(count: int, test: float, seed: int) -> None:
    pairs = many(count)
    train, held_out = pairs.split(test=test, seed=seed)
    ids = [int(pair.id) for part in (train, held_out) for pair in part]
    assert sorted(ids) == list(range(count))
    assert len(held_out) == min(max(round(test * count), 1), count - 1)
    assert [int(p.id) for p in train] == sorted(int(p.id) for p in train)
    again = pairs.split(test=test, seed=seed)
    assert again[0].fingerprint == train.fingerprint
    assert again[1].fingerprint == held_out.fingerprint


def test_a_split_depends_on_its_seed() -> None:
    drawn = {many(40).split(seed=seed)[1].fingerprint for seed in range(5)}
    assert len(drawn) == 5


def test_the_same_pair_never_falls_on_both_sides_of_a_split() -> None:
    pairs = Pairs([choice(i % 4) for i in range(16)])
    for seed in range(8):
        train, held_out = pairs.split(test=0.5, seed=seed)
        assert not {p.id for p in train} & {p.id for p in held_out}


def test_a_filter_keeps_what_is_true() -> None:
    kept = many(4).filter(lambda pair: int(pair.id) % 2 == 0)
    assert [pair.id for pair in kept] == ["0", "2"]
    with pytest.raises(DataError, match="many: no pairs left"):
        many(4).filter(lambda pair: False)


@pytest.mark.parametrize("test", [0.0, 1.0, -1.0, 3.0])
def test_a_share_out_of_range_is_refused(test: float) -> None:
    with pytest.raises(DataError, match="is not a share between 0 and 1"):
        many(4).split(test=test)


def test_a_split_needs_two_different_pairs() -> None:
    with pytest.raises(DataError, match="has 1 different pair; a split needs at least 2"):
        Pairs([choice(0), choice(0)]).split()


def test_pairs_that_are_too_long_are_refused_or_counted() -> None:
    tokenizer = tiny_tokenizer()
    long = ContrastPair(Side(Prompt("x" * 90), "yes"), Side(Prompt("x" * 90), "no"), id="7")
    short = ContrastPair(Side(Prompt("x" * 50), "yes"), Side(Prompt("x" * 50), "no"), id="8")
    pairs = Pairs([short, long], name="texts")
    assert pairs.fits(tokenizer, 93) == pairs
    with pytest.raises(DataError, match=r"pair '7' has 93 tokens, the model's context is 92; shorten it, or leave"):
        pairs.fits(tokenizer, 92)
    kept = pairs.fits(tokenizer, 92, on_long="skip")
    assert [pair.id for pair in kept] == ["8"]
    assert kept.skipped == {"longer than the context": 1}
    with pytest.raises(DataError, match=r"no pairs left; skipped 2 \(longer than the context\)"):
        pairs.fits(tokenizer, 4, on_long="skip")
    with pytest.raises(DataError, match="on_long='drop' is not known; choose one of 'raise', 'skip'"):
        pairs.fits(tokenizer, 92, on_long="drop")


def test_pairs_print_as_a_table_with_an_example() -> None:
    printed = repr(
        Pairs([choice(0), choice(1, "(B)", "(A)"), choice(2, "Yes", "No")], name="mine", skipped={"duplicate": 3})
    )
    lines = printed.splitlines()
    assert lines[0] == "mine: 3 pairs from memory (format pairs); skipped 3 (duplicate)"
    assert lines[2].split()[:5] == ["positive", "1", "1", "0", "1"]
    assert lines[4].startswith("example: 'Question 0?")
    assert lines[4].endswith("-> '(A)' or '(B)'")


def test_pairs_show_themselves_in_jupyter_with_text_escaped() -> None:
    page = Pairs([ContrastPair(Side(Prompt("<b>one")), Side(Prompt("two")))], name="<i>")._repr_html_()
    assert page.startswith('<table class="steerkit">')
    assert "<b>" not in page
    assert "&lt;b&gt;one" in page


def test_the_example_names_both_prompts_where_they_differ() -> None:
    assert "'I am glad' or 'I am sad'" in repr(
        Pairs([ContrastPair(Side(Prompt("I am glad")), Side(Prompt("I am sad")))])
    )


def test_no_pairs_are_refused() -> None:
    with pytest.raises(DataError, match="no pairs left; give at least one"):
        Pairs([])
