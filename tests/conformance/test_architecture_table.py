from __future__ import annotations

from architecture_table import PAGE, table


def test_the_table_in_the_documentation_is_that_of_the_suite() -> None:
    assert PAGE.read_text() == table(), "run python tests/conformance/architecture_table.py"
