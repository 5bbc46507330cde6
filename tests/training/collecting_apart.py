"""One of several processes that collect differences into one store: `python collecting_apart.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from difference_cases import TOLD, preferences
from tiny import tiny

from steerkit.training.differences.collecting import collect_differences

if __name__ == "__main__":
    found = collect_differences(
        tiny(), preferences(), instructions=TOLD, layers=[1, 2], responses="both", path=sys.argv[1], shard_responses=2
    )
    print(len(found))
