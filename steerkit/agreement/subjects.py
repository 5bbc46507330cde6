"""The models of a parity run: a reference, and another copy of it for each backend, one at a time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from steerkit.backends.causal import CausalModel
from steerkit.backends.loading import BACKENDS, load
from steerkit.errors import InputError, ModelError

REFERENCE = "huggingface"


class Absent(Exception):  # noqa: N818 - a finding, not an error
    """A backend cannot run this model here; the message says why."""


def check_backends(backends: Any) -> tuple[str, ...]:
    """The backends meant.

    Raises:
        InputError: A name is not known, none is given, or one twice.
    """
    if backends == "installed":
        return tuple(BACKENDS)
    names = [backends] if isinstance(backends, str) else list(backends)
    for name in names:
        if name not in BACKENDS:
            raise InputError(f"backend {name!r} is not known; choose from {', '.join(BACKENDS)}, or 'installed'")
    if not names or len(set(names)) < len(names):
        raise InputError(f"backends={names} is not valid; name at least one, each once, or give 'installed'")
    return tuple(names)


class Subjects:
    """The reference and its copies.

    Args:
        source: What `load` takes, or what it returned for plain Hugging Face.
        tokenizer: As for `load`.

    Raises:
        InputError: The model is already run by another backend.
    """

    def __init__(self, source: Any, tokenizer: Any) -> None:
        loaded = isinstance(source, CausalModel)
        if loaded and tokenizer is not None:
            raise InputError("the loaded model has its tokenizer; leave tokenizer out")
        self._source = source if isinstance(source, str | Path) else None
        self._tokenizer = tokenizer
        self.reference: CausalModel = source if loaded else load(source, tokenizer=tokenizer)
        if self.reference.backend != REFERENCE:
            raise InputError(f"the model is run by {self.reference.backend}, which has taken over its modules; give "
                             "'demo', a folder, a hub id, or the transformers model as it was")  # fmt: skip

    def run_by(self, backend: str) -> CausalModel:
        """A copy under a backend, which takes over its modules. Drop it before the next one.

        Raises:
            Absent: The library is not installed, or it does not support the model.
        """
        _free()
        try:
            module, _, name = BACKENDS[backend].partition(":")
            cls = getattr(import_module(module), name)
        except ImportError as error:
            raise Absent(f"not installed: {error}") from error
        hf = self._copy()
        try:
            model: CausalModel = cls.wrap(hf, deepcopy(self.reference.tokenizer), name=self.reference.info.name)
        except (ModelError, ValueError, NotImplementedError) as error:
            raise Absent(f"does not support this model: {_first_line(error)}") from error
        return model

    def _copy(self) -> Any:
        if self._source is None:
            return deepcopy(self.reference.hf)
        return load(self._source, tokenizer=self._tokenizer).hf


def attention_of(model: CausalModel) -> str:
    """The attention implementation that really runs."""
    return model.attention or str(model.hf.config.get_text_config()._attn_implementation)


@contextmanager
def attending(model: CausalModel, implementation: str) -> Iterator[bool]:
    """A transformers model with another attention implementation for a while; gives whether it took it."""
    hf, config = model.hf, model.hf.config
    if attention_of(model) == implementation:
        yield True
        return
    subs = {key: getattr(config, key) for key in config.sub_configs if getattr(config, key, None) is not None}
    before = {"": config._attn_implementation, **{key: sub._attn_implementation for key, sub in subs.items()}}
    try:
        hf.set_attn_implementation(implementation)
    except (ValueError, ImportError):
        yield False
        return
    try:
        yield attention_of(model) == implementation
    finally:
        hf.set_attn_implementation(before)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _free() -> None:
    """What was dropped: bridges and traces refer to themselves, so counting references does not do it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
