"""One self-contained HTML file from the results of a run."""

from __future__ import annotations

from steerkit.report.page import Report

__all__ = ["Report"]
