"""The page: sections of text, tables and figures in one file that needs no network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from steerkit.errors import InputError
from steerkit.tables import Cell, format_cell

FIGURE = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it, as HTML."""

    title: str
    anchor: str
    body: str


class Report:
    """A page that is filled from top to bottom and saved as one file.

    Args:
        title: The page's heading.
        lead: A sentence or two under it.

    Example:
        >>> page = Report("A run", lead="What was found.").section("Data", "Forty pairs.")
        >>> "Forty pairs." in page.to_html()
        True
    """

    def __init__(self, title: str, *, lead: str = "") -> None:
        self.title = title
        self.lead = lead
        self._facts: list[tuple[str, str, str]] = []
        self._sections: list[Section] = []
        self._has_figures = False
        self._groups = 0

    def fact(self, name: str, value: Cell, *, note: str = "") -> Report:
        """A figure for the row of cards at the top."""
        self._facts.append((name, format_cell(value), note))
        return self

    def section(self, title: str, *blocks: Any) -> Report:
        """A heading and what stands under it, in order.

        Args:
            title: The heading.
            blocks: Text (a paragraph each), plotly figures, mappings (tabs), and anything that shows itself in Jupyter.

        Raises:
            InputError: A block can be shown in none of these ways.
        """
        anchor = "".join(c if c.isalnum() else "-" for c in title.lower())
        self._sections.append(Section(title, anchor, "\n".join(self._block(block) for block in blocks)))
        return self

    def _block(self, block: Any) -> str:
        if isinstance(block, str):
            return f"<p>{escape(block)}</p>"
        if isinstance(block, Mapping):
            return self._tabs(block)
        if hasattr(block, "to_plotly_json"):
            self._has_figures = True
            figure: str = block.to_html(full_html=False, include_plotlyjs=False, config=FIGURE)
            return f'<div class="figure">{figure}</div>'
        if hasattr(block, "_repr_html_"):
            return f'<div class="scroll">{block._repr_html_()}</div>'
        raise InputError(f"a block of type {type(block).__name__} cannot be shown; give text, a figure, or a result")

    def _tabs(self, panels: Mapping[str, Any]) -> str:
        """One panel at a time, chosen by name; without scripting all of them show."""
        self._groups += 1
        group = f"tabs-{self._groups}"
        parts = []
        for i, (name, content) in enumerate(panels.items()):
            blocks: Sequence[Any] = content if isinstance(content, list | tuple) else [content]
            body = "\n".join(self._block(block) for block in blocks)
            checked = " checked" if i == 0 else ""
            parts.append(
                f'<input type="radio" name="{group}" id="{group}-{i}"{checked}>'
                f'<label for="{group}-{i}">{escape(name)}</label><div class="panel">{body}</div>'
            )
        return '<div class="tabs">' + "".join(parts) + "</div>"

    def to_html(self) -> str:
        """The whole page."""
        style = files("steerkit.report").joinpath("style.css").read_text("utf-8")
        script = ""
        if self._has_figures:
            from plotly.offline import get_plotlyjs

            script = f"<script>{get_plotlyjs()}</script>"
        cards = "".join(
            f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span><small>{escape(note)}</small></div>'
            for name, value, note in self._facts
        )
        links = "".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in self._sections)
        body = "".join(f'<section id="{s.anchor}"><h2>{escape(s.title)}</h2>{s.body}</section>' for s in self._sections)
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style>{script}</head>'
            f"<body><header><h1>{escape(self.title)}</h1><p>{escape(self.lead)}</p></header>"
            f'<nav>{links}</nav><main><div class="cards">{cards}</div>{body}</main>'
            "<script>document.querySelectorAll('.tabs input').forEach(i => i.addEventListener('change', () => "
            "window.dispatchEvent(new Event('resize'))))</script></body></html>"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page; it appears whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(target.suffix + ".tmp")
        draft.write_text(self.to_html(), "utf-8")
        os.replace(draft, target)  # noqa: PTH105
        return target
