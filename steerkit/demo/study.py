"""Print the acceptance tables of trained folders: `python -m steerkit.demo.study FOLDER... --out study.json`.

Layer and strengths are chosen on training topics; every figure comes from held-out topics.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from steerkit.demo import acceptance
from steerkit.demo.run import DemoRun, run_demo


def show(run: DemoRun) -> str:
    """All tables of one run."""
    tables = (acceptance.letters, acceptance.crosses, acceptance.randoms, acceptance.layers)
    return "\n\n".join([repr(run.table()), *(repr(table(run)) for table in tables)])


def main() -> None:
    """Study the folders named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    studied = {}
    for folder in arguments.folders:
        with tempfile.TemporaryDirectory() as scratch:
            run = run_demo(scratch, source=folder, progress=False)
        print(f"== {folder}\n{show(run)}\n", flush=True)
        studied[folder.name] = {k: v for k, v in json.loads(run.to_json()).items() if k not in ("report", "seconds")}
    if arguments.out:
        arguments.out.write_text(json.dumps(studied, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
