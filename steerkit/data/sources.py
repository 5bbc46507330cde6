"""Where data come from: a file, the embedded demo, a `datasets.Dataset`, or objects in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from steerkit.data.rows import ItemError, Row, as_row, read_rows
from steerkit.errors import DataError

DEMO = "demo"
_OPEN = "open_"
_FIXED_NAMES = ("generate_dataset", "test_dataset_ab", "test_dataset_open_ended")


@dataclass(frozen=True)
class Source:
    """What was found: its items, and what to call it.

    Args:
        name: A short name.
        text: The path, or what kind of object it is.
        rows: The items, in order.
        lines: They come from a file of JSON lines.
        given: They are pairs already.
    """

    name: str
    text: str
    rows: Sequence[Row | ItemError]
    lines: bool = False
    given: bool = False


def open_source(source: Any, *, split: str | None, prefix: str = "", texts: str = "") -> Source:
    """The items of any source.

    Args:
        source: A path, `"demo:NAME"`, a `datasets.Dataset` or `DatasetDict`, or a list of dicts or of two texts.
        split: Which part of the demo (`"train"` if left out) or of a `DatasetDict`.
        prefix: What the demo's files begin with before the split's name.
        texts: The field that an item which is a bare string stands for; empty where strings are not items.

    Raises:
        DataError: There is no such thing, or it is of another type.
    """
    if isinstance(source, str) and source.partition(":")[0] == DEMO:
        path = demo_file(source.partition(":")[2], split or "train", prefix=prefix)
        return Source(f"{source}/{path.stem}", f"{source}, split {path.stem}", read_rows(path))
    if isinstance(source, Mapping) and hasattr(source, "column_names"):
        return _dataset(_part(source, split), str(split))
    if split is not None:
        raise DataError(f'split={split!r} is for "demo:NAME" and for a DatasetDict; this source has no parts')
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        rows = read_rows(path, texts=texts)
        name = f"{path.resolve().parent.name}/{path.stem}" if path.stem in _FIXED_NAMES else path.stem
        return Source(name, str(path), rows, lines=path.suffix.lower() in (".jsonl", ".ndjson"))
    if hasattr(source, "column_names"):
        return _dataset(source, str(getattr(source, "split", None) or "dataset"))
    if isinstance(source, Sequence) and not isinstance(source, bytes):
        return Source("list", "a list", [_item(value, i, texts) for i, value in enumerate(source)])
    raise DataError(f'a source of type {type(source).__name__} cannot be read; give a path, "demo:NAME", a '
                    "datasets.Dataset, or a list of dicts or of (positive, negative)")  # fmt: skip


def demo_file(name: str, split: str, *, prefix: str = "") -> Path:
    """The file of an embedded behavior, or of the embedded preferences.

    Raises:
        DataError: The package has no such behavior or part.
    """
    folder = Path(str(resources.files("steerkit"))) / DEMO / "data"
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*/*.json*")):
        if path.stem.startswith(_OPEN) == (prefix == _OPEN):
            found.setdefault(path.parent.name, {})[path.stem.removeprefix(prefix)] = path
    if name not in found:
        raise DataError(f"the demo has no data named {name!r}; choose one of {', '.join(f'demo:{n}' for n in found)}")
    if split not in found[name]:
        raise DataError(f"split={split!r} is not a part of demo:{name}; choose one of {', '.join(found[name])}")
    return found[name][split]


def _part(parts: Any, split: str | None) -> Any:
    if split not in parts:
        given = "no split is chosen" if split is None else f"split={split!r} is not there"
        raise DataError(f"a DatasetDict with {', '.join(map(repr, parts))}: {given}; choose one with split=")
    return parts[split]


def _dataset(data: Any, name: str) -> Source:
    if not hasattr(data, "__len__"):
        raise DataError("a streamed dataset is not read to its end; take a part of it, as in "
                        "Dataset.from_list(list(data.take(1000)))")  # fmt: skip
    rows = [Row(dict(fields), i, f"dataset {name}, row {i}") for i, fields in enumerate(data)]
    if not rows:
        raise DataError(f"dataset {name} is empty; it must hold at least one row")
    return Source(name, f"dataset {name}", rows)


def _item(value: Any, index: int, texts: str) -> Row | ItemError:
    where = f"item {index} of the list"
    if isinstance(value, tuple) and len(value) == 2 and not texts:
        return Row({"positive": value[0], "negative": value[1]}, index, where)
    return as_row(value, index, where, texts=texts)
