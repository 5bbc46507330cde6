"""Running out of memory.

No test can exhaust a machine's memory safely, so a hook on the first block raises the very errors that torch's
allocators raise, for batches above a size. All else is real.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from recording_cases import check, choices, computed, files, refused_mask, same
from tiny import tiny

from steerkit.errors import ModelError
from steerkit.recording import record

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 137438953472 bytes."),
    MemoryError("Unable to allocate 2.00 GiB"),
]


@contextmanager
def memory_for(model: Any, tokens: int, error: BaseException = ERRORS[0]) -> Iterator[list[int]]:
    """Fail above that many tokens in a batch; gives the sizes of the batches that went through."""
    went: list[int] = []

    def fail(_module: Any, args: Any) -> None:
        size = args[0].shape[0] * args[0].shape[1]
        if size > tokens:
            raise error
        went.append(size)

    handle = model.parts.blocks[0].register_forward_pre_hook(fail)
    try:
        yield went
    finally:
        handle.remove()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_budget_is_halved_until_it_fits(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny("llama")
    with memory_for(model, 120, error) as went:
        store = record(model, choices(20))
    assert max(went) <= 120
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("out of memory with 20 pairs in a batch (")
    assert said[-1].startswith(f"memory ran out {len(said) - 1} times; batch_tokens=")
    for line in said[:-1]:
        tried, budget = [int(number) for number in re.findall(r"\((\d+) tokens.*batch_tokens=(\d+)", line)[0]]
        assert budget == tried // 2
    check(store, model, choices(20), "letter")


def test_what_was_computed_before_is_kept(tmp_path: Path) -> None:
    model = tiny("llama")
    with memory_for(model, 120) as went:
        store = record(model, choices(20), path=tmp_path / "s", batch_tokens=240, shard_pairs=5)
    first = len(went)
    assert store.verify().ok
    with memory_for(model, 120) as went:
        record(model, choices(20), path=tmp_path / "t", batch_tokens=120, shard_pairs=5)
    assert first <= len(went) + 1  # halved once, not shard by shard, and nothing twice
    same(store, record(model, choices(20)), 1e-5)


def test_a_pair_that_does_not_fit_is_named(tmp_path: Path) -> None:
    model = tiny("llama")
    with (
        memory_for(model, 36),
        pytest.raises(ModelError, match=r"pair 'q14' with its \d+ tokens does not fit in memory"),
    ):
        record(model, choices(20), path=tmp_path / "s")
    assert not (tmp_path / "s" / "manifest.json").exists()


def test_memory_that_runs_out_on_the_way_costs_nothing_stored(tmp_path: Path) -> None:
    model, options = tiny("llama"), {"batch_size": 1, "shard_pairs": 2}
    record(model, choices(20), path=tmp_path / "whole", **options)
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 9:
            raise ERRORS[0]

    handle = model.parts.blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match=r"pair 'q\d+' with its \d+ tokens does not fit in memory, also alone"):
        record(model, choices(20), path=tmp_path / "s", **options)
    handle.remove()
    assert len(list((tmp_path / "s" / "shards").iterdir())) == 3
    record(model, choices(20), path=tmp_path / "s", **options)
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_other_errors_are_not_taken_for_it() -> None:
    model = tiny("llama")
    handle = refused_mask(model)  # so that the plain path is taken, and its errors are nobody's to catch
    with memory_for(model, 120, RuntimeError("shapes do not fit")), pytest.raises(RuntimeError, match="shapes"):
        record(model, choices(20))
    handle.remove()
    assert computed(model, choices(20), dtype="float64") == 0
