from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny, tiny_hf, tiny_tokenizer
from torch import Tensor

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.cli import main
from steerkit.doctor import examine
from steerkit.errors import InputError
from steerkit.testing import ConformanceError, check_paths


def test_plain_it_is_short() -> None:
    found = examine(tiny("llama"))
    assert found.healthy
    assert found.conformance == ()
    assert found.model["run by"] == "HuggingFaceModel"
    assert "all is well" in repr(found)


@pytest.mark.parametrize("architecture", ["jamba", "mistral_sliding", "gemma3"])
def test_in_full_it_runs_every_suite(architecture: str) -> None:
    found = examine(tiny(architecture), full=True)
    names = [check.name for suite in found.conformance for check in suite.checks]
    assert found.healthy, repr(found)
    for name in ("every site takes what is written", "cached = uncached", "record = one text a pass",
                 "score_choices = one text a pass", "sweep, cached = one text a pass"):  # fmt: skip
        assert name in names
    assert {row["check"] for row in json.loads(found.to_json())["checks"]} == set(names)
    assert "FAILED" not in repr(found)


def test_the_kinds_of_blocks_are_told_apart() -> None:
    kinds = examine(tiny("jamba")).kinds
    assert [(kind[0], kind[2], "z" in kind[5].split(", ")) for kind in kinds] == [
        ("0, 2", "mamba", False),
        ("1, 3", "self_attn", True),
    ]
    assert [kind[0] for kind in examine(tiny("llama")).kinds] == ["0-3"]


def test_what_is_wrong_is_shown_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    run = HuggingFaceModel._run

    def forget(self: Any, arguments: dict[str, Any]) -> Tensor:
        """The cache loses track of how far it is."""
        if arguments["use_cache"]:
            arguments["position_ids"] = arguments["position_ids"] * 0
        return run(self, arguments)

    monkeypatch.setattr(HuggingFaceModel, "_run", forget)
    found = examine(model, full=True)
    assert not found.healthy
    line = next(line for line in repr(found).splitlines() if line.startswith("cached = uncached"))
    assert line.endswith("FAILED")
    assert "something is wrong" in repr(found)
    with pytest.raises(ConformanceError, match=r"sweep, cached = one text a pass .*FAILED"):
        check_paths(model)


def test_an_unknown_architecture_says_how_it_was_found() -> None:
    from steerkit.backends.loading import load

    hf = tiny_hf("llama")
    hf.config.model_type = "unheard-of"
    assert examine(load(hf, tokenizer=tiny_tokenizer())).model["layout"] == "found by structure"


def test_a_backend_or_a_full_examination_needs_a_model() -> None:
    with pytest.raises(InputError, match="which model"):
        examine(full=True)
    assert "mamba" in str(examine().model["architectures known"])


def test_the_command_runs_the_suite_on_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_hf("qwen3").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    capsys.readouterr()
    monkeypatch.setattr(
        "sys.argv", ["steerkit", "doctor", str(tmp_path), "--full", "--backend", "huggingface", "--json"]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    found = json.loads(capsys.readouterr().out)
    assert not stop.value.code
    assert found["healthy"]
    assert len(found["checks"]) > 20
    assert found["kinds"][0]["sites"] == "resid_pre, z, attn_out, resid_mid, mlp_out, resid_post"
