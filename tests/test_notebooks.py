"""The notebooks run from top to bottom on the embedded model, and are kept without outputs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
names = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

RUN = """
import sys, nbformat
from nbclient import NotebookClient
source, target, folder = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
NotebookClient(notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": folder}}).execute()
nbformat.write(notebook, target)
"""
"""In a process of its own: its event loop and its kernel's files end with it."""


NO_WIDGETS = "TqdmWarning: IProgress not found"
"""The bar of transformers' loading, where no widgets are installed: of no matter."""


def _cells(path: Path, kind: str) -> list[dict[str, object]]:
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03"]


@names
def test_a_notebook_is_kept_without_outputs_and_names_its_model_first(path: Path) -> None:
    code = _cells(path, "code")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "".join(code[0]["source"]).startswith('MODEL = "demo"')  # type: ignore[arg-type]


@names
def test_a_notebook_states_no_figure_of_the_demo(path: Path) -> None:
    """Figures come from executed cells; prose may speak of 0, 0.5, 1 and the like."""
    prose = "\n".join("".join(cell["source"]) for cell in _cells(path, "markdown"))  # type: ignore[arg-type]
    assert re.findall(r"\b0?\.\d\d+", prose) == []


@pytest.mark.slow
@names
def test_a_notebook_runs_without_errors_or_warnings(path: Path, tmp_path: Path) -> None:
    done = tmp_path / path.name
    folders = {name: str(tmp_path / name) for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    started = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", RUN, path, done, tmp_path],
        env={**os.environ, **folders, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    assert run.returncode == 0, run.stderr[-4000:]
    assert seconds < 400, f"{path.stem} took {seconds:.0f} s; it should teach in under a minute"
    for cell in _cells(done, "code"):
        for output in cell["outputs"]:  # type: ignore[attr-defined]
            text = "".join(output.get("text", ""))
            assert "Warning" not in text.replace(NO_WIDGETS, ""), text
    assert all(cell["outputs"] or _is_silent(cell) for cell in _cells(done, "code"))


def _is_silent(cell: dict[str, object]) -> bool:
    """Only the cell that names the model shows nothing."""
    return "".join(cell["source"]).startswith("MODEL")  # type: ignore[arg-type]
