"""Load contrast pairs and questions from files, the demo, datasets and lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steerkit.data.chat import TEMPLATES, Prompt
from steerkit.data.collecting import ON_BAD, collect, given_pair, open_items
from steerkit.data.formats import FORMATS, detect
from steerkit.data.pairs import Pairs, check_choice
from steerkit.data.rows import ItemError, Row, read_text
from steerkit.data.sources import Source, open_source
from steerkit.errors import DataError


def load_pairs(
    source: Any,
    *,
    format: str | None = None,  # noqa: A002
    split: str | None = None,
    template: str | None = None,
    on_bad: str = "raise",
) -> Pairs:
    """Contrast pairs from a file, the embedded demo, a dataset or a list.

    Args:
        source: A path (`.json`, `.jsonl`, `.csv`, `.tsv`, `.parquet`), `"demo:NAME"`, a `datasets.Dataset` or
            `DatasetDict`, or a list of dicts, of `(positive, negative)` tuples, or of `ContrastPair`.
        format: `"caa"`, `"evals"`, `"preferences"` or `"pairs"`; `None` tells it from the fields.
        split: Part of the demo's data (`"train"`, `"test"`) or of a `DatasetDict`.
        template: A prompt template by name, `"plain"` or `"llama-2-caa"`; `None` is the tokenizer's own.
        on_bad: `"raise"` refuses the source at its first bad item; `"skip"` leaves bad items out and counts them in
            `Pairs.skipped`.

    Raises:
        DataError: The source cannot be read, an item is bad (the message names file, line and field), both sides of an
            item are the same, an item repeats another, or no pair is left.

    Example:
        >>> pairs = load_pairs([("I feel glad.", "I feel sad."), ("What joy!", "What a pity!")])
        >>> len(pairs), pairs.format
        (2, 'pairs')
    """
    check_choice("on_bad", on_bad, ON_BAD)
    if format is not None:
        check_choice("format", format, tuple(FORMATS))
    if template is not None:
        check_choice("template", template, TEMPLATES)
    found = open_items(source, split=split)
    chosen = format or ("pairs" if found.given else _detect(found))
    pairs, skipped = collect(found, given_pair if found.given else FORMATS[chosen].read, on_bad=on_bad)
    return Pairs(pairs, name=found.name, source=found.text, format=chosen, template=template, skipped=skipped)


def _detect(found: Source) -> str:
    """The format of the first item that fits one; without such an item, the error of the first."""
    first: DataError | None = None
    for row in found.rows:
        try:
            if isinstance(row, ItemError):
                raise row
            return detect(list(row.fields), row.where, lines=found.lines)
        except DataError as error:
            first = first or error
    raise first or DataError(f"{found.text} is empty; it must hold at least one item")


def load_questions(source: Any, *, split: str | None = None) -> list[Prompt]:
    """Open questions, each as a user's message.

    Args:
        source: A path: `.txt` with one question a line, or JSON, JSON lines or CSV whose items are strings or have
            the field `question`, `prompt` or `messages`; `"demo:NAME"`; a dataset; or a list of strings or dicts.
        split: Part of the demo's questions (`"train"`, `"test"`) or of a `DatasetDict`.

    Raises:
        DataError: The source cannot be read, or an item is not a question (the message names file, line and field).

    Example:
        >>> load_questions(["Is the sea dry?"])[0].content[0]["content"]
        'Is the sea dry?'
    """
    if isinstance(source, str | Path) and str(source).lower().endswith(".txt"):
        source = [line.strip() for line in read_text(Path(source).expanduser()).splitlines() if line.strip()]
    found = open_source(source, split=split, prefix="open_", texts="question")
    if not found.rows:
        raise DataError(f"{found.text} is empty; it must hold at least one question")
    return [_question(row) for row in found.rows]


def _question(row: Row | ItemError) -> Prompt:
    if isinstance(row, ItemError):
        raise row
    if "messages" in row.fields:
        return Prompt(row.messages("messages"))
    field = "prompt" if "prompt" in row.fields and "question" not in row.fields else "question"
    return Prompt([{"role": "user", "content": row.text(field).strip()}])
