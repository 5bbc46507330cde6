"""Do the fast ways of recording, scoring and sweeping say what the plain way says?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from steerkit.backends.base import Model
from steerkit.data.encoding import encode
from steerkit.data.loading import load_pairs
from steerkit.data.pairs import ContrastPair
from steerkit.evaluation.choices import score_choices
from steerkit.evaluation.questions import read_questions
from steerkit.evaluation.sweeps import sweep
from steerkit.points import Point
from steerkit.recording import record
from steerkit.testing.checks import Check, Conformance, distance, judge
from steerkit.testing.running import batch_of, read
from steerkit.vectors import SteeringVector

TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""Of activations, relative to the largest; ten times that of probabilities, which follow from differences of logits."""

BY_BATCH = 2e-2
"""For LLM.int8, which decides by the whole batch what stays in half precision."""

COEFS = (-0.5, 0.0, 0.5)
"""In mean norms of the residual stream."""


def check_paths(model: Model, *, pairs: Sequence[ContrastPair] | None = None) -> Conformance:
    """Record, score and sweep a few pairs, each also in the plainest way: one text a forward pass, without a cache.

    Args:
        model: Any model.
        pairs: Multiple-choice pairs; without them three of the embedded ones.

    Raises:
        ConformanceError: A path differs from the plain one; the message shows all of them.
        DataError: A pair does not fit the model.
    """
    return judge(measure_paths(model, pairs=pairs))


def measure_paths(model: Model, *, pairs: Sequence[ContrastPair] | None = None) -> Conformance:
    """As `check_paths`, whatever comes out."""
    some = load_pairs("demo:sycophancy", split="test")[:3] if pairs is None else pairs
    allowed = TOLERANCE.get(model.info.dtype, 1e-1)
    if model.info.quantization == "bitsandbytes 8bit":
        allowed = max(allowed, BY_BATCH)
    checks = [Check("record = one text a pass", _recording(model, some), allowed)]
    checks.append(Check("score_choices = one text a pass", _scoring(model, some), 10 * allowed))
    checks += [Check(name, off, 10 * allowed) for name, off in _sweeping(model, some)]
    return Conformance(f"{model.info.name}: fast paths against the plain one", tuple(checks))


def _recording(model: Model, pairs: Sequence[ContrastPair]) -> float:
    store = record(model, pairs, read="last", progress=False)
    worst = 0.0
    points = [Point(layer) for layer in range(model.info.num_layers)]
    for row, pair in enumerate(pairs):
        for name in ("positive", "negative"):
            side = getattr(pair, name)
            ids = encode(side.prompt, model.tokenizer, answer=side.answer, template=_template(pairs)).ids
            alone = read(model, batch_of([ids]), points)
            for point in points:
                found = getattr(store[point.layer], name)[row]
                worst = max(worst, distance(found, alone[point][0, -1]))
    return worst


def _template(pairs: Sequence[ContrastPair]) -> str | None:
    return getattr(pairs, "prompt_template", None)


def _scoring(model: Model, pairs: Sequence[ContrastPair]) -> float:
    """Of the normalized probability, in the batch and by hand."""
    found = score_choices(model, pairs, scoring="letter").items.p_matching
    plain = []
    for question in read_questions(pairs, model.tokenizer, model.info):
        logits = model.forward(batch_of([question.shared]))[0, -1].double()
        both: Tensor = logits[[question.positive[0], question.negative[0]]]
        plain.append(both.softmax(0)[0])
    return float((torch.as_tensor(found).double().cpu() - torch.stack(plain).cpu()).abs().max())


def _sweeping(model: Model, pairs: Sequence[ContrastPair]) -> Iterator[tuple[str, float]]:
    """At the first, the middle and the last block."""
    layers = sorted({0, model.info.num_layers // 2, model.info.num_layers - 1})
    vector = _vector(model, pairs[0], layers)
    grids = {
        path: sweep(model, vector, pairs, coefs=COEFS, path=path, progress=False)
        for path in ("auto", "cached", "naive")
    }
    for path in ("auto", "cached"):
        name = grids[path].path
        if path == "cached" and name == grids["auto"].path:
            continue
        off = (grids[path].p_matching - grids["naive"].p_matching).abs().max()
        yield f"sweep, {name} = one text a pass", float(off)


def _vector(model: Model, pair: ContrastPair, layers: list[int]) -> SteeringVector:
    """A random direction at each layer, as long as the stream there."""
    ids = encode(pair.positive.prompt, model.tokenizer).ids
    seen = read(model, batch_of([ids]), [Point(layer) for layer in layers])
    norms = torch.stack([seen[Point(layer)].float().norm(dim=-1).mean().cpu() for layer in layers])
    values = torch.randn(len(layers), model.info.hidden_size, generator=torch.Generator().manual_seed(0))
    return SteeringVector(values / values.norm(dim=-1, keepdim=True) * norms.unsqueeze(-1), layers=layers)
