"""Every Python block and every command of the README and the docs runs as it is printed."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steerkit.backends import layouts
from steerkit.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
FENCE = re.compile(r"^```(\w+)(?: +([^\n]*))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SLOW_COMMANDS = ("steerkit demo",)
"""Run by tests/demo and by `make demo`."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, where it stands, and what it says."""

    kind: str
    line: int
    text: str


def _blocks(page: Path) -> list[Block]:
    """The blocks to run; one marked `no-run` must say why."""
    text = page.read_text("utf-8")
    found = []
    for fence in FENCE.finditer(text):
        kind, note, body = fence.groups()
        if kind not in ("python", "bash"):
            continue
        line = text[: fence.start()].count("\n") + 2
        if note:
            assert re.fullmatch(r"no-run: \S.+", note), f"{page.name}:{line}: {note!r}; write 'no-run: the reason'"
            continue
        found.append(Block(kind, line, body))
    return found


def _run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    exec(code, namespace)


def _run_commands(block: Block) -> None:
    for command in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(command, comments=True)
        if not words or words[0] != "steerkit" or shlex.join(words) in SLOW_COMMANDS:
            continue
        result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert result.exit_code == 0, f"{command}\n{result.output}"


RUNNABLE = [page for page in PAGES if _blocks(page)]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layouts, "LAYOUTS", dict(layouts.LAYOUTS))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in _blocks(page):
        if block.kind == "python":
            _run_python(block, page, namespace)
        else:
            _run_commands(block)


def test_the_readme_begins_with_two_commands_and_a_short_example() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    first, second = list(FENCE.finditer(text))[:2]
    assert first[1] == "bash"
    assert [line.split("#")[0].strip() for line in first[3].splitlines()] == ["make demo", "make test"]
    assert second[1] == "python"
    assert len([line for line in second[3].splitlines() if line.strip()]) <= 13


def test_the_blocks_are_found() -> None:
    """A change of the fences must not empty this file unseen."""
    assert len(RUNNABLE) >= 10
