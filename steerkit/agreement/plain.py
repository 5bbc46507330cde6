"""The reference itself, against transformers alone: no tap, no pass and no position of steerkit's is used."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor

from steerkit.agreement.workload import Workload
from steerkit.backends.causal import CausalModel
from steerkit.points import Point


def plain_logits(model: CausalModel, work: Workload) -> Tensor:
    """What the transformers model returns."""
    return _logits(model, work)


def plain_states(model: CausalModel, work: Workload) -> dict[Point, Tensor]:
    """What each block returns, by forward hooks written by hand."""
    seen: dict[Point, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def see(_module: Any, _given: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            seen[Point(layer)] = hidden[:, work.columns.start :].cpu().clone()

        return see

    handles = [block.register_forward_hook(keep(layer)) for layer, block in enumerate(model.parts.blocks)]
    try:
        _call(model, work)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def plain_steered_logits(model: CausalModel, work: Workload) -> Tensor:
    """With a forward hook written by hand, which adds the vector from the template's last token on."""
    handle = model.parts.blocks[work.point.layer].register_forward_hook(_addition(work))
    try:
        return _logits(model, work)
    finally:
        handle.remove()


def _addition(work: Workload) -> Callable[..., Any]:
    chosen = (work.batch.position >= work.batch.prompt_length.unsqueeze(-1) - 1).unsqueeze(-1)

    def add(_module: Any, _given: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        moved = (hidden.float() + work.coef * work.vector.to(hidden.device)).to(hidden.dtype)
        changed = torch.where(chosen.to(hidden.device), moved, hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return add


def _logits(model: CausalModel, work: Workload) -> Tensor:
    return cast(Tensor, _call(model, work).logits)[:, work.columns.start :].cpu()


@torch.no_grad()
def _call(model: CausalModel, work: Workload, **options: Any) -> Any:
    batch = work.batch
    if "position_ids" in signature(model.hf.forward).parameters:
        options["position_ids"] = batch.position.clamp(min=0).to(model.device)
    return model.hf(
        input_ids=batch.input_ids.to(model.device),
        attention_mask=batch.real.long().to(model.device),
        use_cache=False,
        **options,
    )


PLAIN: dict[str, Callable[[CausalModel, Workload], Any]] = {
    "logits": plain_logits,
    "states": plain_states,
    "steered logits": plain_steered_logits,
}
"""The quantities that transformers alone can give."""
