"""Differences on disk: what is kept, sealed, gone on with, pooled and shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from difference_cases import TOLD, dual, online, preferences, scit
from tiny import tiny

from steerkit.adapters import attach
from steerkit.errors import InputError, LayerError, MismatchError, StoreError
from steerkit.extraction import extract
from steerkit.recording import record
from steerkit.store import ActivationStore, StoreWriter, verify
from steerkit.training.differences.collecting import collect_differences
from steerkit.training.differences.stored_differences import Differences
from steerkit.training.teaching.instructions import Instructions

OPTIONS: dict[str, Any] = {"instructions": TOLD, "layers": [1, 2], "responses": "both", "progress": False}


def collect(path: Path | None = None, **changes: Any) -> Differences:
    model = changes.pop("model", None) or tiny()
    return collect_differences(model, preferences(), path=path, **{**OPTIONS, **changes})


def everything(found: Any, model: Any, **options: Any) -> Any:
    with attach(model, found.adapters) as attached:
        return found.take(attached, list(range(12)), **options)


def test_a_store_holds_differences_and_base_states_apart(tmp_path: Path) -> None:
    model = tiny()
    stored, fresh = collect(tmp_path / "d", model=model), online(model=model)
    kept, computed = everything(stored, model), everything(fresh, model)
    torch.testing.assert_close(kept.shift, computed.shift, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(kept.base, computed.base, atol=1e-5, rtol=1e-4)
    assert stored.samples == fresh.samples
    sides = stored.store.rows(2, [4])
    assert torch.equal(sides.positive.values, kept.shift[1][_span(stored, 4)])
    assert torch.equal(sides.negative.values, kept.base[1][_span(stored, 4)])


def test_differences_of_heads_are_as_wide_as_the_heads(tmp_path: Path) -> None:
    model = tiny("qwen3", head_dim=16)
    stored, fresh = collect(tmp_path / "d", model=model, site="z"), online(model=model, site="z")
    torch.testing.assert_close(everything(stored, model).shift, everything(fresh, model).shift, atol=1e-5, rtol=1e-4)
    assert stored.store.hidden_size == 64
    assert (stored.vector().site, stored.vector().num_heads) == ("z", 4)


def _span(found: Differences, number: int) -> slice:
    first = found.samples.inside(list(range(number)))
    return slice(first, first + found.samples[number].inside)


def test_it_reads_the_same_again_from_disk_and_is_whole(tmp_path: Path) -> None:
    model = tiny()
    made = collect(tmp_path / "d", model=model)
    again = Differences.open(tmp_path / "d", model=model)
    assert torch.equal(everything(again, model).shift, everything(made, model).shift)
    assert again.samples == made.samples
    assert again.describe() == made.describe()
    assert again.verify().ok


@pytest.mark.parametrize("name", ["shards", "manifest.json", "index.jsonl"])
def test_a_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    collect(tmp_path / "d")
    path = tmp_path / "d" / name
    path = next(path.iterdir()) if path.is_dir() else path
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    assert not verify(tmp_path / "d").ok


def test_an_interrupted_collection_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = collect(tmp_path / "whole", shard_responses=2)
    put, done = StoreWriter.put, []

    def interrupted(self: StoreWriter, *args: Any) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(args[0])
        put(self, *args)

    monkeypatch.setattr(StoreWriter, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "d", shard_responses=2)
    monkeypatch.setattr(StoreWriter, "put", put)
    with pytest.raises(StoreError, match="incomplete"):
        Differences.open(tmp_path / "d")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d" / "shards").iterdir()}
    assert len(before) == 3
    collect(tmp_path / "d", shard_responses=2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for path in sorted((tmp_path / "d" / "shards").iterdir()):
        assert path.read_bytes() == (tmp_path / "whole" / "shards" / path.name).read_bytes()
    assert len(whole) == 12


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"instructions": Instructions("Be kind.", "Be rude.")}, "contrast.instructions"),
        ({"layers": [1, 3]}, "layers"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"max_tokens": 2}, "max_tokens"),
        ({"responses": "chosen"}, "contrast.responses"),
        ({"positions": "generation"}, "contrast.positions"),
        ({"pool": "example"}, "contrast.pool"),
        ({"keep_base": False}, "contrast.keep_base"),
        ({"site": "mlp_out"}, "site"),
        ({"model": tiny(seed=5)}, "model.fingerprint"),
        ({"model": tiny(chat=False)}, "model.template"),
    ],
)
def test_a_store_of_something_else_is_not_gone_on_with(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    collect(tmp_path / "d")
    with pytest.raises(MismatchError, match=field):
        collect(tmp_path / "d", **changes)


def test_other_weights_are_not_gone_on_with(tmp_path: Path) -> None:
    model = tiny()
    collect(tmp_path / "d", model=model, taught=scit(model, seed=1), instructions=None)
    with pytest.raises(MismatchError, match=r"contrast\.weights"):
        collect(tmp_path / "d", model=model, taught=scit(model, seed=2), instructions=None)
    with pytest.raises(MismatchError, match=r"contrast\.base"):
        collect(tmp_path / "d", model=model, taught=scit(model, seed=1), instructions=None, start="base")


@pytest.mark.parametrize("keep_base", [True, False])
@pytest.mark.parametrize("pool", ["token", "example", "global"])
def test_pools_and_bases_are_what_they_say(tmp_path: Path, pool: Any, keep_base: bool) -> None:
    model = tiny()
    each = everything(collect(model=model), model)
    found = collect(tmp_path / "d", model=model, pool=pool, keep_base=keep_base)
    taken = everything(found, model)
    torch.testing.assert_close(taken.base, each.base, atol=1e-5, rtol=1e-4)
    spans = [_span(found, number) for number in range(12)]
    wanted = each.shift.clone()
    for span in spans if pool == "example" else []:
        wanted[:, span] = each.shift[:, span].mean(1, keepdim=True)
    if pool == "global":
        wanted[:] = each.shift.mean(1, keepdim=True)
    torch.testing.assert_close(taken.shift, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.mean, each.shift.mean(1), atol=1e-5, rtol=1e-4)
    assert everything(found, model, base=False).base is None
    rows = found.store.rows(1, [0])
    assert len(rows.positive.values) == (found.samples[0].inside if pool == "token" else 1)
    assert len(rows.negative.values) == (found.samples[0].inside if keep_base else 0)
    assert found.verify().ok


def test_the_student_begins_with_the_weights_of_the_base(tmp_path: Path) -> None:
    model = tiny()
    taught = dual(model)
    made = collect(tmp_path / "d", model=model, taught=taught, instructions=None)
    assert made.start == ("good",)
    assert list(made.adapters) == ["good"]
    found = Differences.open(tmp_path / "d", model=model)
    with pytest.raises(MismatchError, match="taught="):
        _ = found.adapters
    assert Differences.open(tmp_path / "d", model=model, taught=taught).adapters == {"good": taught.weights["good"]}
    other = dual(tiny(seed=3))
    other.weights["good"].weights[next(iter(other.weights["good"].weights))].add_(1)
    with pytest.raises(MismatchError, match="other weights"):
        Differences.open(tmp_path / "d", model=model, taught=other)


def test_another_model_is_refused(tmp_path: Path) -> None:
    collect(tmp_path / "d")
    for other in (tiny(seed=4), tiny("qwen2")):
        with pytest.raises(MismatchError, match=r"model\."):
            Differences.open(tmp_path / "d", model=other)
    assert len(Differences.open(tmp_path / "d", model=tiny(seed=4), override=True)) == 12
    half = tiny()
    half.info = type(half.info)(**{**half.info.as_dict(), "dtype": "bfloat16"})
    with pytest.raises(MismatchError, match="bfloat16"):
        Differences.open(tmp_path / "d", model=half)


def test_a_store_of_pairs_holds_no_differences_and_the_other_way_round(tmp_path: Path) -> None:
    model = tiny()
    record(model, preferences().pairs(), path=tmp_path / "pairs", read="each", progress=False)
    with pytest.raises(StoreError, match="no differences"):
        Differences.open(tmp_path / "pairs")
    found = collect(tmp_path / "d", model=model)
    for work in (lambda: extract(found.store), lambda: extract(found.store.pool("mean")), found.store.to_numpy):
        with pytest.raises(InputError, match=r"Differences\.open"):
            work()


def test_layers_that_are_not_there_are_refused() -> None:
    model = tiny()
    found = collect(model=model)
    for bad in ([3], [1, 1], []):
        with pytest.raises(LayerError):
            found.select(bad)
    one = found.select([2])
    assert torch.equal(everything(one, model).shift[0], everything(found, model).shift[1])
    assert torch.equal(one.mean[0], found.mean[1])


def test_the_mean_is_a_steering_vector() -> None:
    model = tiny()
    found = collect(model=model)
    vector = found.vector()
    assert torch.equal(vector.values, found.mean)
    assert vector.layers == (1, 2)
    assert vector.meta["model"]["fingerprint"] == model.info.fingerprint
    assert vector.residual_norms is not None


def test_half_the_bytes_are_read_as_float32() -> None:
    model = tiny()
    whole, half = everything(collect(model=model), model), everything(collect(model=model, dtype="bfloat16"), model)
    assert torch.equal(half.shift, whole.shift.bfloat16().float())
    assert torch.equal(half.base, whole.base.bfloat16().float())


def test_the_table_holds_what_the_tokens_say() -> None:
    model = tiny()
    found = collect(model=model)
    rows, one = everything(found, model), found.summary.layers[1]
    lengths = rows.shift[1].norm(dim=-1)
    assert one.layer == 2
    assert one.norm == pytest.approx(float(lengths.mean()), rel=1e-5)
    assert one.spread == pytest.approx(float(lengths.std(correction=0)), rel=1e-5)
    assert one.base_norm == pytest.approx(float(rows.base[1].norm(dim=-1).mean()), rel=1e-5)
    assert one.rho == pytest.approx(one.norm / one.base_norm)
    mean = rows.shift[1].mean(0).norm()
    assert one.consistency == pytest.approx(float(mean / lengths.mean()), rel=1e-5)
    assert one.difficulty == pytest.approx(1 - float(mean**2 / lengths.square().mean()), rel=1e-5)
    firsts = torch.tensor([found.samples.inside(list(range(i))) for i in range(12)])
    assert float(found.summary.by_position[1, 0]) == pytest.approx(float(lengths[firsts].mean()), rel=1e-5)
    assert found.summary.counts[0] == 12
    assert found.rho(2) > 0
    assert "hidden_states" in repr(found)
    assert len(found.plot().data) == 2
    assert found.summary.to_frame()["layer"].tolist() == [1, 2]
    assert '"by_position"' in found.summary.to_json()


def test_equal_differences_are_fully_consistent() -> None:
    from steerkit.training.differences.difference_table import summarize

    found = collect()
    for layer in found.layers:
        for rows, _ in (found.store._source._shards[span] for span in found.store._source._shards):
            rows[layer][:] = torch.arange(32.0)
    found.__dict__.pop("mean", None)
    one = summarize(found).layers[0]
    assert one.consistency == pytest.approx(1)
    assert one.difficulty == pytest.approx(0, abs=1e-6)
    assert one.spread == pytest.approx(0, abs=1e-3)


def test_an_activation_store_of_pairs_keeps_its_identity(tmp_path: Path) -> None:
    """Stores of before, whose manifests name no contrast, are still theirs."""
    from steerkit.store.manifest import STORE_FIELDS, identity

    store = record(tiny(), preferences().pairs(), path=tmp_path / "s", read="last", progress=False)
    assert "contrast" not in store.manifest
    assert "contrast" not in STORE_FIELDS
    with_one = {**store.manifest, "contrast": {"mode": "none"}}
    assert identity(with_one) != identity(store.manifest)
    assert ActivationStore.open(tmp_path / "s").verify().ok


@pytest.mark.slow
def test_two_processes_fill_one_store(tmp_path: Path) -> None:
    program = Path(__file__).with_name("collecting_apart.py")
    workers = [
        subprocess.Popen(
            [sys.executable, str(program), str(tmp_path / "d")],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    assert [one.communicate(timeout=240)[0].strip() for one in workers] == ["12", "12"]
    collect(tmp_path / "alone", shard_responses=2)
    for path in sorted((tmp_path / "alone" / "shards").iterdir()):
        assert path.read_bytes() == (tmp_path / "d" / "shards" / path.name).read_bytes()


def test_base_states_that_are_not_kept_are_read_from_the_taught_model() -> None:
    model = tiny()
    options: dict[str, Any] = {"model": model, "taught": scit(model), "instructions": None}
    kept, anew = collect(**options), collect(**options, keep_base=False)
    torch.testing.assert_close(everything(anew, model).base, everything(kept, model).base, atol=1e-5, rtol=1e-4)
