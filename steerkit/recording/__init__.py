"""Running contrast pairs through a model and keeping what their tokens look like inside."""

from __future__ import annotations

from steerkit.recording.preview import Preview, preview_reads
from steerkit.recording.reads import Read
from steerkit.recording.recorder import record

__all__ = ["Preview", "Read", "preview_reads", "record"]
