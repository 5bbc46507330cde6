"""The table of architectures in the documentation, from the tiny models of the suite.

`python tests/conformance/architecture_table.py` writes docs/architectures.txt anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import ARCHITECTURES, VARIANTS, tiny

from steerkit.points import Site
from steerkit.tables import Cell, text_table

PAGE = Path(__file__).parents[2] / "docs" / "architectures.txt"
INNER: tuple[Site, ...] = ("z", "attn_out", "resid_mid", "mlp_out")


def table() -> str:
    """One row a tiny model: which of its blocks have which site, whether it packs, and what to know."""
    rows = [_row(name) for name in [*ARCHITECTURES, *VARIANTS]]
    return text_table(["architecture", "text part", *INNER, "packs", "note"], rows) + "\n"


def _row(name: str) -> list[Cell]:
    model = tiny(name)
    count, config = model.info.num_layers, model.hf.config
    having = [sum(model.parts.has(layer, site) for layer in range(count)) for site in INNER]
    marks: list[Cell] = ["yes" if n == count else "some blocks" if n else "-" for n in having]
    text, variant = config.get_text_config().model_type, VARIANTS.get(name)
    note = model.parts.layout.note
    if variant is not None:
        settings = ", ".join(f"{flag}={value}" for flag, value in variant[1].items())
        return [f"{variant[0]} ({settings})", "", *marks, _packs(model.info.packs, model.info.window), note]
    return [name, "" if text == name else text, *marks, _packs(model.info.packs, model.info.window), note]


def _packs(packs: bool, window: int | None) -> str:
    if not packs:
        return "-"
    return "yes" if window is None else "up to the window"


if __name__ == "__main__":
    PAGE.write_text(table())
