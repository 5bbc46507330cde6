"""Print one table of ratios: `make bench`."""

from __future__ import annotations

import json
import sys

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import backends, decoding, distilling, generating, one_base, peers, recording, storing, sweeping


def main() -> int:
    """Run every benchmark and say which aims were met."""
    torch.set_num_threads(1)
    results = []
    for part in (sweeping, recording, storing, generating, decoding, distilling, one_base, backends, peers):
        for line in part.run():
            print(*line.row(), sep=" | ", file=sys.stderr, flush=True)
            results.append(line)
    table = Table(title="Ratios, median of several runs in turns (one thread, where none is named)")
    for name in ("what", "ratio", "spread", "aim", "met", "runs"):
        table.add_column(name)
    for result in results:
        table.add_row(*[str(cell) for cell in result.row()])
    Console().print(table)
    if "--json" in sys.argv:
        print(json.dumps([result.__dict__ for result in results]))
    return 0 if all(result.met for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
