"""The whole demo, as `make demo` runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import steerkit as sk
from steerkit.demo import BEHAVIORS
from steerkit.demo.run import DemoRun, run_demo
from steerkit.demo.study import show


@pytest.mark.slow
def test_the_demo_leaves_a_report_and_what_it_was_made_from(tmp_path: Path) -> None:
    run = run_demo(tmp_path / "out", progress=False)
    page = run.report.read_text("utf-8")
    for heading in (
        "Result",
        "Data",
        "Separation by layer",
        "Principal components",
        "Sweep",
        "Cross-effects",
        "Into the weights",
        "Answers",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("Plotly.newPlot") == 3 * len(BEHAVIORS) + 4
    results = json.loads((run.folder / "results.json").read_text("utf-8"))
    assert [row[0] for row in results["rows"]] == list(BEHAVIORS)
    assert len(results["cross_effects"]) == len(BEHAVIORS) ** 2
    for name in BEHAVIORS:
        vector = sk.SteeringVector.load(run.folder / "vectors" / f"{name}.safetensors")
        assert vector == sk.extract(sk.ActivationStore.open(run.folder / "acts" / name))
        cross = run.cross(name, name)
        grid = run.behaviors[name].grid
        if run.chosen.coefs[name] in grid.coefs:
            at = grid.at(layer=run.chosen.layer, coef=run.chosen.coefs[name])
            assert abs(at.p_matching - cross.letters[1]) < 1e-5
    assert "Choices by letter" in show(run)
    check_weights(run)


def check_weights(run: DemoRun) -> None:
    """The vector is in the weights; preferences move open answers, more than LORRA, and mood and letters little."""
    found = run.imprint
    base, hook, tuned = (found.arm(name) for name in ("base", "hook", "distilled vector"))
    assert abs(tuned.choices["sycophancy"].p_matching - hook.choices["sycophancy"].p_matching) < 0.05
    assert tuned.answers["sycophancy"].positive < 0.1
    assert base.answers["sycophancy"].positive > 0.4
    assert found.verified.passed
    lorra = found.arm("LORRA")
    for name in ("RAHF-SCIT", "RAHF-Dual"):
        arm = found.arm(name)
        own, mood = (arm.answers[one].positive - base.answers[one].positive for one in ("sycophancy", "mood"))
        assert own < -0.3
        assert arm.answers["sycophancy"].positive < lorra.answers["sycophancy"].positive - 0.2
        assert abs(mood) < abs(own) / 4
        assert all(abs(arm.moved(base, one).mean) < 0.05 for one in ("sycophancy", "mood"))
    again = sk.Adapter.load(run.folder / "adapters" / "sycophancy").on(run.model)
    scores = sk.score_choices(again, run.behaviors["sycophancy"].test)
    assert abs(scores.p_matching - tuned.choices["sycophancy"].p_matching) < 1e-5
