"""Load preferences from files, the demo, datasets and lists, and refuse what cannot teach anything."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from steerkit.data.chat import TEMPLATES, Prompt
from steerkit.data.collecting import ON_BAD, check_sides, collect, given_pair, open_items
from steerkit.data.formats import FORMATS
from steerkit.data.pairs import ContrastPair, Side, check_choice, counted
from steerkit.data.preference_items import Preference, find_problem
from steerkit.data.preference_sets import Preferences
from steerkit.data.rows import Row
from steerkit.data.sources import DEMO
from steerkit.data.turns import shared_prompt
from steerkit.errors import DataError, LengthBiasWarning

_DEMO = f"{DEMO}:preferences"


def load_preferences(
    source: Any,
    *,
    format: str | None = None,  # noqa: A002
    split: str | None = None,
    template: str | None = None,
    on_bad: str = "raise",
) -> Preferences:
    """Preferences from a file, the embedded demo, a dataset or a list.

    An item has `chosen`, `rejected` and `prompt` (or `question`, and perhaps `system`). Strings are used as they are;
    messages go through the model's chat template. Without a prompt, it is what both sides share: all messages but the
    last, or the text up to the last assistant's tag, or up to the first word that differs.

    Args:
        source: A path (`.jsonl`, `.json`, `.parquet`, `.csv`), `"demo"`, a `datasets.Dataset` or `DatasetDict`, or a
            list of dicts.
        format: Reads another format of `load_pairs`, whose positive sides are then the chosen answers; `None` is
            `"preferences"`.
        split: Part of the demo's data (`"train"`, `"test"`) or of a `DatasetDict`.
        template: A prompt template by name, `"plain"` or `"llama-2-caa"`; `None` is the tokenizer's own.
        on_bad: `"raise"` refuses the source at its first bad item; `"skip"` leaves bad items out and counts them in
            `Preferences.skipped`.

    Raises:
        DataError: The source cannot be read, there are fewer than two preferences, or an item is bad (the message names
            file, line and field): a field is missing, an answer is empty, both are the same, the sides have no prompt
            in common, the assistant's tag is lost, an answer holds such a tag, or an item repeats another.

    Warns:
        LengthBiasWarning: The chosen answers can be told by their length.

    Example:
        >>> load_preferences("demo", split="test")[0].prompt.is_chat
        True

    Source: the forms of TRL's preference data, and what broke RAHF's and HIR's own scripts.
    """
    check_choice("on_bad", on_bad, ON_BAD)
    if format is not None:
        check_choice("format", format, tuple(FORMATS))
    if template is not None:
        check_choice("template", template, TEMPLATES)
    found = open_items(_DEMO if isinstance(source, str) and source == DEMO else source, split=split)
    read = given_pair if found.given else FORMATS[format or "preferences"].read
    pairs, skipped = collect(found, lambda row: _answers_to_one_prompt(row, read), on_bad=on_bad)
    items = [Preference(one.positive.prompt, one.positive.answer, one.negative.answer, id=one.id) for one in pairs]
    preferences = Preferences(items, name=found.name, source=found.text, template=template, skipped=skipped)
    if len(preferences) < 2:
        raise DataError(
            f"{found.text} holds 1 preference{counted(skipped)}; at least 2 are needed, so that one can be held out"
        )
    if preferences.lengths.is_biased:
        warnings.warn(f"{found.name}: {preferences.lengths.verdict}. What is learned from them may be length alone; "
                      "measure on preferences.length_matched() too", LengthBiasWarning, stacklevel=2)  # fmt: skip
    return preferences


def _answers_to_one_prompt(row: Row, read: Callable[[Row], ContrastPair]) -> ContrastPair:
    """The item as a pair that can be a preference.

    Raises:
        ItemError: It cannot.
    """
    pair = read(row)
    check_sides(row, pair)
    _check_answered(row)
    one, other = pair.positive, pair.negative
    if isinstance(one.prompt.content, str) and isinstance(other.prompt.content, str) and not one.answer + other.answer:
        one, other = _part(row, one.prompt.content, other.prompt.content)
    if one.prompt != other.prompt:
        raise row.bad("the two sides answer different prompts; a preference is about one prompt, and the conversations "
                      "may differ in their last message alone", "different prompts")  # fmt: skip
    problem = find_problem(one.prompt, one.answer, other.answer)
    if problem:
        raise row.bad(*problem)
    return replace(pair, positive=one, negative=other)


def _check_answered(row: Row) -> None:
    for field in ("chosen", "rejected"):
        if isinstance(row.fields.get(field), list):
            role = row.messages(field)[-1]["role"]
            if role != "assistant":
                raise row.bad(f"field {field!r} ends with a message of role {role!r}; its last message must be the "
                              "answer, of role 'assistant'", "lost assistant tag")  # fmt: skip


def _part(row: Row, one: str, other: str) -> tuple[Side, Side]:
    shared = shared_prompt(one, other)
    if not shared.strip():
        raise row.bad("the two texts share no beginning that could be the prompt; give the field 'prompt'", "no prompt")
    prompt, cut = Prompt(shared), len(shared)
    return Side(prompt, one[cut:]), Side(prompt, other[cut:])
