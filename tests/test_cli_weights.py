"""The commands that put a direction into the weights, run for real on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import run, told

import steerkit as sk
from steerkit.adapters import Adapter
from steerkit.data.preference_loading import load_preferences
from steerkit.training.distilling.distilled import Distilled
from steerkit.training.fitting.checkpoints import Checkpoint
from steerkit.training.teaching.taught import Taught
from steerkit.vectors import SteeringVector

SHORT = ("--steps", "2", "--batch", "2")


@pytest.fixture(scope="module")
def model() -> Any:
    return sk.load("demo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Path:
    """A vector, texts, preferences and an adapter for all tests."""
    where = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    made = {"model": model.info.as_dict()}
    SteeringVector(torch.randn(2, model.info.hidden_size), layers=[2, 3], meta=made).save(where / "v.safetensors")
    items = json.loads((Path(sk.__file__).parent / "demo/data/mood/test.json").read_text("utf-8"))
    (where / "few.json").write_text(json.dumps(items[:6]), "utf-8")
    rows = load_preferences("demo", split="train")[:24]
    lines = [json.dumps({"prompt": list(one.prompt.content), "chosen": one.chosen, "rejected": one.rejected})
             for one in rows]  # fmt: skip
    (where / "some.jsonl").write_text("\n".join(lines), "utf-8")
    (where / "one.jsonl").write_text(lines[0], "utf-8")
    (where / "same.jsonl").write_text(json.dumps({"prompt": "Is it?", "chosen": "No.", "rejected": "No."}), "utf-8")
    (where / "full").mkdir()
    (where / "full" / "notes.txt").write_text("mine", "utf-8")
    return where


def _distill(folder: Path, out: Path, *more: str) -> tuple[str, ...]:
    given = ("--vector", str(folder / "v.safetensors"), "--layer", "2", "-o", str(out), "--batch", "2")
    return ("distill", "demo", str(folder / "few.json"), *given, *more)


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Path:
    """Made once by the command itself."""
    from steerkit import cli

    out = folder / "adapter"
    if not out.exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["steerkit", *_distill(folder, out, "--steps", "2", "--json")])
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert not stop.value.code
    return out


def test_distill_leaves_an_adapter_that_loads(
    folder: Path, tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _distill(folder, tmp_path / "out", "--steps", "4", "--rank", "3", "--targets", "q_proj,v_proj",
                     "--loss", "mse", "--coef", "-0.5", "--plot", str(tmp_path / "curve.html"))  # fmt: skip
    found = told(capsys, *words)
    adapter = Adapter.load(tmp_path / "out")
    assert (found["steps"], found["settings"]["objective"]["loss"]) == (4, "mse")
    assert adapter.config.r == 3
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter.weights} == {"q_proj", "v_proj"}
    assert len(Distilled.load(tmp_path / "out", model).curve) == 4
    assert not torch.equal(adapter.on(model).forward("Is it so?"), model.forward("Is it so?"))
    assert (tmp_path / "curve.html").stat().st_size > 10_000


def test_distill_verifies_where_it_is_asked_to(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps are too few, so the verdict is no and so is the exit code."""
    code, out, err = run(capsys, *_distill(folder, tmp_path / "o", "--steps", "2", "--check", str(folder / "few.json"),
                                           "--json"))  # fmt: skip
    assert code == 1, err
    assert json.loads(out)["passed"] is False
    assert (tmp_path / "o" / "adapter_config.json").exists()


def test_an_interrupted_command_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--steps", "4", "--checkpoint-every", "2")
    whole = told(capsys, *_distill(folder, tmp_path / "whole", *more))
    keep, kept = Checkpoint.keep, []

    def stop(self: Any, *given: Any) -> None:
        keep(self, *given)
        kept.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "keep", stop)
    code, _, err = run(capsys, *_distill(folder, tmp_path / "parts", *more))
    assert (code, kept) == (130, [1])
    assert err.splitlines()[-1] == "interrupted"
    assert not (tmp_path / "parts" / "adapter_config.json").exists()
    monkeypatch.setattr(Checkpoint, "keep", lambda self, *given: (kept.append(2), keep(self, *given)))
    again = told(capsys, *_distill(folder, tmp_path / "parts", *more))
    assert kept == [1, 2]
    first, second = (Adapter.load(tmp_path / one).weights for one in ("whole", "parts"))
    assert all(torch.equal(one, second[name]) for name, one in first.items())
    assert again == whole
    assert told(capsys, *_distill(folder, tmp_path / "parts", *more)) == whole
    assert kept == [1, 2]


@pytest.mark.parametrize("mode", ["none", "scit", "dual"])
def test_teach_leaves_what_was_taught(
    mode: str, folder: Path, tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("teach", "demo", folder / "some.jsonl", "-o", tmp_path / "t", "--mode", mode, *SHORT, "--rank", "2")
    told_pair = () if mode == "dual" else ("--good", "Be good.", "--bad", "Be evil.")
    found = told(capsys, *words, *told_pair)
    taught = Taught.load(tmp_path / "t")
    assert taught.mode == found["mode"] == mode
    assert set(taught.weights) == {"none": set(), "scit": {"taught"}, "dual": {"good", "bad"}}[mode]
    assert taught.discrimination is not None
    if mode != "dual":
        assert taught.instructions is not None
        assert taught.instructions.good == "Be good."
    for weights in taught.weights.values():
        assert not torch.equal(weights.on(model).forward("Is it so?"), model.forward("Is it so?"))
    assert told(capsys, *words, *told_pair) == found


def test_rahf_leaves_an_adapter_and_goes_on(
    folder: Path, tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("rahf", "demo", folder / "some.jsonl", "-o", tmp_path / "r", "--teach-steps", "2", *SHORT)
    found = told(capsys, *words, "--layers", "2-3", "--alpha", "3", "--plot", tmp_path / "r.html")
    assert found["alpha"] == 3
    adapter = Adapter.load(tmp_path / "r" / "adapter")
    assert not torch.equal(adapter.on(model).forward("Is it so?"), model.forward("Is it so?"))
    assert Taught.load(tmp_path / "r" / "taught").mode == "scit"
    code, _, err = run(capsys, *words, "--layers", "2-3", "--alpha", "2")
    assert (code, "holds another training" in err) == (1, True)
    assert told(capsys, *words, "--layers", "2-3", "--alpha", "3")["preferring"] == found["preferring"]


def test_compare_has_a_row_for_each_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "demo", "demo", "--methods", "prompt, lorra", "--no-reward", *SHORT, "--max-new-tokens", "4")
    found = told(capsys, *words, "--plot", tmp_path / "c.html")
    assert [row["name"] for row in found["rows"]] == ["base, again", "prompt p+", "LORRA"]
    assert set(found["rows"][1]["effects"]) == {"refusal", "mood"}
    assert len(found["prompts"]) == 120
    assert found["reward_model"] is None
    assert (tmp_path / "c.html").stat().st_size > 10_000


@pytest.mark.parametrize("form", ["merged", "peft"])
def test_export_of_an_adapter(
    form: str, adapter: Path, tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", "demo", "--adapter", adapter, "-o", tmp_path / "e", "--as", form)
    told(capsys, *words)
    wanted = Adapter.load(adapter).on(model).forward("Is it so?")
    found = Adapter.load(tmp_path / "e").on(model) if form == "peft" else sk.load(str(tmp_path / "e"))
    torch.testing.assert_close(found.forward("Is it so?"), wanted, rtol=0, atol=1e-4)
    assert not torch.allclose(model.forward("Is it so?"), wanted, rtol=0, atol=1e-3)
    code, _, err = run(capsys, *words)
    assert (code, "already" in err) == (1, True)
    told(capsys, *words, "--overwrite")


@pytest.mark.parametrize("form", ["bias", "lora-bias"])
def test_export_of_a_vector(
    form: str, folder: Path, tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "export", "demo", "--vector", folder / "v.safetensors", "--layer", "2", "--coef", "0.5",
         "-o", tmp_path / "e", "--as", form)  # fmt: skip
    found = Adapter.load(tmp_path / "e").on(model) if form == "lora-bias" else sk.load(str(tmp_path / "e"))
    vector = SteeringVector.load(folder / "v.safetensors")
    with sk.Steer(model).add(vector, layer=2, coef=0.5, positions="all") as steered:
        wanted = steered.forward("Is it so?")
    torch.testing.assert_close(found.forward("Is it so?"), wanted, rtol=0, atol=1e-4)


DISTILL = "distill demo {f}/few.json --vector {f}/v.safetensors --layer 2 -o out"
MISTAKES: dict[str, tuple[str, str]] = {
    "unknown mode": ("teach demo {f}/some.jsonl -o out --mode best", "mode='best' is not known"),
    "unknown mode of rahf": ("rahf demo {f}/some.jsonl -o out --mode best", "'best' is not known"),
    "layer beyond the model": ("{distill} --layer 99", "layer 99"),
    "layers beyond the model": ("rahf demo {f}/some.jsonl -o out --layers 3-99", "layer 8 does not exist"),
    "layer that the vector lacks": ("{distill} --layer 6", "the vector has no layer 6"),
    "merged without adapter": ("export demo -o out --as merged", "needs --adapter alone"),
    "bias without layer": ("export demo -o out --as bias --vector {f}/v.safetensors", "needs --vector and --layer"),
    "unknown form": ("export demo -o out --as gguf --adapter {f}/full", "--as 'gguf' is not valid"),
    "no adapter there": ("export demo -o out --adapter {f}/full", "no adapter_config.json"),
    "good without bad": ("teach demo {f}/some.jsonl -o out --good Be.", "both --good and --bad"),
    "instructions for dual": ("teach demo demo -o out --mode dual --good Be. --bad Not.", "leave instructions out"),
    "identical instructions": ("rahf demo {f}/some.jsonl -o out --good Be. --bad Be.", "both instructions are 'Be.'"),
    "missing preferences": ("teach demo nowhere.jsonl -o out", "nowhere.jsonl"),
    "missing vector": ("distill demo {f}/few.json --vector no.safetensors --layer 2 -o out", "no.safetensors"),
    "missing texts": ("distill demo nowhere.json --vector {f}/v.safetensors --layer 2 -o out", "nowhere.json"),
    "missing check": ("{distill} --check no.json", "no.json"),
    "alpha that is no number": ("rahf demo {f}/some.jsonl -o out --alpha nan", "alpha=nan"),
    "infinite coefficient": ("{distill} --coef inf", "coef=inf is not finite"),
    "infinite bias": ("export demo -o out --as bias --vector {f}/v.safetensors --layer 2 --coef nan", "coef=nan is"),
    "unknown loss": ("{distill} --loss l3", "loss='l3'"),
    "unknown positions": ("{distill} --positions some", "positions='some'"),
    "unknown targets": ("{distill} --targets c_attn", "no linear layer is called"),
    "rank 0": ("{distill} --rank 0", "r=0"),
    "batch 0": ("teach demo {f}/some.jsonl -o out --batch 0", "batch=0"),
    "steps 0": ("rahf demo {f}/some.jsonl -o out --teach-steps 0", "steps=0"),
    "unknown start": ("rahf demo {f}/some.jsonl -o out --start there", "start='there'"),
    "one preference": ("teach demo {f}/one.jsonl -o out", "1 preference"),
    "one preference for rahf": ("rahf demo {f}/one.jsonl -o out", "1 preference"),
    "one preference to compare": ("compare demo {f}/one.jsonl", "1 preference"),
    "identical sides": ("teach demo {f}/same.jsonl -o out", "both sides are the same"),
    "unknown method": ("compare demo demo --methods dpo,ppo", "'ppo' is not known"),
    "nobody judges": ("compare demo {f}/some.jsonl --no-reward", "nobody to judge"),
    "budget of nothing": ("compare demo demo --steps 0", "steps=0"),
    "figure in no folder": ("compare demo demo --plot nowhere/c.html", "--plot 'nowhere/c.html'"),
    "folder of something else": ("teach demo {f}/some.jsonl -o {f}/full", "holds something else"),
    "another's folder": ("{distill} -o {f}/full", "something else"),
    "rahf over something else": ("rahf demo {f}/some.jsonl -o {f}/full", "holds something else"),
    "a file for a folder": ("teach demo {f}/some.jsonl -o {f}/one.jsonl", "is a file"),
    "export over something else": ("export demo -o {f}/full --as lora-bias --vector {f}/v.safetensors --layer 2",
                                   "other files"),
}  # fmt: skip


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_1(
    mistake: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written, and nothing is trained first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.optim.AdamW.step", lambda *_, **__: pytest.fail("something was trained"))
    before = sorted(folder.rglob("*"))
    words, says = MISTAKES[mistake]
    code, out, err = run(capsys, *words.replace("{distill}", DISTILL).format(f=folder).split())
    assert code == 1, err
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert says in err
    assert list(tmp_path.iterdir()) == []
    assert sorted(folder.rglob("*")) == before
