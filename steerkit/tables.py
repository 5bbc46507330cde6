"""Tables as text and HTML: how every result prints itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Cell = str | int | float | bool | None


def format_cell(value: Cell) -> str:
    """A cell as text: four significant digits for a float, nothing for `None`.

    Example:
        >>> format_cell(0.123456)
        '0.1235'
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def text_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, title: str = "", most: int = 200) -> str:
    """A table in plain text: numbers to the right, words to the left.

    Args:
        columns: The headings.
        rows: One sequence of cells a row.
        title: A line above.
        most: Rows shown; the rest are counted.

    Example:
        >>> print(text_table(["layer", "norm"], [[0, 1.5], [1, 2.25]]))
        layer  norm
            0   1.5
            1  2.25
    """
    shown = [[format_cell(cell) for cell in row] for row in rows[:most]]
    widths = [max([len(name), *(len(row[i]) for row in shown)]) for i, name in enumerate(columns)]
    right = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(columns))]
    lines = [title] if title else []
    for cells in [list(columns), *shown]:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        lines.append("  ".join(padded).rstrip())
    if len(rows) > most:
        lines.append(f"... and {len(rows) - most} more rows")
    return "\n".join(lines)


def html_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, title: str = "", most: int = 200) -> str:
    """The same table in HTML, for Jupyter and the report.

    Example:
        >>> html_table(["layer"], [[3]])
        '<table class="steerkit"><thead><tr><th>layer</th></tr></thead><tbody><tr><td>3</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(format_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows[:most]
    )
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    more = f"<tfoot><tr><td>... and {len(rows) - most} more rows</td></tr></tfoot>" if len(rows) > most else ""
    return f'<table class="steerkit">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>{more}</table>'


class Tabular(ABC):
    """What prints itself as a table, in text and in Jupyter."""

    @abstractmethod
    def table(self) -> Table:
        """What is shown of it."""

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


@dataclass(frozen=True, repr=False)
class Table(Tabular):
    """Columns and rows, with a title above and a note below.

    Example:
        >>> Table(["layer", "norm"], [[0, 1.5]], note="one layer")
        layer  norm
            0   1.5
        one layer
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    note: str = ""

    def table(self) -> Table:
        """Itself."""
        return self

    def __repr__(self) -> str:
        text = text_table(self.columns, self.rows, title=self.title)
        return f"{text}\n{self.note}" if self.note else text

    def _repr_html_(self) -> str:
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return html_table(self.columns, self.rows, title=self.title) + note
