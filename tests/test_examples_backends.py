"""The same run by each backend prints the same numbers and the same answers."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
BACKENDS = ("huggingface", "transformer_lens", "nnsight")


def test_every_backend_prints_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    printed = []
    for backend in BACKENDS:
        script = runpy.run_path(str(EXAMPLES / f"caa_{backend}.py"))
        script["main"](script["load"], script["own_call"], [])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2]
    assert "best layer 3" in printed[0]
    assert "coef +0.5: p(matching) 0.9" in printed[0]
    assert printed[0].splitlines()[-1].startswith("its own call: (")
