from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import about, edit, files, fill

from steerkit.errors import StoreError
from steerkit.store import verify
from steerkit.store.seals import seal_tensors


@pytest.fixture(scope="module", params=["pooled", "each"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "s"
    fill(folder, about(9, kind=request.param, max_tokens=3, dtype="bfloat16"))
    return folder


def test_a_whole_store_is_whole(whole: Path) -> None:
    found = verify(whole)
    content = files(whole)
    assert found.ok
    assert (found.files, found.nbytes) == (len(content), sum(map(len, content.values())))
    assert "every byte is as it was written" in repr(found)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_any_changed_byte_of_any_file_is_found(whole: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(one for one in whole.rglob("*") if one.is_file())))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    flip = data.draw(st.integers(1, 255))
    path.write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
    try:
        found = verify(whole)
    finally:
        path.write_bytes(content)
    assert not found.ok
    assert str(path.relative_to(whole)) in {problem.file for problem in found.problems}


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_file_cut_short_or_made_longer_is_found(whole: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(one for one in whole.rglob("*") if one.is_file())))
    content = path.read_bytes()
    changed = data.draw(
        st.one_of(st.integers(0, len(content) - 1).map(lambda at: content[:at]), st.just(content + b" "))
    )
    path.write_bytes(changed)
    try:
        found = verify(whole)
    finally:
        path.write_bytes(content)
    assert str(path.relative_to(whole)) in {problem.file for problem in found.problems}


def test_every_byte_of_a_small_store_counts(tmp_path: Path) -> None:
    """Not by chance: each one of them."""
    fill(tmp_path / "s", about(1, hidden=1, layers=(0,)))
    for path in [one for one in (tmp_path / "s").rglob("*") if one.is_file()]:
        content = path.read_bytes()
        for at in range(len(content)):
            path.write_bytes(content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :])
            assert not verify(tmp_path / "s").ok, f"byte {at} of {path.name}"
        path.write_bytes(content)
    assert verify(tmp_path / "s").ok


@pytest.mark.parametrize("name", ["manifest.json", "index.jsonl", "shards/00000008-00000015.safetensors"])
def test_a_missing_file_is_found(whole: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(whole, tmp_path / "s")
    (tmp_path / "s" / name).unlink()
    (problem,) = verify(tmp_path / "s").problems
    assert problem.file == name
    assert ("is missing" in problem.wrong) or ("holds no manifest.json" in problem.wrong)


def test_a_foreign_shard_is_found_though_it_proves_itself(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "s")
    other = fill(tmp_path / "t", about(9, kind="pooled", read="last", dtype="bfloat16"))
    assert other.verify().ok
    name = "shards/00000000-00000007.safetensors"
    shutil.copy(tmp_path / "t" / name, tmp_path / "s" / name)
    (problem,) = verify(tmp_path / "s").problems
    assert (problem.file, problem.wrong) == (name, "it belongs to another store")
    assert "run the same record again" in problem.todo


def test_a_shard_of_the_same_store_in_the_wrong_place_is_found(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "s")
    place = tmp_path / "s" / "shards"
    shutil.copy(place / "00000000-00000007.safetensors", place / "00000008-00000015.safetensors")
    (problem,) = verify(tmp_path / "s").problems
    assert "it holds the rows [0, 7], not [8, 15]" in problem.wrong


def test_shards_of_two_halves_of_a_store_are_told_apart(tmp_path: Path) -> None:
    """Same model, same data, same sizes: only the pairs differ."""
    first, second = fill(tmp_path / "s", about(8)).split(test=4)
    first.save(tmp_path / "a")
    second.save(tmp_path / "b")
    name = "shards/00000000-00000007.safetensors"
    shutil.copy(tmp_path / "a" / name, tmp_path / "b" / name)
    assert [problem.wrong for problem in verify(tmp_path / "b").problems] == ["it belongs to another store"]


def test_a_foreign_index_and_a_foreign_manifest_are_found(tmp_path: Path) -> None:
    fill(tmp_path / "s", about(9))
    fill(tmp_path / "t", about(9, read="last"))
    (tmp_path / "s" / "index.jsonl").write_text((tmp_path / "s" / "index.jsonl").read_text().replace("p3", "q3"))
    (problem,) = verify(tmp_path / "s").problems
    assert problem.file == "index.jsonl"
    assert "sha256 is not that in the manifest" in problem.wrong
    os.replace(tmp_path / "t" / "manifest.json", tmp_path / "s" / "manifest.json")  # noqa: PTH105
    assert {problem.wrong for problem in verify(tmp_path / "s").problems} >= {"it belongs to another store"}


def test_a_manifest_changed_by_hand_is_found_and_not_opened(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", about(9))
    path = tmp_path / "s" / "manifest.json"
    path.write_text(path.read_text().replace('"resid_post"', '"resid_mid"'))
    (problem,) = verify(tmp_path / "s").problems
    assert "was changed after it was written" in problem.wrong
    with pytest.raises(StoreError, match="was changed after it was written"):
        type(store).open(tmp_path / "s")


def test_files_too_many_are_found_and_drafts_are_not_minded(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "s")
    place = tmp_path / "s" / "shards"
    shutil.copy(place / "00000000-00000007.safetensors", place / "00000018-00000025.safetensors")
    (tmp_path / "s" / "notes.txt").write_text("...")
    (place / "00000000-00000007.safetensors.tmp").write_text("half")
    found = {problem.file: problem.wrong for problem in verify(tmp_path / "s").problems}
    assert found == {
        "shards/00000018-00000025.safetensors": "does not belong to this store",
        "notes.txt": "does not belong to a store",
    }


def test_offsets_that_do_not_fit_are_found(tmp_path: Path) -> None:
    """A shard that another program wrote: sealed, but wrong."""
    from steerkit.store.manifest import identity

    store = fill(tmp_path / "s", about(2, kind="each", max_tokens=3))
    tokens = {f"layer.{layer}": torch.zeros(5, 4) for layer in (0, 2)}
    head = {"store": identity(store.manifest), "rows": [0, 3]}
    bad = seal_tensors({**tokens, "offsets": torch.tensor([0, 1, 2, 3, 4])}, head)
    (tmp_path / "s" / "shards" / "00000000-00000003.safetensors").write_bytes(bad)
    assert [problem.wrong for problem in verify(tmp_path / "s").problems] == ["its offsets do not fit its tokens"]


def test_another_schema_is_a_problem_too(tmp_path: Path) -> None:
    fill(tmp_path / "s", about(2))
    edit(tmp_path / "s", schema_version=9)
    assert "has schema_version 9" in verify(tmp_path / "s").problems[0].wrong


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing lies there"):
        verify(tmp_path / "s")
