"""The examples run as they stand, on the embedded model and on real weights with real data."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "caa_run.py"


def _run(*arguments: object) -> None:
    runpy.run_path(str(SCRIPT))["main"]([str(one) for one in arguments])


def _check(out: Path, *, questions: int) -> None:
    import steerkit as sk

    assert len(sk.SteeringVector.load(out / "vector.safetensors")) == len(sk.ActivationStore.open(out / "acts").layers)
    answers = json.loads((out / "answers.json").read_text("utf-8"))
    assert [len(column) for column in answers["answers"].values()] == [questions] * 3
    grid = json.loads((out / "grid.json").read_text("utf-8"))
    assert {-0.5, 0.5} <= {cell["coef"] for cell in grid["cells"]}
    page = (out / "report.html").read_text("utf-8")
    for heading in ("Data", "Separation by depth", "Activations", "Sweep", "Confirmed", "Answers", "Vector"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("Plotly.newPlot") >= 3


def test_a_caa_run_on_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run("--out", tmp_path, "--questions", "demo:sycophancy", "--answers", 3, "--max-new-tokens", 16,
         "--coefs", -0.5, 0.5)  # fmt: skip
    _check(tmp_path, questions=3)
    assert "report:" in capsys.readouterr().out


def test_a_caa_run_on_real_weights_and_data(data_root: Path, tmp_path: Path) -> None:
    folder = data_root / "data" / "caa" / "datasets"
    files = {}
    for part, name, count in (("generate", "generate_dataset", 24), ("test", "test_dataset_ab", 12)):
        (path,) = folder.rglob(f"{part}/refusal/{name}.json")
        items = sorted(json.loads(path.read_text("utf-8")), key=lambda item: len(item["question"]))[:count]
        files[part] = tmp_path / f"{name}.json"
        files[part].write_text(json.dumps(items), "utf-8")
    model = data_root / "models" / "stories260K"
    out = tmp_path / "run"
    _run("--model", model, "--pairs", files["generate"], "--test", files["test"], "--out", out, "--answers", 2,
         "--max-new-tokens", 8, "--coefs", -1, 1)  # fmt: skip
    _check(out, questions=2)
