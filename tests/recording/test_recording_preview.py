from __future__ import annotations

import pytest
from recording_cases import (
    answers,
    choices,
)
from tiny import tiny

from steerkit.data.encoding import encode
from steerkit.errors import InputError
from steerkit.recording import preview_reads, record
from steerkit.recording.progress import progress_bar


def test_preview_marks_what_record_reads() -> None:
    model = tiny("llama")
    shown = preview_reads(model, choices(), count=2)
    assert len(shown.shown) == 4
    assert "(A) yes (B) no [bot] (⟦A⟧)" in repr(shown)
    assert ">A</span>)" in shown._repr_html_()
    for one, row in zip(shown.shown, record(model, choices(2)).index, strict=True):
        assert (one.read, one.position[0]) == (row["token"], row["position"])
    mean = repr(preview_reads(model, answers(), read="mean"))
    assert "[bot]⟦ I am so very sad⟧" in mean
    with pytest.raises(InputError, match="count=0 is not valid"):
        preview_reads(model, choices(), count=0)


def test_the_preview_is_the_whole_text() -> None:
    model = tiny("llama")
    shown = preview_reads(model, answers(), read="last").shown
    sides = [side for pair in answers() for side in (pair.positive, pair.negative)]
    for one, side in zip(shown, sides, strict=True):
        assert one.before + one.read + one.after == encode(side.prompt, model.tokenizer, answer=side.answer).text


class _Terminal:
    """Standard error, as a terminal that keeps what is written."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_progress_only_where_somebody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tiny("llama"), choices())
    assert capsys.readouterr().err == ""
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    record(tiny("llama"), choices(), progress=False)
    assert terminal.text == ""
    with progress_bar(6, show=True) as advance:
        advance(2)
        advance(4)
    assert "recording" in terminal.text
    assert "6/6" in terminal.text
