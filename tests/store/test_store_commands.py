from __future__ import annotations

import json
from pathlib import Path

from store_cases import about, fill
from typer.testing import CliRunner

from steerkit.cli import app


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def test_info_shows_a_store(tmp_path: Path) -> None:
    fill(tmp_path / "s", about(9))
    code, text = run("info", tmp_path / "s")
    assert code == 0
    assert "9 pairs, 2 layers x 4" in text
    code, text = run("info", tmp_path / "s", "--json")
    assert json.loads(text)["pairs"] == 9
    assert json.loads(text)["bytes"] == 9 * 2 * 2 * 4 * 4


def test_verify_ends_with_1_when_something_is_wrong(tmp_path: Path) -> None:
    fill(tmp_path / "s", about(9))
    code, text = run("verify", tmp_path / "s")
    assert code == 0
    assert "5 files" in text
    shard = tmp_path / "s" / "shards" / "00000008-00000015.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, text = run("verify", tmp_path / "s")
    assert code == 1
    assert "00000008-00000015" in text
    assert "run the same record again" in text
    code, text = run("verify", tmp_path / "s", "--json")
    assert code == 1
    assert json.loads(text)["problems"][0]["file"] == "shards/00000008-00000015.safetensors"
