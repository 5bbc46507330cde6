"""Whether every backend says the same of one model: recording, scoring and steering, side by side."""

from __future__ import annotations

from steerkit.agreement.result import Parity, ParityRow
from steerkit.agreement.running import parity

__all__ = ["Parity", "ParityRow", "parity"]
