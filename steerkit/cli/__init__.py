"""The verbs of steerkit on the command line, in the words of the Python calls."""

from __future__ import annotations

import sys

from steerkit.cli import basics, directions, parity, weights
from steerkit.cli.application import app
from steerkit.errors import SteerkitError

INTERRUPTED = 130
"""The exit code that typer gives when somebody stops a command."""

__all__ = ["app", "basics", "directions", "main", "parity", "weights"]


def main() -> None:
    """Run a command; what the user got wrong is one line on standard error and exit code 1."""
    try:
        app()
    except SteerkitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("interrupted", file=sys.stderr)
        raise
