"""The verbs of steerkit on the command line, in the words of the Python calls."""

from __future__ import annotations

import sys

from steerkit.cli import basics, directions, weights
from steerkit.cli.application import app
from steerkit.errors import SteerkitError

__all__ = ["app", "basics", "directions", "main", "weights"]


def main() -> None:
    """Run a command; what the user got wrong is one line on standard error and exit code 1."""
    try:
        app()
    except SteerkitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
