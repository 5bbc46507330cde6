"""Remote execution, rehearsed by nnsight's `remote="local"` and on a server process that has no steerkit."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_hf, tiny_tokenizer
from torch import Tensor

import steerkit as sk
from steerkit.backends.base import Batch
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.backends.nnsight import NNsightModel
from steerkit.errors import ModelError, NoEffectWarning
from steerkit.points import SITES, Point
from steerkit.steering import Ablate, Add, Clamp, Edit, PreserveNorm

PROMPTS = ["The sea is", "A", "Dogs bark at the"]
SCOPES = ["all", "prompt", "generation", 0, -1, [0, -2], slice(1, 3), slice(-3, None), slice(0, 9, 2)]
OPERATIONS = [Add(), Ablate(), Clamp(), PreserveNorm(Add()), PreserveNorm(Ablate())]

SERVER = """
import io, sys
sys.modules["steerkit"] = None  # nothing of ours is there
import torch
from nnsight.modeling.transformers import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.tracing.tracer import dec, inc

model = TransformersModel(sys.argv[1], task="text-generation", dispatch=True)
while size := int.from_bytes(sys.stdin.buffer.read(8), "big"):
    restored = RequestModel.deserialize(sys.stdin.buffer.read(size), model._remoteable_persistent_objects())
    inc()
    try:
        before = set(restored.info.frame.f_locals)
        frame = restored.info.frame
        restored.execute(restored.info.code)
        found = {name: value for name, value in frame.f_locals.items() if name not in before}
    finally:
        dec()
    buffer = io.BytesIO()
    torch.save(found, buffer)
    sys.stdout.buffer.write(len(buffer.getvalue()).to_bytes(8, "big") + buffer.getvalue())
    sys.stdout.buffer.flush()
"""


def pair(architecture: str = "llama") -> tuple[HuggingFaceModel, NNsightModel]:
    """The same weights here and there."""
    model = NNsightModel.wrap(tiny_hf(architecture), tiny_tokenizer())
    model.remote = "local"
    return HuggingFaceModel.wrap(tiny_hf(architecture), tiny_tokenizer()), model


def vector() -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(1))


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())


def receipts(steer: sk.Steer) -> list[tuple[int, int]]:
    return [(one.passes, one.tokens) for one in steer.receipts]


@pytest.mark.parametrize("positions", SCOPES, ids=str)
def test_every_scope_acts_there_as_here(positions: Any) -> None:
    plain, model = pair()
    steers = [sk.Steer(one).add(vector(), layer=[1, 2], coef=2, positions=positions) for one in (plain, model)]
    wanted, found = (steer.forward(PROMPTS) for steer in steers)
    real = plain.encode(PROMPTS).real
    assert close(found[real], wanted[real])
    assert steers[0].generate(PROMPTS, max_new_tokens=5) == steers[1].generate(PROMPTS, max_new_tokens=5)
    assert receipts(steers[0]) == receipts(steers[1])
    for one, other in zip(*(steer.receipts for steer in steers), strict=True):
        assert one.change_norm == pytest.approx(other.change_norm, rel=1e-4)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_every_operation_acts_there_by_its_name(operation: Any) -> None:
    plain, model = pair("gpt2")
    wanted, found = (sk.Steer(one).apply(operation, vector(), layer=1, coef=0.7, positions="all").forward("hello there")
                     for one in (plain, model))  # fmt: skip
    assert close(found, wanted)
    assert not close(found, model.forward("hello there"))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_every_site_is_read_and_written_there(architecture: str, site: Any) -> None:
    plain, model = pair(architecture)
    seen: list[list[Tensor]] = [[], []]
    shift = torch.randn(plain.info.width(site))
    logits = []
    for i, one in enumerate((plain, model)):
        keep = lambda hidden, _, i=i: seen[i].append(hidden.clone())  # noqa: E731
        with (one.hook(Point(1, site), keep), sk.Steer(one).add(shift, layer=1, site=site, positions="all"),
              sk.Steer(one).ablate(shift, layer=1, site="z", positions=0) if site == "z" else one.hook(Point(2), keep),
              one.hook(Point(1, site), keep)):  # fmt: skip
            logits.append(one.forward("hello there"))
    assert close(logits[1], logits[0])
    assert len(seen[0]) == len(seen[1]) > 1
    assert all(close(b, a) for a, b in zip(seen[0], seen[1], strict=True))


def test_rows_coefficients_and_beams_go_with_their_prompts() -> None:
    plain, model = pair()
    rows = [[Edit(vector(), layer=1, coef=3)], [], [Edit(-vector(), layer=1), Edit(vector(), layer=2)]]
    for decoding in ({}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
        found = []
        for one in (plain, model):
            torch.manual_seed(0)
            steer = sk.Steer(one).rows(rows).add(vector(), layer=2, coef=torch.tensor([1.0, 0.0, -2.0]))
            found.append((steer.generate(PROMPTS, max_new_tokens=4, **decoding), receipts(steer)))
        assert found[0] == found[1]


def test_a_whole_run_gives_the_same_numbers() -> None:
    base = sk.load("demo")
    model = sk.load("demo", backend="nnsight")
    assert isinstance(model, NNsightModel)
    model.remote = "local"
    pairs = sk.load_pairs("demo:sycophancy", split="train")[:4]
    vectors = [sk.extract(sk.record(one, pairs, layers=[2, 3], progress=False)) for one in (base, model)]
    assert close(vectors[1].values, vectors[0].values)
    scores = [sk.score_choices(sk.Steer(one).add(vectors[0], layer=3), pairs).items.p_matching for one in (base, model)]
    assert close(scores[1], scores[0])
    grids = [
        sk.sweep(one, vectors[0], pairs[:2], layers=[2, 3], coefs=(-1, 1), progress=False) for one in (base, model)
    ]
    assert grids[0].path == grids[1].path == "packed"
    assert close(grids[1].items, grids[0].items)


@pytest.mark.parametrize("architecture", ["llama", "mistral_sliding", "jamba"])
def test_a_prefix_comes_back_and_goes_on(architecture: str) -> None:
    plain, model = pair(architecture)
    logits = []
    for one in (plain, model):
        prefix = one.prefill(one.encode("hello th")).copies(2)
        rest = one.encode("ere")
        batch = Batch(rest.input_ids.repeat(2, 1), rest.position.repeat(2, 1) + 8, torch.tensor([8, 8]))
        logits.append(one.forward(batch, prefix=prefix))
    assert close(logits[1], logits[0])


def test_an_edit_also_travels_with_a_trace_of_the_users_own() -> None:
    plain, model = pair()
    nn, ids = model.nn, plain.encode("hello there").input_ids
    with torch.no_grad(), sk.Steer(plain).add(vector(), layer=1, coef=3):
        wanted, decoded = plain.hf(ids).logits, plain.hf.generate(ids, max_new_tokens=4, pad_token_id=0)
    with torch.no_grad(), sk.Steer(model).add(vector(), layer=1, coef=3):
        with nn.trace(ids, remote="local"):
            logits = nn.output.logits.save()
        with nn.generate(ids, max_new_tokens=4, pad_token_id=0, remote="local") as tracer:
            found = tracer.result.save()
    assert close(logits, wanted)
    assert found.tolist() == decoded.tolist()
    assert not nn._edits


class Mine(Add):
    """An addition by name only."""


def test_python_of_the_users_own_is_refused() -> None:
    _, model = pair()
    base = model.forward("hello")
    with pytest.raises(ModelError, match=r"Mine\(\) is Python that a server does not have.*remote=False"):
        sk.Steer(model).apply(Mine(), vector(), layer=1).forward("hello")
    with pytest.raises(ModelError, match="is Python that a server does not have"), model.hook(Point(1), lambda h, _: h):
        model.forward("hello")
    with model.hook(Point(1), lambda h, _: None), pytest.raises(ModelError, match="something is hooked"):
        model.remote = False
    assert not model.nn._edits
    assert torch.equal(model.forward("hello"), base)


def test_an_edit_that_touches_nothing_warns_there_too() -> None:
    _, model = pair()
    with pytest.warns(NoEffectWarning, match="touched no token"):
        sk.Steer(model).add(vector(), layer=1, positions=50).forward("hello")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_hf("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NNsightModel]:
    """A model without weights, whose traces go to a process where steerkit cannot be imported."""
    from nnsight.modeling.transformers import TransformersModel
    from nnsight.schema.request import RequestModel
    from nnsight.tracing.tracer import save
    from nnsight.tracing.util import push

    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as it:

        class Sent:
            def __call__(self, tracer: Any) -> None:
                blob = RequestModel.serialize(tracer)
                it.stdin.write(len(blob).to_bytes(8, "big") + blob)  # type: ignore[union-attr]
                it.stdin.flush()  # type: ignore[union-attr]
                size = int.from_bytes(it.stdout.read(8), "big")  # type: ignore[union-attr]
                found = torch.load(io.BytesIO(it.stdout.read(size)), weights_only=False)  # type: ignore[union-attr]
                for value in found.values():
                    save(value)
                push(tracer.info.frame, found)

        monkeypatch.setattr(TransformersModel, "_remote_backend", lambda *_: Sent())
        nn = TransformersModel(str(folder), task="text-generation", tokenizer=tiny_tokenizer())
        yield NNsightModel(nn, remote=True)
        it.stdin.close()  # type: ignore[union-attr]


def test_a_server_without_steerkit_does_the_same(served: NNsightModel, folder: Path) -> None:
    plain = sk.load(folder)
    assert not served.nn.dispatched
    assert served.info.fingerprint == plain.info.fingerprint
    real = plain.encode(PROMPTS).real
    seen: list[list[Tensor]] = [[], []]
    results = []
    for i, one in enumerate((plain, served)):
        steer = sk.Steer(one).add(vector(), layer=1, coef=3).clamp(vector(), layer=2, value=1.0, positions="prompt")
        with one.hook(Point(2), lambda hidden, _, i=i: seen[i].append(hidden)):
            logits = steer.forward(PROMPTS)
            one.forward(PROMPTS, until=2)
        texts = steer.generate(PROMPTS, max_new_tokens=5)
        prefix = one.prefill(one.encode("hello"))
        step = Batch(torch.tensor([[70]]), torch.tensor([[5]]), torch.tensor([5]))
        twice = [one.forward(step, prefix=prefix) for _ in range(2)]
        logits = torch.cat([logits[real], *(one[0] for one in twice)])
        results.append((logits, texts, receipts(steer)))
    assert close(results[1][0], results[0][0])
    assert results[0][1:] == results[1][1:]
    assert len(seen[1]) == 2
    assert all(close(b[real], a[real]) for a, b in zip(*seen, strict=True))
    assert not served.nn.dispatched
