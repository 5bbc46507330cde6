"""Folders that are written whole or not at all, and hold a model or an adapter, never both."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError

Kind = Literal["model", "adapter"]
MARKS: dict[Kind, str] = {"model": "config.json", "adapter": "adapter_config.json"}
"""The file by which transformers and peft know what a folder holds."""


def check_folder(folder: str | Path, kind: Kind, *, model: HuggingFaceModel, overwrite: bool) -> Path:
    """Where to write, once it is sure that nothing else lies there.

    Args:
        folder: The place.
        kind: What will be written.
        model: The base, whose own folder is never replaced.
        overwrite: Replace what was written there before, if it is of the same kind.

    Raises:
        InputError: The place is a file, holds something else, or holds the same kind without `overwrite`.
    """
    if not isinstance(folder, str | Path) or not str(folder):
        raise InputError(f"folder={folder!r} is not valid; give the path of a new folder")
    where = Path(folder).expanduser()
    if where.is_file():
        raise InputError(f"{where} is a file; give the path of a new folder")
    if not where.is_dir() or not any(where.iterdir()):
        return where
    other: Kind = "adapter" if kind == "model" else "model"
    if (where / MARKS[other]).exists():
        raise InputError(f"{where} holds {_a(other)} ({MARKS[other]}); with both in one folder a loader cannot tell "
                         f"which is meant: give the {kind} a folder of its own")  # fmt: skip
    if not (where / MARKS[kind]).exists():
        raise InputError(f"{where} holds other files; give the path of a new or empty folder")
    if where.resolve() in {Path(name).resolve() for name in (model.info.name, model.hf.name_or_path) if name}:
        raise InputError(f"{where} is where the base model lies; give another folder")
    if not overwrite:
        raise InputError(f"{where} holds {_a(kind)} already; give another folder, or overwrite=True to replace it")
    return where


def _a(kind: Kind) -> str:
    return f"{'an' if kind == 'adapter' else 'a'} {kind}"


@contextmanager
def whole_folder(where: Path) -> Iterator[Path]:
    """A folder beside the place, which takes the place when all has gone well and is removed when it has not."""
    where.parent.mkdir(parents=True, exist_ok=True)
    draft, old = (where.with_name(f".{where.name}.{os.getpid()}.{end}") for end in ("draft", "old"))
    draft.mkdir()
    try:
        yield draft
        if where.exists():
            where.rename(old)
        draft.rename(where)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if old.exists() and not where.exists():
            old.rename(where)
        shutil.rmtree(old, ignore_errors=True)
