"""The whole road on a tiny model: teach, read, distil, measure; refusals before anything is taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from difference_cases import TOLD, dual, preferences, scit
from tiny import tiny

from steerkit.adapters import Adapter, Lora
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import DataError, InputError, LayerError, MismatchError
from steerkit.training import alignment as module
from steerkit.training.alignment import rahf
from steerkit.training.differences.stored_differences import Differences
from steerkit.training.distilling.distilled import Distilled
from steerkit.training.fitting.fit import Fit
from steerkit.training.preferring import measure_preferring
from steerkit.training.rahf_report import Rahf
from steerkit.training.teaching.instructions import Instructions
from steerkit.training.teaching.taught import Taught

SHORT = Fit(steps=2, batch=4, lr=1e-3)


def run(model: HuggingFaceModel, mode: Any = "scit", **changes: Any) -> Rahf:
    options: dict[str, Any] = {
        "instructions": None if mode == "dual" else TOLD, "alpha": 0.05, "layers": [1, 2], "fit": SHORT,
        "teach_fit": SHORT, "teach_lora": Lora(r=2), "lora": Lora(r=2), "progress": False,
    }  # fmt: skip
    return rahf(model, preferences(24), mode=mode, **{**options, **changes})


@pytest.mark.parametrize(("mode", "began"), [("none", []), ("scit", ["taught"]), ("dual", ["good"])])
def test_one_call_teaches_reads_distils_and_measures(mode: str, began: list[str], tmp_path: Path) -> None:
    model = tiny()
    before = model.forward("Is it dry?")
    found = run(model, mode, path=tmp_path / "r")
    assert found.name == {"none": "LORRA", "scit": "RAHF-SCIT", "dual": "RAHF-DUAL"}[mode]
    assert list(found.preferring.margins) == ["base", *began, "distilled"]
    assert len(found.preferring.ids) == len(found.preferring.margins["base"]) >= 2
    assert torch.equal(model.forward("Is it dry?"), before)
    acting = found.forward("Is it dry?")
    assert not torch.equal(acting, before)
    with found:
        assert torch.equal(model.forward("Is it dry?"), acting)
    assert Differences.open(tmp_path / "r" / "differences", model=model).verify().ok
    assert Taught.load(tmp_path / "r" / "taught").mode == mode
    assert torch.equal(Distilled.load(tmp_path / "r" / "adapter", model).forward("Is it dry?"), acting)
    told = json.loads((tmp_path / "r" / "rahf.json").read_text())
    assert told["alpha"] == 0.05
    assert found.name in repr(found)
    assert "chosen likelier" in found._repr_html_()
    assert found.plot().data


def test_the_same_call_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    model = tiny()
    first = run(model, path=tmp_path / "r")
    again = run(model, path=tmp_path / "r")
    assert all(torch.equal(first.adapter.weights[name], again.adapter.weights[name]) for name in first.adapter.weights)
    fresh = run(model)
    for name, wanted in first.adapter.weights.items():
        torch.testing.assert_close(fresh.adapter.weights[name], wanted, atol=1e-5, rtol=1e-3)
    with pytest.raises(MismatchError):
        run(model, instructions=Instructions("Be kind.", "Be rude."), path=tmp_path / "r")


def test_lorra_is_scit_with_nothing_taught() -> None:
    """A taught adapter that changes nothing, and none at all: the same weights come out."""
    model = tiny()
    nothing, lorra = run(model, "scit", taught=scit(model, zero=True)), run(model, "none")
    assert nothing.distilled.curve.loss == lorra.distilled.curve.loss
    torch.testing.assert_close(nothing.forward("Is it?"), lorra.forward("Is it?"), atol=1e-5, rtol=1e-5)


def test_differences_are_kept_only_where_that_saves_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    assert run(model).differences is None
    several = Fit(steps=6, batch=8, lr=1e-3)
    kept = run(model, fit=several)
    assert kept.differences is not None
    monkeypatch.setattr(module, "KEPT_BYTES", 1000)
    anew = run(model, fit=several)
    assert anew.differences is None
    assert anew.distilled.curve.loss == pytest.approx(kept.distilled.curve.loss, rel=1e-5)
    assert run(model, pool="global").differences is not None


def test_the_parts_share_no_prompt_and_are_the_same_for_all_modes() -> None:
    model = tiny()
    found = [run(model, mode) for mode in ("none", "scit", "dual")]
    assert len({one.preferring.ids for one in found}) == 1
    assert all(one.taught.discrimination.ids == one.preferring.ids for one in found)  # type: ignore[union-attr]
    teach, distil, test = preferences(24).split(seed=0)
    assert found[0].preferring.ids == tuple(one.id for one in test)
    assert not {one.id for one in test} & {one.id for one in (*teach, *distil)}


def test_margins_are_those_of_each_answer_alone() -> None:
    model, given = tiny(), preferences(4)
    taught = scit(model)
    found = measure_preferring(model, given, {"taught": taught.on(model)})
    for i, one in enumerate(given):
        means = []
        for said in (one.chosen, one.rejected):
            text = model.tokenizer.apply_chat_template(
                list(one.prompt.content), tokenize=False, add_generation_prompt=True
            )
            head = model.tokenizer(text, add_special_tokens=False)["input_ids"]
            tail = model.tokenizer(f" {said}</s>", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model.hf(torch.tensor([head + tail])).logits[0].log_softmax(-1)
            each = [float(logits[len(head) + t - 1, token]) for t, token in enumerate(tail)]
            means.append(sum(each) / len(each))
        assert float(found.margins["base"][i]) == pytest.approx(means[0] - means[1], abs=1e-4)
    assert not torch.equal(found.margins["taught"], found.margins["base"])
    assert found.accuracy("base").count == 4
    assert found.gain("taught").count == 4


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"mode": "lorra"}, InputError, "'none'"),
        ({"alpha": float("nan")}, InputError, "alpha"),
        ({"pool": "mean"}, InputError, "pool"),
        ({"start": "good"}, InputError, "start"),
        ({"layers": [9]}, LayerError, "4 blocks"),
        ({"layers": "0,2,1"}, LayerError, "embeddings"),
        ({"responses": "best"}, InputError, "responses"),
        ({"positions": "all"}, InputError, "positions"),
        ({"max_tokens": -1}, InputError, "max_tokens"),
        ({"instructions": Instructions("Be glad. " * 80, "Be grim. " * 80)}, DataError, "context"),
    ],
)
def test_nothing_is_taught_before_all_is_known_to_be_valid(
    changes: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    mode = changes.pop("mode", "scit")
    with pytest.raises(error, match=said):
        run(tiny(), mode, path=tmp_path / "r", **changes)
    assert not (tmp_path / "r").exists()


def test_what_was_taught_must_go_with_the_mode() -> None:
    model = tiny()
    with pytest.raises(InputError, match="mode 'dual', not 'scit'"):
        run(model, "scit", taught=dual(model))
    found = run(model, "dual", taught=dual(model), start="base")
    assert isinstance(found.adapter, Adapter)
    assert list(found.preferring.margins) == ["base", "distilled"]
