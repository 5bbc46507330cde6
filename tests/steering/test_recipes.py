from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny

from steerkit.errors import MismatchError, SteeringError
from steerkit.steering import Ablate, Add, Clamp, Edit, PreserveNorm, Steer
from steerkit.vectors import SteeringVector

WIDTH = 32


def _vector(seed: int = 0) -> SteeringVector:
    values = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(values, layers=[1, 2], meta={"residual_norm": {"1": 2.0, "2": 3.0}})


@pytest.mark.parametrize("operation", [Add(), Ablate(), Clamp(), PreserveNorm(), PreserveNorm(Ablate())])
@pytest.mark.parametrize("positions", ["all", "prompt", 3, [0, -1], slice(1, None, 2)])
def test_saved_edits_are_the_same_edits(tmp_path: Path, operation: Any, positions: Any) -> None:
    steer = Steer(tiny()).apply(operation, _vector(), layer=[1, 2], coef=0.7, positions=positions)
    steer.apply(operation, torch.ones(WIDTH), layer=3, coef=-0.5)
    again = Steer.load(steer.save(tmp_path / "edits.safetensors"), tiny())
    assert [repr(edit) for edit in again.edits] == [repr(edit) for edit in steer.edits]
    assert torch.equal(again.forward("what now?"), steer.forward("what now?"))


def test_units_sites_and_coefficients_a_row_come_back(tmp_path: Path) -> None:
    coef = torch.tensor([0.5, -1.0])
    steer = Steer(tiny()).add(_vector(), layer=1, coef=coef, unit="residual")
    steer.add(torch.ones(WIDTH), layer=0, site="attn_out")
    again = Steer.load(steer.save(tmp_path / "edits.safetensors"), tiny())
    assert torch.equal(again.forward(["one", "other"]), steer.forward(["one", "other"]))
    assert (again.edits[0].unit, again.edits[1].site) == ("residual", "attn_out")


def test_edits_of_one_steer_go_to_another() -> None:
    model = tiny()
    first = Steer(model).add(_vector(), layer=1).ablate(_vector(1), layer=2)
    assert torch.equal(Steer(model).extend(first.edits).forward("hello"), first.forward("hello"))


def test_a_vector_of_another_model_is_refused_or_taken_on_request(tmp_path: Path) -> None:
    model, other = tiny(), tiny(seed=1)
    vector = SteeringVector(torch.ones(1, WIDTH), layers=[1], meta={"model": model.info.as_dict()})
    path = Steer(model).add(vector, layer=1).save(tmp_path / "edits.safetensors")
    with pytest.raises(MismatchError):
        Steer.load(path, other)
    assert Steer.load(path, other, override=True).edits[0].override


@pytest.mark.usefixtures("as_user")
def test_what_cannot_be_saved_or_read_is_refused(tmp_path: Path) -> None:
    model = tiny()
    with pytest.raises(SteeringError, match="no edits to save"):
        Steer(model).save(tmp_path / "none")
    mine = Steer(model).apply(lambda hidden, *_: hidden, torch.ones(WIDTH), layer=1)
    with pytest.raises(SteeringError, match="operation of your own"):
        mine.save(tmp_path / "mine")
    rows = Steer(model).rows([[Edit(torch.ones(WIDTH), layer=1)], []])
    with pytest.raises(SteeringError, match="single rows"):
        rows.save(tmp_path / "rows")
    with pytest.raises(SteeringError, match="there is no file"):
        Steer.load(tmp_path / "absent", model)
    with pytest.raises(SteeringError, match="this version reads"):
        Steer.load(_vector().save(tmp_path / "vector"), model)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SteeringError, match="not a safetensors file"):
        Steer.load(tmp_path / "text", model)
    header = {"format": "steerkit.edits/1", "edits": '[{"operation": "eval", "vector": null, "coef": 1, '
              '"positions": "all", "layer": 1, "site": null, "unit": "raw", "override": false}]'}  # fmt: skip
    save_file({"0": torch.ones(WIDTH)}, tmp_path / "strange", metadata=header)
    with pytest.raises(SteeringError, match="'eval' is not known"):
        Steer.load(tmp_path / "strange", model)
    assert not list(tmp_path.glob(".*"))
