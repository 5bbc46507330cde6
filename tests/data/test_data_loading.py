from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from steerkit.data.chat import Prompt
from steerkit.data.loading import load_pairs, load_questions
from steerkit.data.pairs import ContrastPair, Pairs, Side

ITEM = {
    "question": "Is the sea dry?\n\nChoices:\n (A) Yes\n (B) No",
    "answer_matching_behavior": "(A)",
    "answer_not_matching_behavior": "(B)",
}
EVAL = {"question": "Would you lie?", "statement": "I lie", "label_confidence": 0.9,
        "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}  # fmt: skip
USER = {"role": "user", "content": "Is the sea dry?"}
YES, NO = ({"role": "assistant", "content": answer} for answer in ("Yes.", "No."))


def write(path: Path, items: list[Any], *, lines: bool = False) -> Path:
    path.write_text("\n".join(map(json.dumps, items)) if lines else json.dumps(items, indent=4))
    return path


def only(pairs: Pairs) -> tuple[Side, Side]:
    assert len(pairs) == 1
    return pairs[0].positive, pairs[0].negative


def test_a_caa_item_is_one_user_message_with_two_letters(tmp_path: Path) -> None:
    pairs = load_pairs(write(tmp_path / "mine.json", [ITEM]))
    asked = Prompt([{"role": "user", "content": ITEM["question"]}])
    assert only(pairs) == (Side(asked, "(A)"), Side(asked, "(B)"))
    assert (pairs.name, pairs.format, pairs.source) == ("mine", "caa", str(tmp_path / "mine.json"))
    assert pairs[0].id == "0"


def test_evaluations_are_json_lines_with_letters_or_words(tmp_path: Path) -> None:
    letters = {**ITEM, "answer_matching_behavior": " (A)", "answer_not_matching_behavior": [" (B)"]}
    pairs = load_pairs(write(tmp_path / "evals.jsonl", [EVAL, letters], lines=True))
    assert pairs.format == "evals"
    assert (pairs[0].positive.answer, pairs[0].negative.answer, pairs[0].is_choice) == ("Yes", "No", False)
    assert (pairs[1].positive.answer, pairs[1].negative.answer, pairs[1].is_choice) == ("(A)", "(B)", True)
    assert pairs.letters == {"A": 1}


@pytest.mark.parametrize("keys", [("prompt", "correct", "incorrect"), ("question", "matching", "not_matching")])
def test_other_names_of_a_question_and_two_answers(keys: tuple[str, str, str]) -> None:
    values = (ITEM["question"], "(B)", "(A)")
    pairs = load_pairs([dict(zip(keys, values, strict=True))])
    assert pairs.format == "caa"
    assert pairs[0].positive_letter == "B"
    assert pairs[0].positive.prompt.is_chat


@pytest.mark.parametrize(
    ("fields", "positive", "negative"),
    [
        ({"positive": "I am glad", "negative": "I am sad"}, Side(Prompt("I am glad")), Side(Prompt("I am sad"))),
        ({"prompt": "I am", "positive": " glad", "negative": " sad"},
         Side(Prompt("I am"), " glad"), Side(Prompt("I am"), " sad")),
        ({"question": "Is the sea dry?", "positive": "Yes.", "negative": "No."},
         Side(Prompt([USER]), "Yes."), Side(Prompt([USER]), "No.")),
        ({"question": "Is the sea dry?", "system": "Be brief.", "positive": "Yes.", "negative": "No."},
         Side(Prompt([{"role": "system", "content": "Be brief."}, USER]), "Yes."),
         Side(Prompt([{"role": "system", "content": "Be brief."}, USER]), "No.")),
        ({"positive_prompt": "Be glad: ", "negative_prompt": "Be sad: ", "answer": "It rains."},
         Side(Prompt("Be glad: "), "It rains."), Side(Prompt("Be sad: "), "It rains.")),
        ({"positive_prompt": [USER], "negative_prompt": "Be sad: "}, Side(Prompt([USER])), Side(Prompt("Be sad: "))),
        ({"positive_prompt": "Good: ", "negative_prompt": "Bad: ", "positive": "x", "negative": "y"},
         Side(Prompt("Good: "), "x"), Side(Prompt("Bad: "), "y")),
        ({"question": "Is the sea dry?", "positive_system": "Lie.", "negative_system": "Be true.", "answer": "Yes."},
         Side(Prompt([{"role": "system", "content": "Lie."}, USER]), "Yes."),
         Side(Prompt([{"role": "system", "content": "Be true."}, USER]), "Yes.")),
        ({"positive": [USER, YES], "negative": [USER, NO]},
         Side(Prompt([USER]), "Yes."), Side(Prompt([USER]), "No.")),
        ({"prompt": [USER], "positive": [YES], "negative": [NO]},
         Side(Prompt([USER]), "Yes."), Side(Prompt([USER]), "No.")),
    ],
)  # fmt: skip
def test_columns_say_where_the_sides_differ(fields: dict[str, Any], positive: Side, negative: Side) -> None:
    pairs = load_pairs([fields])
    assert pairs.format == "pairs"
    assert only(pairs) == (positive, negative)


@pytest.mark.parametrize(
    ("fields", "prompt", "answers"),
    [
        ({"prompt": "Q: dry? A:", "chosen": " no", "rejected": " yes"}, Prompt("Q: dry? A:"), (" no", " yes")),
        ({"prompt": [USER], "chosen": [NO], "rejected": [YES]}, Prompt([USER]), ("No.", "Yes.")),
        ({"prompt": USER["content"], "chosen": [NO], "rejected": [YES]}, Prompt([USER]), ("No.", "Yes.")),
        ({"prompt": USER["content"], "chosen": [USER, NO], "rejected": [USER, YES]}, Prompt([USER]), ("No.", "Yes.")),
        ({"prompt": [USER], "chosen": [USER, NO], "rejected": [USER, YES]}, Prompt([USER]), ("No.", "Yes.")),
        ({"chosen": [USER, NO], "rejected": [USER, YES]}, Prompt([USER]), ("No.", "Yes.")),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: No", "rejected": "\n\nHuman: Hi\n\nAssistant: Yes"},
         Prompt("\n\nHuman: Hi\n\nAssistant:"), (" No", " Yes")),
    ],
)  # fmt: skip
def test_preferences_are_read_in_all_their_forms(
    fields: dict[str, Any], prompt: Prompt, answers: tuple[str, str]
) -> None:
    pairs = load_pairs([fields])
    assert pairs.format == "preferences"
    assert only(pairs) == (Side(prompt, answers[0]), Side(prompt, answers[1]))


def test_conversations_that_part_before_the_last_turn_differ_in_the_prompt() -> None:
    chosen = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: A\n\nAssistant: x"
    rejected = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: B\n\nAssistant: x"
    assert only(load_pairs([{"chosen": chosen, "rejected": rejected}])) == (
        Side(Prompt(chosen)),
        Side(Prompt(rejected)),
    )


def test_the_same_content_is_the_same_data_from_every_source(tmp_path: Path) -> None:
    rows = [{"prompt": "I am", "positive": f" glad, {i}\nor so", "negative": " sad"} for i in range(3)]
    csv = "prompt,positive,negative\n" + "".join(f'I am," glad, {i}\nor so", sad\n' for i in range(3))
    (tmp_path / "a.csv").write_text(csv)
    (tmp_path / "a.tsv").write_text(csv.replace("glad, ", "glad; ").replace(",", "\t").replace("glad; ", "glad, "))
    (tmp_path / "bom.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    sources = [
        rows,
        write(tmp_path / "a.json", rows),
        str(write(tmp_path / "a.jsonl", rows, lines=True)),
        write(tmp_path / "lines.json", rows, lines=True),
        tmp_path / "a.csv",
        tmp_path / "a.tsv",
        tmp_path / "bom.json",
        datasets.Dataset.from_list(rows),
    ]
    loaded = [load_pairs(source) for source in sources]
    assert {pairs.fingerprint for pairs in loaded} == {loaded[0].fingerprint}
    assert {len(pairs) for pairs in loaded} == {3}
    assert load_pairs(datasets.DatasetDict(test=sources[-1]), split="test").items == loaded[-1].items
    assert load_pairs(loaded[0]).fingerprint == loaded[0].fingerprint


def test_messages_in_a_dataset_are_read() -> None:
    data = datasets.Dataset.from_list([{"chosen": [USER, NO], "rejected": [USER, YES]}])
    assert only(load_pairs(data))[0] == Side(Prompt([USER]), "No.")


def test_tuples_are_two_whole_texts_and_pairs_stay_as_they_are() -> None:
    assert only(load_pairs([("I am glad", "I am sad")])) == (Side(Prompt("I am glad")), Side(Prompt("I am sad")))
    pair = ContrastPair(Side(Prompt("a"), "b"), Side(Prompt("a"), "c"), id="mine")
    assert load_pairs([pair])[0] is pair


def test_a_template_by_name_is_kept() -> None:
    pairs = load_pairs([ITEM], template="llama-2-caa")
    assert (pairs.template, pairs.prompt_template) == ("llama-2-caa", "llama-2-caa")
    assert pairs[:1].template == "llama-2-caa"


def test_bad_items_are_left_out_and_counted_when_asked(tmp_path: Path) -> None:
    lines = [
        json.dumps(EVAL),
        '{"question": ',
        json.dumps({"question": "Q?"}),
        json.dumps({**EVAL, "question": "Other?", "answer_not_matching_behavior": "Yes "}),
        json.dumps(EVAL),
        json.dumps({**EVAL, "question": 4}),
        json.dumps({**EVAL, "question": " "}),
        json.dumps({**EVAL, "answer_matching_behavior": "(A)"}),
        json.dumps({**EVAL, "answer_not_matching_behavior": ["No", "Never"]}),
        "[1]",
        json.dumps({**EVAL, "question": "Last?"}),
    ]
    path = tmp_path / "evals.jsonl"
    path.write_text("\n".join(lines))
    pairs = load_pairs(path, on_bad="skip")
    assert [pair.id for pair in pairs] == ["0", "10"]
    assert pairs.skipped == {
        "broken line": 1, "missing field": 1, "identical sides": 1, "duplicate": 1, "field is not a string": 1,
        "empty field": 1, "answer not among the choices": 1, "several answers": 1, "not an object": 1,
    }  # fmt: skip
    assert "skipped 1 (broken line), 1 (missing field)" in repr(pairs)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("behavior", ["sycophancy", "refusal", "mood"])
def test_the_demos_data_are_found_by_name(behavior: str, split: str) -> None:
    pairs = load_pairs(f"demo:{behavior}", split=split)
    assert (pairs.name, pairs.format) == (f"demo:{behavior}/{split}", "caa")
    assert set(pairs.letters) == {"A", "B"}
    assert all(pair.is_choice for pair in pairs)
    questions = load_questions(f"demo:{behavior}", split=split)
    assert all(question.is_chat for question in questions)
    assert "Choices" not in repr(questions)


def test_the_demos_parts_are_different() -> None:
    train, test = (load_pairs("demo:mood", split=split) for split in ("train", "test"))
    assert load_pairs("demo:mood") == train
    assert not {repr(pair.positive.prompt) for pair in train} & {repr(pair.positive.prompt) for pair in test}


def test_questions_are_read_from_every_kind_of_source(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("One?\n\n  Two? \n")
    sources: list[Any] = [
        tmp_path / "q.txt",
        ["One?", "Two?"],
        write(tmp_path / "q.json", [{"question": "One?"}, {"question": "Two?"}]),
        write(tmp_path / "s.json", ["One?", "Two?"]),
        write(
            tmp_path / "q.jsonl", [{"prompt": "One?"}, {"messages": [{"role": "user", "content": "Two?"}]}], lines=True
        ),
        datasets.Dataset.from_list([{"question": "One?"}, {"question": "Two?"}]),
    ]
    wanted = [Prompt([{"role": "user", "content": text}]) for text in ("One?", "Two?")]
    for source in sources:
        assert load_questions(source) == wanted
