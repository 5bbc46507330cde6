"""Load contrast pairs and questions from files, the demo, datasets and lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from steerkit.data.chat import TEMPLATES, Prompt
from steerkit.data.formats import FORMATS, detect
from steerkit.data.pairs import ContrastPair, Pairs, check_choice, pair_key, prompt_text
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
        source: A path (`.json`, `.jsonl`, `.csv`, `.tsv`), `"demo:NAME"`, a `datasets.Dataset` or `DatasetDict`, or a
            list of dicts, of `(positive, negative)` tuples, or of `ContrastPair`.
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
    check_choice("on_bad", on_bad, ("raise", "skip"))
    if format is not None:
        check_choice("format", format, tuple(FORMATS))
    if template is not None:
        check_choice("template", template, TEMPLATES)
    found, chosen = _open(source, format, split)
    pairs, skipped = _collect(found, _given if found.given else FORMATS[chosen].read, on_bad)
    return Pairs(pairs, name=found.name, source=found.text, format=chosen, template=template, skipped=skipped)


def _open(source: Any, given: str | None, split: str | None) -> tuple[Source, str]:
    """The items of a source, and their format."""
    if isinstance(source, Sequence) and source and all(isinstance(one, ContrastPair) for one in source):
        rows = [Row({_PAIR: pair}, i, f"item {i} of the list") for i, pair in enumerate(source)]
        return Source("list", "a list", rows, given=True), given or "pairs"
    found = open_source(source, split=split)
    return found, given or _detect(found)


_PAIR = "pair"


def _given(row: Row) -> ContrastPair:
    pair = row.value(_PAIR)
    if not isinstance(pair, ContrastPair):
        raise row.bad(f"{pair!r:.60} is not a ContrastPair", "not a pair")
    return pair


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


def _collect(
    found: Source, read: Callable[[Row], ContrastPair], on_bad: str
) -> tuple[list[ContrastPair], dict[str, int]]:
    """All pairs that can be used, each once, and how many items were left out for which reason."""
    pairs: list[ContrastPair] = []
    skipped: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for row in found.rows:
        try:
            pairs.append(_pair(row, read, seen))
        except ItemError as error:
            if on_bad == "raise":
                raise ItemError(f'{error}; or leave bad items out with on_bad="skip"', error.reason) from None
            skipped[error.reason] += 1
    return pairs, dict(skipped)


def _pair(row: Row | ItemError, read: Callable[[Row], ContrastPair], seen: dict[str, str]) -> ContrastPair:
    if isinstance(row, ItemError):
        raise row
    pair = read(row)
    one, other = pair.positive, pair.negative
    if one.prompt == other.prompt and one.answer.strip() == other.answer.strip():
        raise row.bad(f"both sides are the same ({one.answer or prompt_text(one.prompt)!r:.60}); a pair must differ in "
                      "its prompt or its answer", "identical sides")  # fmt: skip
    key = pair_key(pair)
    if key in seen:
        raise row.bad(f"repeats {seen[key]}; a pair counts once", "duplicate")
    seen[key] = row.where
    return pair


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
