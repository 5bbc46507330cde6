"""`python -m steerkit.cli`."""

from steerkit.cli import main

main()
