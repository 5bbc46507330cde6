from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from steerkit.errors import LayerError, MismatchError, VectorError
from steerkit.vectors import SteeringVector, match_norms

INFO = {
    "name": "tiny", "num_layers": 4, "hidden_size": 3, "fingerprint": "aaaa", "tokenizer": "tttt", "template": "cccc",
}  # fmt: skip
META = {
    "model": INFO,
    "method": "mean_difference",
    "data": {"name": "sycophancy", "fingerprint": "dddd"},
    "read": "letter",
    "pairs": 7,
    "template": None,
    "version": "0.1.0",
    "residual_norm": {1: 10.0, 3: 20.0},
    "gap": {1: 2.0, 3: 4.0},
}


def vector(seed: int = 0, layers: tuple[int, ...] = (1, 3), hidden: int = 3, **settings: object) -> SteeringVector:
    values = torch.randn(len(layers), hidden, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(values, layers=layers, **settings)


finite = st.floats(-100, 100, allow_nan=False, width=32)
seeds = st.integers(0, 10**6)


@given(seeds, seeds, finite, finite)
@settings(deadline=None, max_examples=40)
def test_algebra_is_that_of_a_vector_space(first: int, second: int, a: float, b: float) -> None:
    v, w = vector(first), vector(second)
    assert v + w == w + v
    assert v - w == v + -w
    assert v - v - v == -v
    assert 2 * v == v + v
    torch.testing.assert_close((a * (v + w)).values, (a * v + a * w).values, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(((a + b) * v).values, (a * v + b * v).values, atol=1e-3, rtol=1e-5)


@given(seeds, st.floats(0.01, 100))
@settings(deadline=None, max_examples=40)
def test_direction_ignores_length_and_cosine_follows_the_sign(seed: int, coef: float) -> None:
    v = vector(seed)
    torch.testing.assert_close(v.unit().norms, torch.ones(2))
    torch.testing.assert_close((coef * v).unit().values, v.unit().values)
    torch.testing.assert_close(v.cosine(-coef * v), -torch.ones(2))
    torch.testing.assert_close((coef * v).norms, coef * v.norms)


def test_numpy_numbers_scale_it() -> None:
    v = vector()
    assert np.float64(2.0) * v == v * 2.0
    assert v / 2 == 0.5 * v


@pytest.mark.parametrize("bad", ["2", None, True, [1.0]])
def test_only_numbers_scale_it(bad: object) -> None:
    with pytest.raises(TypeError):
        vector() * bad  # type: ignore[operator]


def test_rows_follow_their_layers_in_any_order() -> None:
    v = SteeringVector(torch.tensor([[1.0], [2.0]]), layers=[9, 4])
    assert v.layers == (4, 9)
    assert v.at(9).item() == 1.0
    assert v[4].item() == 2.0
    assert list(v) == [4, 9]
    assert 9 in v
    assert 5 not in v
    assert len(v) == 2


def test_one_row_goes_with_one_layer() -> None:
    assert SteeringVector(torch.tensor([3.0, 4.0]), layers=13).norms.tolist() == [5.0]


def test_it_keeps_no_hold_on_what_it_was_given() -> None:
    values = torch.ones(1, 2, dtype=torch.bfloat16)
    v = SteeringVector(values, layers=[0])
    values += 1
    v.at(0).add_(5)
    assert v.values.dtype == torch.float32
    assert v.values.tolist() == [[1.0, 1.0]]


def test_select_takes_rows_and_what_is_known_of_them() -> None:
    v = vector(meta=META).select(3)
    assert v.layers == (3,)
    assert torch.equal(v.at(3), vector().at(3))
    assert v.meta["gap"] == {3: 4.0}
    assert v.residual_norms is not None
    assert v.residual_norms.tolist() == [20.0]


def test_provenance_follows_the_algebra() -> None:
    v = vector(meta=META)
    assert (-v).meta["gap"] == {1: -2.0, 3: -4.0}
    assert (3 * v).meta["gap"] == META["gap"]
    assert (3 * v).meta["made_from"] == "3 * (mean_difference of sycophancy)"
    total = v + vector(1, meta={**META, "data": {"name": "refusal"}, "read": "last"})
    assert total.meta["made_from"] == "(mean_difference of sycophancy) + (mean_difference of refusal)"
    assert total.meta["model"] == INFO
    assert not {"read", "gap", "pairs", "data"} & set(total.meta)
    assert (vector() + vector(1)).meta == {}


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    v = vector(meta=META, site="mlp_out")
    path = v.save(tmp_path / "new" / "v.safetensors")
    back = SteeringVector.load(path)
    assert back == v
    assert back.site == "mlp_out"
    assert back.meta == v.meta
    assert back.meta["gap"] == {1: 2.0, 3: 4.0}
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["layers"]) == [1, 3]
    assert [p.name for p in path.parent.iterdir()] == ["v.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = vector(meta=META).save(tmp_path / "v.safetensors")

    def broken(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        vector(1).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["v.safetensors"]
    assert SteeringVector.load(path) == vector()


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"values": torch.ones(1)}, tmp_path / "v.pt")
    with pytest.raises(VectorError, match="not a safetensors file"):
        SteeringVector.load(tmp_path / "v.pt")
    save_file({"values": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(VectorError, match="no steerkit vector"):
        SteeringVector.load(tmp_path / "w.safetensors")
    with pytest.raises(VectorError, match="there is no file"):
        SteeringVector.load(tmp_path / "x.safetensors")


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: SteeringVector(torch.ones(2, 3), layers=[1]), VectorError, "2 rows for layers=.1."),
    (lambda: SteeringVector(torch.ones(2, 3), layers=[1, 1]), VectorError, "each layer once"),
    (lambda: SteeringVector(torch.ones(1, 3), layers=[-1]), LayerError, "counted from 0"),
    (lambda: SteeringVector(torch.ones(0, 3), layers=[]), VectorError, "one row per layer"),
    (lambda: SteeringVector(torch.tensor([[1.0], [torch.nan]]), layers=[4, 7]), VectorError, "layer 7 holds NaN"),
    (lambda: SteeringVector(torch.tensor([[torch.inf]]), layers=[4]), VectorError, "layer 4 holds NaN or infinity"),
    (lambda: vector(meta={"when": object()}), VectorError, r"meta\['when'\] cannot be kept"),
    (lambda: vector(meta={"x": float("nan")}), VectorError, r"meta\['x'\] cannot be kept"),
    (lambda: vector().at(2), VectorError, "no layer 2; it has layers 1, 3"),
    (lambda: vector().select([1, 2]), VectorError, "no layer 2"),
    (lambda: vector() + vector(layers=(1, 2)), VectorError, r"layers 1, 3 and layers 1-2; .*\.select"),
    (lambda: vector() - vector(hidden=4), VectorError, "hidden sizes: 3 and 4"),
    (lambda: vector().cosine(vector(site="attn_out")), VectorError, "sites: resid_post and attn_out"),
    ((0 * vector()).unit, VectorError, "layer 1 is zero"),
    (lambda: vector() * float("inf"), VectorError, "multiplied by inf"),
    (lambda: vector() / 0, VectorError, "divided by 0"),
    (lambda: match_norms({}), VectorError, "at least one vector"),
    (lambda: match_norms({"a": vector(), "b": vector(layers=(1, 2))}), VectorError, "same layers"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input_is_named(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_it_fits_the_model_it_was_made_with() -> None:
    v = vector(meta=META)
    v.check_fits(INFO)
    v.check_fits({**INFO, "name": "moved", "fingerprint": ""})
    vector().check_fits({**INFO, "fingerprint": "other"})


@pytest.mark.parametrize("field", ["fingerprint", "tokenizer", "template"])
def test_another_model_is_refused_unless_told(field: str) -> None:
    v, other = vector(meta=META), {**INFO, field: "zzzz", "name": "cousin"}
    with pytest.raises(MismatchError, match=rf"{field} {INFO[field]} \(tiny\), here zzzz \(cousin\).*override=True"):
        v.check_fits(other)
    v.check_fits(other, override=True)


def test_another_shape_is_refused_whatever_is_told() -> None:
    with pytest.raises(VectorError, match="hidden size 3, tiny has 4"):
        vector(meta=META).check_fits({**INFO, "hidden_size": 4}, override=True)
    with pytest.raises(VectorError, match=r"up to 3, tiny has layers 0 to 2; .*\.select"):
        vector(meta=META).check_fits({**INFO, "num_layers": 3}, override=True)


def test_vectors_of_two_models_do_not_add_but_compare() -> None:
    v, w = vector(meta=META), vector(1, meta={**META, "model": {**INFO, "fingerprint": "bbbb"}})
    with pytest.raises(MismatchError, match="aaaa and bbbb"):
        v + w
    assert v.cosine(w).shape == (2,)


def test_it_shows_itself_as_a_table() -> None:
    v = SteeringVector(torch.tensor([[3.0, 4.0], [6.0, 8.0]]), layers=[1, 3], meta=META)
    assert repr(v).splitlines() == [
        "SteeringVector: mean_difference of sycophancy, resid_post, hidden size 2",
        "layer  norm  norm / residual norm",
        "    1     5                   0.5",
        "    3    10                   0.5",
    ]
    assert "<td>10</td>" in v._repr_html_()


@given(st.lists(seeds, min_size=1, max_size=5, unique=True))
@settings(deadline=None, max_examples=25)
def test_matched_vectors_have_the_mean_norm_and_their_own_direction(chosen: list[int]) -> None:
    raw = {str(seed): vector(seed) for seed in chosen}
    matched = match_norms(raw)
    mean = torch.stack([v.norms for v in raw.values()]).mean(0)
    for name, v in matched.items():
        torch.testing.assert_close(v.norms, mean)
        torch.testing.assert_close(v.cosine(raw[name]), torch.ones(2))
    for name, v in match_norms(matched).items():
        torch.testing.assert_close(v.values, matched[name].values)


# CAA's published tensors and tables.


@pytest.fixture(scope="module")
def published(data_root: Path) -> dict[str, SteeringVector]:
    found = {}
    for folder in sorted((data_root / "data" / "caa" / "vectors").iterdir()):
        rows = [
            torch.load(folder / f"vec_layer_{layer}_Llama-2-7b-chat-hf.pt", weights_only=True) for layer in range(32)
        ]
        found[folder.name] = SteeringVector(torch.stack(rows), layers=range(32))
    assert len(found) == 7
    return found


def _table(data_root: Path, name: str) -> list[dict[str, str]]:
    with (data_root / "data" / "caa" / "reference" / name).open() as file:
        return list(csv.DictReader(file))


def test_published_norms(data_root: Path, published: dict[str, SteeringVector]) -> None:
    rows = [row for row in _table(data_root, "vector_norms.csv") if row["model"] == "7b-chat"]
    matched = match_norms(published)
    assert len(rows) == 7 * 32
    for row in rows:
        at = int(row["layer"])
        for vectors, column in ((published, "raw_norm"), (matched, "normalized_norm")):
            assert float(vectors[row["behavior"]].norms[at]) == pytest.approx(float(row[column]), rel=1e-6, abs=6e-7)


def test_match_norms_is_the_papers_formula(published: dict[str, SteeringVector]) -> None:
    matched = match_norms(published)
    for layer in (0, 13, 31):
        stack = torch.stack([v.at(layer) for v in published.values()])
        mean = torch.stack([row.norm() for row in stack]).mean()
        for row, name in zip(stack, published, strict=True):
            torch.testing.assert_close(matched[name].at(layer), row * mean / row.norm(), rtol=1e-6, atol=1e-9)


def test_published_cosines_of_behaviors(data_root: Path, published: dict[str, SteeringVector]) -> None:
    rows = [r for r in _table(data_root, "vector_cosines.csv") if (r["kind"], r["model"]) == ("behaviors", "7b-chat")]
    assert len(rows) == 21
    for row in rows:
        ours = published[row["behavior_a"]].cosine(published[row["behavior_b"]])[int(row["layer_a"])]
        assert float(ours) == pytest.approx(float(row["cosine"]), abs=1e-6)
