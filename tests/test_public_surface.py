from __future__ import annotations

import subprocess
import sys

import pytest

import steerkit


@pytest.mark.parametrize("name", steerkit.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(steerkit, name) is not None
    assert name in dir(steerkit)


def test_public_names_are_sorted_and_have_a_home() -> None:
    assert sorted(steerkit._HOMES) == sorted(set(steerkit.__all__))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = steerkit.nothing


def test_importing_steerkit_imports_nothing_heavy() -> None:
    code = (
        "import sys, steerkit; print([m for m in ('torch', 'transformers', 'sklearn', 'plotly') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
