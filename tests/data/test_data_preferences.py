from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from steerkit.data.chat import Prompt
from steerkit.data.loading import load_pairs
from steerkit.data.preferences import Preference, Preferences, load_preferences
from steerkit.errors import DataError, LengthBiasWarning

DRY, WARM = ({"role": "user", "content": f"Is the sea {quality}?"} for quality in ("dry", "warm"))
YES, NO = ({"role": "assistant", "content": answer} for answer in ("Yes.", "No."))
SYSTEM = {"role": "system", "content": "Be true."}
OTHER = {"prompt": [WARM], "chosen": [YES], "rejected": [NO]}
HUMAN = "\n\nHuman: Hi\n\nAssistant:"


def first(fields: dict[str, Any]) -> Preference:
    found = load_preferences([fields, OTHER])
    assert [one.id for one in found] == ["0", "1"]
    return found[0]


@pytest.mark.parametrize(
    ("fields", "prompt", "answers"),
    [
        # standard
        ({"prompt": "The sea is", "chosen": " wet", "rejected": " dry"}, Prompt("The sea is"), (" wet", " dry")),
        ({"prompt": HUMAN, "chosen": " No.", "rejected": " Yes."}, Prompt(HUMAN), (" No.", " Yes.")),
        ({"question": DRY["content"], "chosen": "No.", "rejected": "Yes."}, Prompt([DRY]), ("No.", "Yes.")),
        ({"question": DRY["content"], "system": "", "chosen": "No.", "rejected": "Yes."},
         Prompt([DRY]), ("No.", "Yes.")),
        ({"question": DRY["content"], "system": SYSTEM["content"], "chosen": "No.", "rejected": "Yes."},
         Prompt([SYSTEM, DRY]), ("No.", "Yes.")),
        # conversational
        ({"prompt": [DRY], "chosen": [NO], "rejected": [YES]}, Prompt([DRY]), ("No.", "Yes.")),
        ({"prompt": [SYSTEM, DRY], "chosen": [NO], "rejected": [YES]}, Prompt([SYSTEM, DRY]), ("No.", "Yes.")),
        ({"prompt": DRY["content"], "chosen": [DRY, NO], "rejected": [DRY, YES]}, Prompt([DRY]), ("No.", "Yes.")),
        ({"question": DRY["content"], "chosen": [NO], "rejected": [YES]}, Prompt([DRY]), ("No.", "Yes.")),
        # implicit prompt
        ({"chosen": [DRY, NO, WARM, YES], "rejected": [DRY, NO, WARM, NO]}, Prompt([DRY, NO, WARM]), ("Yes.", "No.")),
        ({"chosen": HUMAN + " No.", "rejected": HUMAN + " Not at all."}, Prompt(HUMAN), (" No.", " Not at all.")),
        ({"chosen": "[INST] Hi [/INST] No.", "rejected": "[INST] Hi [/INST] Not."},
         Prompt("[INST] Hi [/INST]"), (" No.", " Not.")),
        ({"chosen": "The sea is wet.", "rejected": "The sea is what?"}, Prompt("The sea is"), (" wet.", " what?")),
    ],
)  # fmt: skip
def test_all_forms_are_read(fields: dict[str, Any], prompt: Prompt, answers: tuple[str, str]) -> None:
    one = first(fields)
    assert (one.prompt, one.chosen, one.rejected) == (prompt, *answers)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": "p", "chosen": " a"}, "missing field", r"field 'rejected' is missing; the item has 'prompt', 'chosen'"),
    (
        {"prompt": "p", "chosen": " a", "rejected_respomse": " b"},
        "missing field",
        r"field 'rejected' is missing; .*'rejected_respomse'",
    ),
    ({"prompt": "p", "chosen": " a", "rejected": None}, "missing field", r"field 'rejected' is missing"),
    ({"prompt": "p", "chosen": " a", "rejected": " a "}, "identical sides", r"both sides are the same \(' a'\)"),
    ({"prompt": [DRY], "chosen": [NO], "rejected": [NO]}, "identical sides", r"both sides are the same \('No\.'\)"),
    ({"chosen": "a b", "rejected": "a b"}, "identical sides", r"both sides are the same"),
    ({"prompt": "p", "chosen": " ", "rejected": " a"}, "empty field", r"field 'chosen' is empty"),
    ({"prompt": "", "chosen": " b", "rejected": " a"}, "empty field", r"field 'prompt' is empty"),
    (
        {"prompt": [DRY], "chosen": [{"role": "assistant", "content": " "}], "rejected": [NO]},
        "empty answer",
        r"the chosen answer is empty; give some text",
    ),
    ({"chosen": HUMAN, "rejected": HUMAN + " x"}, "empty answer", r"the chosen answer is empty"),
    (
        {"chosen": "sea wet", "rejected": "wet sea"},
        "no prompt",
        r"the two texts share no beginning that could be the prompt; give the field 'prompt'",
    ),
    (
        {"chosen": [DRY, NO, WARM, YES], "rejected": [DRY, YES, WARM, NO]},
        "different prompts",
        r"the two sides answer different prompts",
    ),
    (
        {"prompt": [DRY], "chosen": [DRY], "rejected": [DRY, NO]},
        "lost assistant tag",
        r"field 'chosen' ends with a message of role 'user'; its last message must be the answer",
    ),
    (
        {"prompt": "\n\nHuman: Hi", "chosen": " a", "rejected": " b"},
        "lost assistant tag",
        r"the prompt ends with the user's turn: the tag 'Assistant:' that asks for the answer is lost",
    ),
    (
        {"prompt": "<|im_start|>user\nHi<|im_end|>", "chosen": " a", "rejected": " b"},
        "lost assistant tag",
        r"the tag '<\|im_start\|>assistant' that asks for the answer is lost",
    ),
    (
        {"prompt": f"{HUMAN} Hello\n\nHuman: Bye", "chosen": " a", "rejected": " b"},
        "lost assistant tag",
        r"the prompt ends with the user's turn",
    ),
    ({"prompt": [DRY, NO], "chosen": [YES], "rejected": [NO]}, "no question", r"ends with the assistant's message"),
    (
        {"prompt": HUMAN, "chosen": " a", "rejected": " b\n\nAssistant: c"},
        "turn inside an answer",
        r"the rejected answer holds the mark of another turn .*\Wb.*an answer is one turn",
    ),
    (
        {"chosen": HUMAN + " a\n\nHuman: b\n\nAssistant: c", "rejected": HUMAN + " d"},
        "turn inside an answer",
        r"the chosen answer holds the mark of another turn",
    ),
    ({"prompt": "p", "chosen": 3, "rejected": " a"}, "field is not a string", r"'chosen' is 3, a int"),
    ({**OTHER, "source": "twice"}, "duplicate", r"repeats item 0 of the list"),
]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(("fields", "reason", "message"), BAD, ids=[f"{i}-{case[1]}" for i, case in enumerate(BAD)])
def test_each_bad_item_is_refused_with_its_place_and_counted(fields: dict[str, Any], reason: str, message: str) -> None:
    rows = [OTHER, fields, {"prompt": "p", "chosen": " x", "rejected": " y"}]
    with pytest.raises(DataError, match=rf'(?s)item 1 of the list: .*{message}.*on_bad="skip"$'):
        load_preferences(rows)
    kept = load_preferences(rows, on_bad="skip")
    assert (len(kept), kept.skipped) == (2, {reason: 1})


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([OTHER], {}, r"a list holds 1 preference; at least 2 are needed"),
        ([OTHER, OTHER], {"on_bad": "skip"}, r"holds 1 preference; skipped 1 \(duplicate\); at least 2"),
        ([], {}, r"no preferences left; give at least one"),
        ([{"prompt": "p"}], {"on_bad": "skip"}, r"no preferences left; skipped 1 \(missing field\)"),
        ([OTHER], {"on_bad": "drop"}, r"on_bad='drop' is not known"),
        ([OTHER], {"format": "dpo"}, r"format='dpo' is not known; choose one of 'caa', 'evals', 'preferences'"),
        ([OTHER], {"template": "chatml"}, r"template='chatml' is not known"),
        ("demo", {"split": "dev"}, r"split='dev' is not a part of demo:preferences; choose one of test, train"),
        ("demo:mood", {}, r"item 0 \(line 2\): field 'chosen' is missing; the item has 'question'"),
        ("nothing.parquet", {}, r"nothing\.parquet: there is no such file"),
        (3, {}, r"a source of type int cannot be read"),
    ],
)
def test_a_bad_call_is_refused(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_preferences(source, **options)


def test_the_same_content_is_the_same_data_from_every_source(tmp_path: Path) -> None:
    rows = [{"prompt": [DRY], "chosen": [NO], "rejected": [YES]}, OTHER]
    data = datasets.Dataset.from_list(rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data.to_parquet(tmp_path / "a.parquet")
    parts = datasets.DatasetDict({"train": data, "test": data})
    loaded = [load_preferences(rows), load_preferences(data), load_preferences(parts, split="train"),
              *(load_preferences(tmp_path / f"a.{suffix}") for suffix in ("json", "jsonl", "parquet"))]  # fmt: skip
    assert {one.fingerprint for one in loaded} == {loaded[0].fingerprint}
    assert {len(one) for one in loaded} == {2}
    assert (loaded[-1].name, loaded[-1].source) == ("a", str(tmp_path / "a.parquet"))
    assert load_pairs(tmp_path / "a.parquet").fingerprint == loaded[0].fingerprint
    swapped = load_preferences([{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows])
    assert swapped.fingerprint != loaded[0].fingerprint


def test_a_broken_parquet_file_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("not parquet")
    with pytest.raises(DataError, match=r"a\.parquet: not Parquet"):
        load_preferences(tmp_path / "a.parquet")
    datasets.Dataset.from_list([OTHER, {**OTHER, "chosen": None}]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet, row 1: field 'chosen' is missing"):
        load_preferences(tmp_path / "b.parquet")


def test_other_formats_give_preferences_when_they_are_named() -> None:
    pairs = load_pairs("demo:sycophancy")
    by_name = load_preferences("demo:sycophancy", format="caa")
    assert by_name.fingerprint == load_preferences(pairs).fingerprint == pairs.fingerprint
    assert (by_name[0].chosen, by_name[0].id) == (pairs[0].positive.answer, pairs[0].id)


def test_chosen_answers_that_are_longer_warn_and_balanced_ones_do_not() -> None:
    long, short = " a long answer", " brief"
    biased = [{"prompt": f"p{i}", "chosen": long, "rejected": short} for i in range(20)]
    with pytest.warns(LengthBiasWarning, match=r"list: the chosen answer is the longer one in 100\.0% of 20 .*\+8\.0"):
        load_preferences(biased)
    with pytest.warns(LengthBiasWarning, match=r"longer one in 0\.0% of 20"):
        load_preferences([{**row, "chosen": short, "rejected": long} for row in biased])
    balanced = [{**row, "chosen": short, "rejected": long} if i % 2 else row for i, row in enumerate(biased)]
    assert not load_preferences(balanced).lengths.is_biased


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [("", " a", "chosen answer is empty"), (" a", "a ", "both answers are the same"),
     (" a", " b\n\nHuman: c", "rejected answer holds the mark of another turn")],
)  # fmt: skip
def test_preferences_by_hand_are_checked_too(chosen: str, rejected: str, message: str) -> None:
    with pytest.raises(DataError, match=f"preference '7': the {message}|preference '7': {message}"):
        Preference(Prompt(HUMAN), chosen, rejected, id="7")


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(DataError, match="preferences: no preferences left; give at least one"):
        Preferences([])
