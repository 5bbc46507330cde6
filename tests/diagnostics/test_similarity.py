from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from steerkit.diagnostics import layer_similarity, vector_similarity
from steerkit.errors import InputError, VectorError
from steerkit.vectors import SteeringVector


def vector(layers: int = 3, hidden: int = 5, **settings: object) -> SteeringVector:
    return SteeringVector(torch.randn(layers, hidden), layers=range(layers), **settings)


def test_each_entry_is_a_cosine() -> None:
    v, w = vector(), vector(layers=2)
    result = layer_similarity(v, w)
    assert result.values.shape == (3, 2)
    expected = torch.cosine_similarity(v.at(2), w.at(1), dim=0)
    torch.testing.assert_close(result.values[2, 1], expected)
    own = layer_similarity(v).values
    torch.testing.assert_close(own.diagonal(), torch.ones(3))
    torch.testing.assert_close(own, own.T)


def test_named_vectors_are_compared_at_a_layer() -> None:
    v, w = vector(), vector()
    result = vector_similarity({"v": v, "w": w, "-v": -v}, layer=1)
    torch.testing.assert_close(result.values[0, 1], v.cosine(w)[1])
    assert float(result.values[0, 2]) == pytest.approx(-1)
    assert result.to_frame().loc["v", "w"] == pytest.approx(float(v.cosine(w)[1]))
    assert json.loads(result.to_json())["rows"] == ["v", "w", "-v"]
    assert result.plot().data[0].zmin == -1


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="1 vector given"):
        vector_similarity({"v": vector()}, layer=1)
    with pytest.raises(VectorError, match="no layer 9"):
        vector_similarity({"v": vector(), "w": vector()}, layer=9)
    with pytest.raises(VectorError, match="different sites"):
        vector_similarity({"v": vector(), "w": vector(site="mlp_out")}, layer=1)
    with pytest.raises(VectorError, match="hidden sizes: 5 and 6"):
        layer_similarity(vector(), vector(hidden=6))
    with pytest.raises(VectorError, match="layer 0 is zero"):
        layer_similarity(0 * vector())


def test_published_cosines_across_layers(data_root: Path) -> None:
    caa = data_root / "data" / "caa"
    with (caa / "reference" / "vector_cosines.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["kind"], row["model"]) == ("layers", "7b-chat")]
    assert len(rows) == 7 * 32
    for name in sorted({row["behavior_a"] for row in rows}):
        read = [
            torch.load(caa / "vectors" / name / f"vec_layer_{layer}_Llama-2-7b-chat-hf.pt", weights_only=True)
            for layer in range(32)
        ]
        values = layer_similarity(SteeringVector(torch.stack(read), layers=range(32))).values
        for row in (row for row in rows if row["behavior_a"] == name):
            ours = float(values[int(row["layer_a"]), int(row["layer_b"])])
            assert ours == pytest.approx(float(row["cosine"]), abs=1e-6)
