from __future__ import annotations

import json
import os
import pickle
import struct
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from store_cases import about, files, fill, interrupt, make

from steerkit.errors import StoreError
from steerkit.store import ActivationStore, Ragged, StoreWriter, verify
from steerkit.store.storage import LocalFolder, RemoteFolder, open_folder


class Counting(MemoryFileSystem):  # type: ignore[misc]
    """A remote place in memory that remembers which bytes it was asked for."""

    protocol = "counting"
    read: ClassVar[list[tuple[str, int, int]]] = []

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        data: bytes = super().cat_file(path, start=start, end=end, **more)
        self.read.append((path, start or 0, (start or 0) + len(data)))
        return data


fsspec.register_implementation("counting", Counting)


@pytest.fixture
def address() -> str:
    return f"counting://{uuid.uuid4().hex}/acts/s"


@pytest.fixture(params=["memory", "file", "counting"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/s" if request.param == "file" else f"{request.param}://{uuid.uuid4().hex}/acts/s"


@pytest.mark.parametrize("kind", ["pooled", "each"])
def test_a_store_is_the_same_anywhere(anywhere: str, tmp_path: Path, kind: str) -> None:
    manifest = about(21, kind=kind, max_tokens=3)
    here = fill(tmp_path / "here", manifest)
    there = fill(anywhere, manifest)
    assert there.verify().ok
    assert str(there.path) == anywhere.removeprefix("file://")
    folder, local = open_folder(anywhere), files(tmp_path / "here")
    assert {name: b"".join(folder.chunks(name)) for name in local} == local
    opened = ActivationStore.open(anywhere)
    assert opened.ids == here.ids
    for a, b in ((here[2], opened[2]), (here.rows(0, [20, 3, 4, 5, 3]), opened.rows(0, [20, 3, 4, 5, 3]))):
        for one, other in ((a.positive, b.positive), (a.negative, b.negative)):
            flat = [side.values if isinstance(side, Ragged) else side for side in (one, other)]
            assert torch.equal(*flat)
    back = opened.save(tmp_path / "back")
    assert files(tmp_path / "back") == local
    assert back.save(anywhere + "2").verify().ok


def test_going_on_and_overwriting_anywhere(anywhere: str, tmp_path: Path) -> None:
    manifest = about(30)
    with pytest.raises(KeyboardInterrupt):
        interrupt(anywhere, manifest, after=3)
    with pytest.raises(StoreError, match="5 of 8 shards are missing"):
        ActivationStore.open(anywhere)
    with StoreWriter(anywhere, manifest) as writer:
        assert len(writer.missing) == 5
    assert fill(anywhere, manifest).verify().ok
    assert len(fill(anywhere, about(9), overwrite=True)) == 9
    assert len(open_folder(anywhere).names("shards")) == 3


def test_damage_is_found_anywhere(address: str) -> None:
    fill(address, about(9))
    place = fsspec.filesystem("counting")
    (name,) = [one for one in place.find(address) if "00000000-00000007" in one]
    data = bytearray(place.cat_file(name))
    data[-1] ^= 1
    place.pipe_file(name, bytes(data))
    assert [problem.file for problem in verify(address).problems] == ["shards/00000000-00000007.safetensors"]
    place.pipe_file(name, bytes(data)[:-1])
    with pytest.raises(StoreError, match="is damaged"):
        ActivationStore.open(address)[2]


def test_one_layer_reads_only_the_bytes_of_that_layer(address: str) -> None:
    """Measured: beside the headers not one byte of another layer, and each of its own once."""
    manifest = about(600, hidden=64, layers=(0, 1, 2, 3, 4, 5), rows_per_shard=400)
    wanted = fill(address, manifest).paired(4)
    store = ActivationStore.open(address)
    Counting.read.clear()
    found = store.paired(4)
    assert torch.equal(found.positive, wanted.positive)
    shards = [one for one in Counting.read if "/shards/" in one[0]]
    heads = [end - start for _, start, end in shards if start == 0]
    rows = [end - start for _, start, end in shards if start > 0]
    assert sum(rows) == 1200 * 64 * 4
    assert len(heads) == len(rows) == 3
    assert max(heads) <= 8192
    Counting.read.clear()
    some = store.rows(4, [7, 8, 9, 500])
    assert torch.equal(some.positive, wanted.positive[[7, 8, 9, 500]])  # type: ignore[arg-type]
    assert sorted(end - start for _, start, end in Counting.read) == [2 * 64 * 4, 3 * 2 * 64 * 4]


def test_on_disk_the_bytes_of_other_layers_and_rows_may_be_anything(tmp_path: Path) -> None:
    manifest = about(600, hidden=64, layers=(0, 1, 2), rows_per_shard=400)
    wanted = fill(tmp_path / "s", manifest).paired(1)
    for path in (tmp_path / "s" / "shards").iterdir():
        raw = bytearray(path.read_bytes())
        size = struct.unpack("<Q", raw[:8])[0]
        for name, about_it in json.loads(raw[8 : 8 + size]).items():
            if name in ("layer.0", "layer.2"):
                start, end = about_it["data_offsets"]
                raw[8 + size + start : 8 + size + end] = b"\xff" * (end - start)
        path.write_bytes(raw)
    store = ActivationStore.open(tmp_path / "s")
    assert torch.equal(store.paired(1).negative, wanted.negative)
    assert store.paired(0).negative.isnan().all()


def test_a_file_that_shrinks_under_an_open_store_is_an_error_not_a_crash(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", about(600, hidden=64, rows_per_shard=1200))
    assert len(store.paired(2)) == 600
    path = next((tmp_path / "s" / "shards").iterdir())
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(StoreError, match=r"is damaged \(it ends before its tensor layer.2 does\)"):
        store.paired(2)
    with pytest.raises(StoreError, match="is damaged"):
        store.rows(2, [500])


def test_what_is_read_can_be_written_to_and_changes_nothing(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", about(9))
    store.paired(2).positive.zero_()
    store.rows(2, [1]).positive.zero_()  # type: ignore[union-attr]
    assert bool(store.paired(2).positive.any())
    assert verify(tmp_path / "s").ok


def test_many_shards_keep_few_files_open(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", about(200, rows_per_shard=2))
    store.rows(2, list(range(200)))
    folder = store._source.folders[0]
    assert isinstance(folder, LocalFolder)
    assert len(folder._maps) == 64
    again = pickle.loads(pickle.dumps(store))
    assert torch.equal(again.paired(2).positive, store.paired(2).positive)


def test_a_write_that_fails_leaves_nothing_half_done(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.write("file", [b"old"])

    def fill_it() -> Any:
        yield b"ne"
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"No space left on device. What was stored before is kept"):
        folder.write("file", fill_it())
    assert files(tmp_path) == {"file": b"old"}
    remote = open_folder(f"memory://{uuid.uuid4().hex}")
    with pytest.raises(StoreError, match="No space left"):
        remote.write("file", fill_it())
    assert remote.names() == []


def test_gather_is_the_same_here_and_there(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)
    here, there = LocalFolder(tmp_path), open_folder(f"memory://{uuid.uuid4().hex}")
    assert isinstance(there, RemoteFolder)
    for folder in (here, there):
        folder.write("f", [data.tobytes()])
        rows = np.array([9, 3, 4, 4, 60])
        assert np.array_equal(folder.gather("f", 10, 16, rows), data[10 : 10 + 61 * 16].reshape(-1, 16)[rows])
        assert folder.sizes() == {"f": 1000}


def test_a_draft_may_take_its_place_while_files_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LocalFolder(tmp_path)
    folder.write("whole", [b"12"])
    draft = tmp_path / "new.tmp"
    draft.write_bytes(b"1")
    listed = list(os.scandir(tmp_path))
    draft.rename(tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda _: nullcontext(listed))
        assert folder.sizes() == {"whole": 2}
    assert folder.sizes() == {"whole": 2, "new": 1}


def test_an_address_nobody_knows() -> None:
    with pytest.raises(StoreError, match="nowhere://bucket/s cannot be reached"):
        ActivationStore.open("nowhere://bucket/s")
    with pytest.raises(StoreError, match="is not an activation store"):
        ActivationStore.open(f"memory://{uuid.uuid4().hex}/s")


def test_a_view_in_memory_has_no_files() -> None:
    assert make().verify().ok
    assert make().verify().files == 0
