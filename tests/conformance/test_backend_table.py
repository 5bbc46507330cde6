"""The table of docs/backends.md, row by row, as it comes out of running."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_cases import SCOPES, answers, distance, letter_pairs, measured, other, plain
from tiny import tiny_hf, tiny_tokenizer
from torch import Tensor

import steerkit as sk
from steerkit.backends.base import Batch
from steerkit.backends.loading import load
from steerkit.errors import InputError, ModelError
from steerkit.points import SITES, Point
from steerkit.steering import Add, Edit

PAGE = Path(__file__).parents[2] / "docs" / "backends.md"
COLUMNS = ("huggingface", "transformer_lens", "nnsight", "nnsight, remote")
PROMPTS = ["hello there", "hi"]


class Mine(Add):
    """An operation of the user's own."""


def model_of(column: str) -> Any:
    name, _, remote = column.partition(", ")
    if name == "huggingface":
        return plain("llama")
    model = other(name, "llama")
    if remote:
        model.remote = "local"
    return model


def vector() -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(1))


def same(model: Any, run: Callable[[Any], Any]) -> bool:
    """Whether a run gives what plain hooks give."""
    found, wanted = run(model), run(plain("llama"))
    pairs = zip(found, wanted, strict=True) if isinstance(found, list) else [(found, wanted)]
    return all(distance(a, b) <= 1e-5 if isinstance(a, Tensor) else a == b for a, b in pairs)


def allowed(run: Callable[[], Any]) -> bool:
    """Whether it is not refused."""
    try:
        run()
    except (InputError, ModelError):
        return False
    return True


def whole_run(model: Any) -> list[Tensor]:
    return list(measured(model, letter_pairs(), letter_pairs())[0].values())


def every_scope(model: Any) -> list[Any]:
    return [part for one in SCOPES for part in answers(model, vector(), PROMPTS, positions=one, tokens=3)[:2]]


def by_row(model: Any) -> list[Any]:
    rows = [[Edit(vector(), layer=1, coef=2)], [Edit(-vector(), layer=2)]]
    return [sk.Steer(model).rows(rows).generate(PROMPTS, max_new_tokens=4)]


def every_site(model: Any) -> list[Tensor]:
    steers = [sk.Steer(model).add(vector(), layer=1, site=site, positions="all") for site in SITES]
    return [steer.forward(PROMPTS)[model.encode(PROMPTS).real] for steer in steers]


def decoded(**options: Any) -> Callable[[Any], list[Any]]:
    return lambda model: [answers(model, vector(), PROMPTS, positions="generation", **options)[0]]


def goes_on(model: Any) -> Tensor:
    rest = model.encode("ere")
    prefix = model.prefill(model.encode("hello th"))
    return model.forward(Batch(rest.input_ids, rest.position + 8, torch.tensor([8])), prefix=prefix)


def stops(model: Any) -> list[Tensor]:
    seen: list[Tensor] = []
    with model.hook(Point(1), lambda hidden, _: seen.append(hidden.clone())), \
            model.hook(Point(2), lambda hidden, _: seen.append(hidden.clone())):  # fmt: skip
        model.forward("hello", until=1)
    return seen


def own_generate(model: Any, how: str) -> bool:
    """The library's own call, steered."""
    ids = model.encode(PROMPTS[0]).input_ids
    with sk.Steer(plain("llama")).add(vector(), layer=1, coef=3) as steer:
        wanted = steer.model.hf.generate(ids, max_new_tokens=4, pad_token_id=0)
    options = {"max_new_tokens": 4, "do_sample": False}
    with sk.Steer(model).add(vector(), layer=1, coef=3):
        if how == "huggingface":
            found = model.hf.generate(ids, pad_token_id=0, **options)
        elif how == "transformer_lens":
            found = model.bridge.generate(ids, verbose=False, **options)
        else:
            nn, remote = model.nn, model.remote
            with nn.generate(ids, pad_token_id=0, remote=remote, **options) as tracer:
                found = tracer.result.save()
    return bool(found.tolist() == wanted.tolist())


def direct_call(model: Any) -> bool:
    """The transformers module itself, called by hand."""
    ids = model.encode(PROMPTS[0]).input_ids
    with torch.no_grad(), sk.Steer(model).add(vector(), layer=1, positions="all"):
        changed = model.hf(input_ids=ids).logits
    with torch.no_grad():
        return not torch.equal(changed, model.hf(input_ids=ids).logits)


def unloaded(column: str, folder: Path) -> bool:
    """Whether it runs without the weights being here."""
    if not column.startswith("nnsight"):
        return False
    from nnsight.modeling.transformers import TransformersModel

    from steerkit.backends.nnsight import NNsightModel

    nn = TransformersModel(str(folder), task="text-generation", tokenizer=tiny_tokenizer())
    return allowed(lambda: NNsightModel(nn, remote="local" if "remote" in column else False))


def runs_sdpa(column: str) -> bool:
    """Whether a model with PyTorch's fused attention still calls it."""
    hf = tiny_hf("llama", attn_implementation="sdpa")
    model: Any = load(hf, tokenizer=tiny_tokenizer(), backend=column.partition(", ")[0])
    attend, calls = torch.nn.functional.scaled_dot_product_attention, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention",
                      lambda *args, **options: calls.append(1) or attend(*args, **options))  # fmt: skip
        model.forward("hello")
    return bool(calls)


def distills(model: Any) -> bool:
    direction, fit = sk.SteeringVector(vector()[None], layers=[1]), sk.Fit(steps=1)
    return allowed(lambda: sk.distill(model, direction, layer=1, prompts=["hello there"], fit=fit, progress=False))


ROWS: dict[str, Callable[[Any, str, Path], bool]] = {
    "`record`, `extract`, `score_choices`, `sweep`": lambda m, *_: same(m, whole_run),
    "every token scope": lambda m, *_: same(m, every_scope),
    "other edits for each row": lambda m, *_: same(m, by_row),
    "all six sites": lambda m, *_: same(m, every_site),
    "greedy and sampled answers": lambda m, *_: same(m, decoded()) and same(m, decoded(do_sample=True)),
    "beams, several answers to a prompt": lambda m, *_: same(m, decoded(num_beams=3, num_return_sequences=2)),
    "going on from a cached prefix": lambda m, *_: same(m, goes_on),
    "stopping after a block": lambda m, *_: same(m, stops),
    "the library's own `generate` is steered": lambda m, column, _: own_generate(m, column),
    "a call of the transformers module is steered": lambda m, *_: direct_call(m),
    "an operation or hook of your own": lambda m, *_: allowed(
        lambda: sk.Steer(m).apply(Mine(), vector(), layer=1).forward("hello")
    ),
    "attention other than eager": lambda _, column, __: runs_sdpa(column),
    "weights need not be on this machine": lambda _, column, folder: unloaded(column, folder),
    "`distill`, `teach`, `rahf`, adapters, export": lambda m, *_: distills(m),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_hf("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def printed() -> dict[str, list[str]]:
    """The table of the page, by row."""
    lines = PAGE.read_text("utf-8").partition("## What each can do")[2].partition("## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    table = {row[0]: row[1:] for row in cells if not re.fullmatch(r"-+", row[0])}
    assert [one.strip("`") for one in table.pop("")] == list(COLUMNS)
    return table


def test_the_table_has_these_rows() -> None:
    assert list(printed()) == list(ROWS)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_a_cell_says_what_running_says(row: str, column: str, folder: Path) -> None:
    works = ROWS[row](model_of(column), column, folder)
    assert printed()[row][COLUMNS.index(column)] == ("yes" if works else "no")
