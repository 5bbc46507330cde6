"""Receipts against counts by hand, and what is printed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny
from torch import Tensor

from steerkit.points import Point
from steerkit.steering import Ablate, Edit, Steer

VECTOR = torch.linspace(-1, 1, 32)
PROMPTS = ["The sea is", "A", "Dogs bark at the"]
LENGTHS = [10, 1, 16]


@pytest.mark.parametrize(
    ("positions", "tokens"),
    [("all", 27 + 3 * 5), ("prompt", 27), ("generation", 3 * 6), (0, 3), ([0, 12], 3 + 2), (slice(15, 17), 1 + 1)],
)
def test_tokens_are_counted_exactly(positions: Any, tokens: int) -> None:
    """Six new tokens, so five decoding steps; row 0 reaches position 14, row 1 position 5, row 2 position 20."""
    model = tiny("llama")
    steer = Steer(model).add(VECTOR, layer=1, positions=positions).ablate(VECTOR, layer=2, positions=positions)
    steer.generate(PROMPTS, max_new_tokens=6, min_new_tokens=6)
    reached = sum(_selected(positions, length) for length in LENGTHS)
    assert [(receipt.passes, receipt.tokens) for receipt in steer.receipts] == [(6, reached)] * 2
    assert reached == tokens


def _selected(positions: Any, length: int) -> int:
    fed = range(length + 5)
    if isinstance(positions, str):
        return {"all": len(fed), "prompt": length, "generation": 6}[positions]
    if isinstance(positions, slice):
        return len(fed[positions])
    return sum(one in fed for one in ([positions] if isinstance(positions, int) else positions))


def test_the_mean_change_and_its_relative_size_are_those_of_the_activations() -> None:
    model = tiny("llama")
    seen: list[Tensor] = []
    unit = VECTOR / VECTOR.norm()
    with model.hook(Point(2), lambda h, _: seen.append(h)), Steer(model).ablate(VECTOR, layer=2) as steer:
        model.generate("The sea", max_new_tokens=6, min_new_tokens=6)
    chosen = torch.cat([seen[0][0, -1:], *[one[0] for one in seen[1:]]])
    change = (chosen @ unit).abs().mean()
    (receipt,) = steer.receipts
    assert receipt.change_norm == pytest.approx(float(change), rel=1e-5)
    assert receipt.relative == pytest.approx(float(change / chosen.norm(dim=-1).mean()), rel=1e-5)


@pytest.mark.parametrize("sampled", [1, 16])
def test_an_addition_knows_its_change_and_measures_some_steps(sampled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerkit.steering.receipts.EVERY", sampled)
    model = tiny("llama")
    seen: list[Tensor] = []
    with model.hook(Point(2), lambda h, _: seen.append(h)), Steer(model).add(VECTOR, layer=2, coef=-3) as steer:
        model.generate(PROMPTS, max_new_tokens=36, min_new_tokens=36)
    prefill, steps = seen[0][:, -1].norm(dim=-1), torch.stack([one[:, 0].norm(dim=-1) for one in seen[1:]])
    mean = (prefill.sum() + steps[::sampled].mean(0).sum() * 35) / (3 * 36)
    (receipt,) = steer.receipts
    assert receipt.tokens == 3 * 36
    assert receipt.change_norm == pytest.approx(3 * float(VECTOR.norm()), rel=1e-5)
    assert receipt.relative == pytest.approx(3 * float(VECTOR.norm() / mean), rel=1e-5)


def test_receipts_are_of_the_last_entering_and_read_live() -> None:
    model = tiny("llama")
    steer = Steer(model).add(VECTOR, layer=1, positions="all")
    assert steer.receipts[0].tokens == 0
    steer.forward("abc")
    steer.forward("abcd")
    assert steer.receipts[0].tokens == 4
    with steer:
        model.forward("ab")
        assert steer.receipts[0].tokens == 2
        model.forward(["abc", "ab"])
        assert (steer.receipts[0].passes, steer.receipts[0].tokens) == (2, 7)


def test_by_row_each_edit_has_its_own_receipt() -> None:
    model = tiny("llama")
    first, second = Edit(VECTOR, layer=1, positions="all"), Edit(VECTOR, layer=1, coef=-2, positions="all")
    third = Edit(VECTOR, layer=1, operation=Ablate())
    steer = Steer(model).rows([[first, third], [], [second]])
    steer.generate(PROMPTS, max_new_tokens=4, min_new_tokens=4, num_return_sequences=2, do_sample=True)
    found = {(receipt.edit, receipt.row): receipt for receipt in steer.receipts}
    assert found[first, 0].tokens == 2 * (10 + 3)
    assert found[second, 2].tokens == 2 * (16 + 3)
    assert found[third, 0].tokens == 2 * 4
    assert found[second, 2].change_norm == pytest.approx(2 * found[first, 0].change_norm, rel=1e-5)
    rows = Steer(model).add(VECTOR, layer=1, coef=torch.tensor([0.0, 1.0, 3.0]))
    rows.generate(PROMPTS, max_new_tokens=4, min_new_tokens=4)
    assert rows.receipts[0].tokens == 2 * 4
    assert rows.receipts[0].change_norm == pytest.approx(2 * float(VECTOR.norm()), rel=1e-5)


def test_the_table_shows_every_edit_before_and_after() -> None:
    model = tiny("llama")
    steer = Steer(model).add(VECTOR, layer=[1, 3], coef=-2, positions=slice(1, 3)).ablate(VECTOR, layer=2)
    before = str(steer).splitlines()
    assert before[0] == "Steer of tiny-llama: 2 edits, idle"
    assert [line.split()[0] + line.split()[2] for line in before[2:]] == ["01", "03", "12"]
    steer.forward("abcde")
    assert [line.split()[-3] for line in str(steer).splitlines()[2:]] == ["2", "2", "1"]
    assert steer._repr_html_().count("<tr>") == 4
    with steer:
        assert "acting" in str(steer)
        model.forward("abcde")


def test_preview_marks_what_the_run_then_changes() -> None:
    model = tiny("llama")
    prompts: list[Any] = [[{"role": "user", "content": "Is\nit?"}], "abc[de"]
    for positions in ("all", "prompt", "generation", 1, slice(2, 8), [0, -1]):
        steer = Steer(model).add(VECTOR, layer=1, positions=positions)  # type: ignore[arg-type]
        ((_, marked),) = steer.preview(prompts).parts
        steer.forward(prompts)
        assert sum(sum(one.selected) for one in marked) == steer.receipts[0].tokens
    text = str(Steer(model).add(VECTOR, layer=1).add(VECTOR, layer=1, positions=8).preview("abcd<e>"))
    assert "abcd<e[>]" in text
    assert "1 of 7 tokens and every token of the answer" in text
    assert "0 of 7 tokens and answer tokens 1" in text
    shown = Steer(model).add(VECTOR, layer=1, positions=[1, 4]).preview("abcd<e>")
    assert shown.ansi.count("\033[0m") == 2
    assert "&lt;</mark>" in shown._repr_html_()
    by_row = Steer(model).rows([[], [Edit(VECTOR, layer=1, positions=0)]]).preview(["abc", "xyz"])
    assert "[x]yz" in str(by_row)
    assert "abc" not in str(by_row)
