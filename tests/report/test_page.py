from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import pytest

from steerkit.errors import InputError
from steerkit.report import Report


class Shown:
    def _repr_html_(self) -> str:
        return "<table><tr><td>shown</td></tr></table>"


def test_a_page_is_one_file_that_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    figure = go.Figure(go.Scatter(x=[0, 1], y=[1, 2]))
    page = Report("Title", lead="Lead.").fact("pairs", 40).section("Data", "Text.", Shown(), figure)
    text = page.save(tmp_path / "deep" / "report.html").read_text("utf-8")
    assert "<td>shown</td>" in text
    assert "Plotly.newPlot" in text
    head = text.split("<script>", 1)[0]
    assert "http" not in head.replace("http-equiv", "")
    assert "<script src=" not in text
    assert "<link" not in head
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.html"]


def test_a_page_without_figures_stays_small() -> None:
    assert len(Report("Title").section("Data", "Text.").to_html()) < 10_000


def test_words_are_escaped() -> None:
    assert "<b>bold" not in Report("<b>bold", lead="<b>bold").section("<b>bold", "<b>bold").to_html()


def test_tabs_hold_one_panel_each() -> None:
    html = Report("Title").section("Answers", {"one": "first", "two": ["second", Shown()]}).to_html()
    assert html.count('class="panel"') == 2
    assert html.count(" checked") == 1


def test_the_same_run_writes_the_same_page() -> None:
    pages = [Report("Title").section("Answers", {"one": "first"}).to_html() for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_block_that_cannot_be_shown_is_refused() -> None:
    with pytest.raises(InputError, match="a block of type int cannot be shown"):
        Report("Title").section("Data", 3)
