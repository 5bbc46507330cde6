"""The contract of an extraction method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steerkit.store import Paired
from steerkit.testing.checks import Check, Conformance, distance, judge


def check_extractor(extractor: Callable[[Paired], Tensor], *, hidden_size: int = 16, seed: int = 0) -> Conformance:
    """Hold an extraction method to its contract: `extractor(paired)` returns one direction `[hidden]`.

    It finds a planted direction, points from negative to positive, turns round when the sides are swapped, does not
    depend on the order of the pairs, and does not write to its input.

    Args:
        extractor: What `extract` takes as its method.
        hidden_size: Width of the activations tried.
        seed: Of the random activations.

    Raises:
        ConformanceError: A check failed; the message shows all of them.

    Example:
        >>> check_extractor(lambda acts: (acts.positive - acts.negative).mean(dim=0)).passed
        True
    """
    generator = torch.Generator().manual_seed(seed)
    planted = torch.nn.functional.normalize(torch.randn(hidden_size, generator=generator), dim=0)
    common = torch.randn(200, hidden_size, generator=generator)
    noise = 0.3 * torch.randn(2, 200, hidden_size, generator=generator)
    acts = Paired(common + planted + noise[0], common - planted + noise[1])
    kept = acts.positive.clone()
    found = extractor(acts)
    order = torch.randperm(200, generator=generator)
    shuffled = extractor(Paired(acts.positive[order], acts.negative[order]))
    swapped = extractor(Paired(acts.negative, acts.positive))
    cosine = float(torch.nn.functional.cosine_similarity(found, planted, dim=0)) if found.ndim == 1 else -1.0
    checks = (
        Check("returns [hidden], finite", float(found.shape != planted.shape or not bool(found.isfinite().all())), 0.0),
        Check("1 - cosine with the planted direction", 1 - cosine, 0.2),
        Check("swapped sides turn it round", distance(swapped, -found), 1e-2),
        Check("the order of pairs does not matter", distance(shuffled, found), 1e-2),
        Check("the input is not written to", distance(acts.positive, kept, exact=True), 0.0),
    )
    return judge(Conformance(f"{extractor!r}: the contract of an extractor", checks))
