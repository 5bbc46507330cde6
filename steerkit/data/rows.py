"""Rows of a file: JSON, JSON lines, CSV or Parquet, each with the place that an error names."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from steerkit.data.chat import Message, Prompt, check_messages
from steerkit.errors import DataError

_SPACE = re.compile(r"\s*")


class ItemError(DataError):
    """One item cannot be used; loaders leave it out and count it when asked to.

    Args:
        message: Where, what is wrong, and what to do.
        reason: A few words to count it under.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Row:
    """One item of a source.

    Args:
        fields: Its values by name.
        index: Its place in the source, from 0.
        where: The place as an error names it: file, item and line.
    """

    fields: Mapping[str, object]
    index: int
    where: str

    def bad(self, problem: str, reason: str) -> ItemError:
        """The error for this item."""
        return ItemError(f"{self.where}: {problem}", reason)

    def value(self, field: str) -> object:
        """A field that must be there.

        Raises:
            ItemError: It is missing or null.
        """
        found = self.fields.get(field)
        if found is None:
            has = ", ".join(map(repr, self.fields)) or "no fields"
            raise self.bad(f"field {field!r} is missing; the item has {has}", "missing field")
        return found

    def text(self, field: str) -> str:
        """A field that must be a string with something in it.

        Raises:
            ItemError: It is missing, not a string, or blank.
        """
        found = self.value(field)
        if not isinstance(found, str):
            raise self.bad(f"field {field!r} is {found!r:.60}, a {type(found).__name__}; a string is needed",
                           "field is not a string")  # fmt: skip
        if not found.strip():
            raise self.bad(f"field {field!r} is empty; give some text", "empty field")
        return found

    def messages(self, field: str) -> tuple[Message, ...]:
        """A field that must be a list of messages.

        Raises:
            ItemError: It is not, or a message lacks its role or content.
        """
        found = self.value(field)
        if not isinstance(found, list):
            raise self.bad(f"field {field!r} is {found!r:.60}, a {type(found).__name__}; a string or a list of "
                           "messages is needed", "field is not a string")  # fmt: skip
        try:
            check_messages(found)
        except DataError as error:
            raise self.bad(f"field {field!r}: {error}", "bad messages") from error
        return tuple({"role": message["role"], "content": message["content"]} for message in found)

    def prompt(self, field: str) -> Prompt:
        """A prompt from a string, used as it is, or from messages.

        Raises:
            ItemError: It is missing, empty, or neither a string nor messages.
        """
        return Prompt(self.text(field) if isinstance(self.value(field), str) else self.messages(field))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: There is no such file, it is a folder, it is empty, or it is not UTF-8.
    """
    _check_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from error
    if not text.strip():
        raise DataError(f"{path} is empty; it must hold at least one item")
    return text


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir())[:8]
        raise DataError(f"{path} is a folder, not a file; name one file in it: {', '.join(inside) or 'it is empty'}")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")


def read_rows(path: Path, *, texts: str = "") -> list[Row | ItemError]:
    """The items of a file, by its suffix and how it begins: Parquet, CSV, JSON lines, or one JSON list.

    A line of JSON lines or CSV that cannot be read is an `ItemError` in its place.

    Args:
        path: The file.
        texts: The field that a bare string stands for; empty where strings are not items.

    Raises:
        DataError: The file as a whole cannot be read.
    """
    found = list(_parquet_rows(path) if path.suffix.lower() == ".parquet" else _text_rows(path, texts))
    if not found:
        raise DataError(f"{path} holds no items; it must hold at least one")
    return found


def _text_rows(path: Path, texts: str) -> Iterator[Row | ItemError]:
    text = read_text(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv_rows(text, path)
    if path.suffix.lower() in (".jsonl", ".ndjson") or text.lstrip().startswith("{"):
        return _json_lines(text, path, texts)
    return _json_list(text, path, texts)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    _check_file(path)
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not Parquet ({error})") from error
    return (Row(fields, i, f"{path}, row {i}") for i, fields in enumerate(table.to_pylist()))


def as_row(value: object, index: int, where: str, *, texts: str = "") -> Row | ItemError:
    """An item as a row, or the error that says why it is none.

    Args:
        value: The item.
        index: Its place in the source, from 0.
        where: The place as an error names it.
        texts: The field that a bare string stands for; empty where strings are not items.
    """
    if isinstance(value, Mapping):
        return Row(value, index, where)
    if texts and isinstance(value, str):
        return Row({texts: value}, index, where)
    wanted = f"a string or an object with the field {texts!r}" if texts else "an object with named fields"
    return ItemError(f"{where}: {value!r:.60} is a {type(value).__name__}; {wanted} is needed", "not an object")


def _json_lines(text: str, path: Path, texts: str) -> Iterator[Row | ItemError]:
    index = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            yield as_row(json.loads(line), index, where, texts=texts)
        except json.JSONDecodeError as error:
            yield ItemError(f"{where}: not JSON ({error.msg} at column {error.colno}); each line must be one object",
                            "broken line")  # fmt: skip
        index += 1


def _json_list(text: str, path: Path, texts: str) -> Iterator[Row | ItemError]:
    """The items of one JSON list, each with the line where it begins."""
    at, index, line, counted = _skip_space(text, 0), 0, 1, 0
    try:
        if text[at] != "[":
            json.loads(text)
            raise DataError(f"{path} holds {text.strip()[:40]!r}, not a list of items; put the items in [ ... ]")
        at = _skip_space(text, at + 1)
        while text[at : at + 1] != "]":
            line, counted = line + text.count("\n", counted, at), at
            value, end = json.JSONDecoder().raw_decode(text, at)
            yield as_row(value, index, f"{path}, item {index} (line {line})", texts=texts)
            at, index = _skip_space(text, end), index + 1
            if text[at : at + 1] == ",":
                at = _skip_space(text, at + 1)
                if text[at : at + 1] == "]":
                    raise json.JSONDecodeError("Nothing follows the comma", text, at)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        if _skip_space(text, at + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, at + 1)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg} at column {error.colno})") from error


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _csv_rows(text: str, path: Path) -> Iterator[Row | ItemError]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    index, begins = 0, 2
    try:
        header = [name.strip() for name in next(reader)]
        begins = reader.line_num + 1
        for cells in reader:
            where, begins = f"{path}, line {begins}", reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(header):
                yield ItemError(f"{where}: {len(cells)} cells, but the first line names {len(header)} columns; put "
                                'text with commas or line breaks in "quotes"', "broken line")  # fmt: skip
            else:
                yield Row(dict(zip(header, cells, strict=True)), index, where)
            index += 1
    except csv.Error as error:
        raise DataError(f"{path}, line {begins}: not CSV ({error})") from error
