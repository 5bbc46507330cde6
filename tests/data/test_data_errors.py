"""Bad input: each is refused with a message that names the place and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from steerkit.data.loading import load_pairs, load_questions
from steerkit.errors import DataError

ITEM = {
    "question": "Is the sea dry?\n\nChoices:\n (A) Yes\n (B) No",
    "answer_matching_behavior": "(A)",
    "answer_not_matching_behavior": "(B)",
}
GOOD = {"positive": "glad", "negative": "sad"}
BROKEN = json.dumps(GOOD) + "\n\n" + '{"positive": "x", "negative"}'


def changed(**fields: Any) -> str:
    """A CAA file whose second item, at line 7, differs."""
    return json.dumps([ITEM, {**ITEM, "question": "Other? (A) (B)", **fields}], indent=4)


def without(field: str) -> str:
    return json.dumps([ITEM, {key: value for key, value in ITEM.items() if key != field}], indent=4)


FILES = [
    ("empty.json", "", r"empty\.json is empty; it must hold at least one item"),
    ("spaces.csv", " \n", r"spaces\.csv is empty"),
    ("no_items.json", "[]", r"no_items\.json holds no items"),
    ("header_only.csv", "positive,negative\n", r"header_only\.csv holds no items"),
    ("text.json", "hello", r"text\.json, line 1: not JSON \(Expecting value at column 1\)"),
    ("cut.json", '[{"a": 1},\n {"a": ', r"cut\.json, line 2: not JSON \(Expecting value at column 8\)"),
    ("comma.json", '[{"a": 1},\n]', r"comma\.json, line 2: not JSON \(Nothing follows the comma"),
    ("after.json", '[{"a": 1}] 2', r"after\.json, line 1: not JSON \(Extra data"),
    ("unfinished.json", '[{"a": 1}', r"unfinished\.json, line 1: not JSON \(Expecting ',' or '\]'"),
    ("number.json", "3", r"number\.json holds '3', not a list of items; put the items in \[ \.\.\. \]"),
    ("line3.jsonl", BROKEN, r"line3\.jsonl, line 3: not JSON \(Expecting ':' delimiter at column 29\); each line"),
    ("list.json", "[[1], [2]]", r"item 0 \(line 1\): \[1\] is a list; an object with named fields is needed"),
    (
        "missing.json",
        without("answer_matching_behavior"),
        r"missing\.json, item 1 \(line 7\): field 'answer_matching_behavior' is missing; the item has 'question', ",
    ),
    ("null.json", changed(question=None), r"item 1 \(line 7\): field 'question' is missing"),
    ("type.json", changed(question=4), r"item 1 \(line 7\): field 'question' is 4, a int; a string is needed"),
    ("blank.json", changed(question="  "), r"item 1 \(line 7\): field 'question' is empty; give some text"),
    (
        "same.json",
        changed(answer_not_matching_behavior=" (A)"),
        r"item 1 \(line 7\): both sides are the same \('\(A\)'\)",
    ),
    (
        "choice.json",
        changed(question="Is it C or not? (A) (B)", answer_matching_behavior="(C)"),
        r"item 1 \(line 7\): field 'answer_matching_behavior' is '\(C\)', but the question has no choice \(C\)",
    ),
    (
        "several.json",
        changed(answer_not_matching_behavior=["(B)", "(C)"]),
        r"item 1 \(line 7\): field 'answer_not_matching_behavior' lists 2 answers; a pair needs one",
    ),
    (
        "twice.json",
        json.dumps([ITEM, ITEM], indent=1),
        r"item 1 \(line 7\): repeats .*twice\.json, item 0 \(line 2\); a pair counts once",
    ),
    (
        "keys.json",
        '[{"text": "a", "label": 1}]',
        r"keys\.json, item 0 \(line 1\): the fields 'text', 'label' fit no format.*\n  caa: question, answer_matching",
    ),
    (
        "both.json",
        json.dumps([{**GOOD, "chosen": "x", "rejected": "y"}]),
        r"fit the formats preferences and pairs; choose one",
    ),
    (
        "headless.csv",
        "I am glad,I am sad\nJoy,Pity\n",
        r"headless\.csv, line 2: the fields 'I am glad', 'I am sad' fit no format",
    ),
    (
        "cells.csv",
        "positive,negative\na,b\nx,y,z\n",
        r"cells\.csv, line 3: 3 cells, but the first line names 2 columns",
    ),
    ("empty_cell.csv", "prompt,positive,negative\np,a,b\n,x,y\n", r"empty_cell\.csv, line 3: field 'prompt' is empty"),
    (
        "roles.json",
        '[{"chosen": [{"role": "user"}], "rejected": []}]',
        r"field 'chosen': message 0 is .* needs the keys 'role'",
    ),
    (
        "alone.json",
        '[{"chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}]',
        r"field 'chosen' is an answer without a question; give the messages before it, or 'prompt'",
    ),
    (
        "object.json",
        '[{"positive": {"a": 1}, "negative": "b"}]',
        r"'positive' is \{'a': 1\}, a dict; a string or a list of",
    ),
    ("one_side.json", json.dumps([GOOD, {"positive": "x"}]), r"item 1 \(line 1\): field 'negative' is missing"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES, ids=[name for name, _, _ in FILES])
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"(?s){message}"):
        load_pairs(tmp_path / name)


def test_a_bad_item_says_how_to_leave_it_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(changed(question=4))
    with pytest.raises(DataError, match=r'or leave bad items out with on_bad="skip"$'):
        load_pairs(tmp_path / "a.json")
    assert len(load_pairs(tmp_path / "a.json", on_bad="skip")) == 1


def test_a_file_of_bad_items_alone_is_refused_with_the_counts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("positive,negative\na,a\nb,b\n")
    with pytest.raises(DataError, match=r"a: no pairs left; skipped 2 \(identical sides\)"):
        load_pairs(tmp_path / "a.csv", on_bad="skip")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"question": "\xff"}]')
    with pytest.raises(DataError, match=r"a\.json: byte 15 is not UTF-8; save the file as UTF-8 text"):
        load_pairs(tmp_path / "a.json")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.json: there is no such file"):
        load_pairs(tmp_path / "nothing.json")
    (tmp_path / "one.json").write_text("[]")
    with pytest.raises(DataError, match=r"is a folder, not a file; name one file in it: one\.json"):
        load_pairs(tmp_path)


CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: load_pairs([GOOD], on_bad="drop"), r"on_bad='drop' is not known; choose one of 'raise', 'skip'"),
    (
        lambda: load_pairs([GOOD], format="csv"),
        r"format='csv' is not known; choose one of 'caa', 'evals', 'preferences', 'pairs'",
    ),
    (
        lambda: load_pairs([GOOD], template="chatml"),
        r"template='chatml' is not known; choose one of 'plain', 'llama-2-caa'",
    ),
    (lambda: load_pairs([GOOD], split="test"), r"split='test' is for \"demo:NAME\" and for a DatasetDict"),
    (lambda: load_pairs([GOOD], format="caa"), r"item 0 of the list: field 'question' is missing"),
    (
        lambda: load_pairs("demo:greed"),
        r"no data named 'greed'; choose one of demo:mood, demo:preferences, demo:refusal, demo:sycophancy",
    ),
    (lambda: load_pairs("demo"), r"the demo has no data named ''; choose one of demo:mood"),
    (
        lambda: load_pairs("demo:mood", split="dev"),
        r"split='dev' is not a part of demo:mood; choose one of test, train",
    ),
    (lambda: load_pairs("demo:mood", split="open_train"), r"choose one of test, train"),
    (lambda: load_pairs([]), r"a list is empty; it must hold at least one item"),
    (lambda: load_pairs(["a", "b"]), r"item 0 of the list: 'a' is a str; an object with named fields is needed"),
    (lambda: load_pairs([("a", "b", "c")]), r"item 0 of the list: \('a', 'b', 'c'\) is a tuple"),
    (lambda: load_pairs(3), r"a source of type int cannot be read; give a path"),
    (lambda: load_pairs({"positive": ["a"], "negative": ["b"]}), r"a source of type dict cannot be read"),
    (
        lambda: load_pairs(datasets.Dataset.from_list([{"a": 1}])),
        r"dataset dataset, row 0: the fields 'a' fit no format",
    ),
    (lambda: load_pairs(datasets.Dataset.from_list([])), r"is empty; it must hold at least one row"),
    (lambda: load_pairs(datasets.DatasetDict(one=datasets.Dataset.from_list([GOOD]))), r"'one': no split is chosen"),
    (lambda: load_pairs(datasets.Dataset.from_list([GOOD]).to_iterable_dataset()), r"a streamed dataset is not read"),
    (lambda: load_questions([]), r"a list is empty; it must hold at least one question"),
    (lambda: load_questions([{"text": "a"}]), r"item 0 of the list: field 'question' is missing; the item has 'text'"),
    (
        lambda: load_questions(["a", 3]),
        r"item 1 of the list: 3 is a int; a string or an object with the field 'question'",
    ),
    (lambda: load_questions("demo:mood", split="dev"), r"choose one of test, train"),
]


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[message[:40] for _, message in CALLS])
def test_a_bad_call_is_refused_with_what_is_valid(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()
