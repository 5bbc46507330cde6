from __future__ import annotations

from steerkit.tables import html_table, text_table


def test_numbers_stand_right_and_words_left() -> None:
    assert text_table(["name", "n"], [["a", 10], ["bcdef", 2]]).splitlines() == ["name    n", "a      10", "bcdef   2"]


def test_long_tables_count_what_they_leave_out() -> None:
    assert text_table(["n"], [[i] for i in range(5)], most=2).splitlines()[-1] == "... and 3 more rows"
    assert "... and 3 more rows" in html_table(["n"], [[i] for i in range(5)], most=2)


def test_html_is_escaped() -> None:
    assert "<script>" not in html_table(["<script>"], [["<script>"]], title="<script>")
