"""Running contrast pairs through a model and keeping what their tokens look like inside."""

from __future__ import annotations

from steerkit.recording.forecast import RecordingPlan, plan_recording
from steerkit.recording.preview import Preview, preview_reads
from steerkit.recording.ray_data import record_with_ray
from steerkit.recording.reads import Read
from steerkit.recording.recorder import record

__all__ = ["Preview", "Read", "RecordingPlan", "plan_recording", "preview_reads", "record", "record_with_ray"]
