"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import beartype  # noqa: F401 - before nnsight, whose import hook it does not outlive
import jaxtyping
import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
settings.register_profile("steerkit", deadline=None)  # a machine with other work is slow, not wrong
settings.load_profile("steerkit")
torch.set_num_threads(1)  # the models are tiny: threads cost more than they give, above all beside other work


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def as_user() -> Iterator[None]:
    """Shapes and types are not checked at calls, as for a user: bad input must meet steerkit's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data and small pretrained models, named by STEERKIT_DATA."""
    root = os.environ.get("STEERKIT_DATA")
    if not root or not (Path(root) / "data" / "caa").is_dir():
        pytest.skip("STEERKIT_DATA does not name the folder with data/caa and models/")
    return Path(root)
