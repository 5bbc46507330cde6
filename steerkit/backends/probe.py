"""A live check at load: does the model keep its residual stream where the table of layouts says?"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from steerkit.backends.base import Batch
from steerkit.errors import ModelError
from steerkit.points import SITES, Point, Site
from steerkit.positions import Pass

TOKENS = 4
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Relative to the norm of the stream, for one addition in that precision."""

PARTS: dict[Site, str] = {"z": "output projection", "attn_out": "attention", "mlp_out": "MLP"}


def check_layout(model: Any) -> None:
    """Run a few tokens and hold what comes out of every block against what residual blocks must do.

    A block's output is the next block's input, has the width of the residual stream, and is its input plus what its
    attention and then its MLP return.

    Raises:
        ModelError: One of these does not hold; the message says where.
    """
    seen = _record(model)
    width, blocks, kind = model.info.hidden_size, model.info.num_layers, model.info.architecture
    for layer in range(blocks):
        entering, leaving = (seen.get(Point(layer, site)) for site in ("resid_pre", "resid_post"))
        if entering is None or leaving is None:
            raise ModelError(f"block {layer} of {blocks} did not run; the layout of {kind!r} is wrong")
        if leaving.shape != (1, TOKENS, width):
            raise ModelError(f"block {layer} returns {tuple(leaving.shape)}, not (1, {TOKENS}, {width})")
        if layer and not torch.equal(entering, seen[Point(layer - 1)]):
            raise ModelError(f"what block {layer - 1} returns is not what block {layer} is given")
        _check_parts(model, layer, seen)


def _check_parts(model: Any, layer: int, seen: dict[Point, Tensor]) -> None:
    """Everything named ran, attention before the MLP, and together they are what the block adds."""
    order = [point.site for point in seen if point.layer == layer]
    for site, part in PARTS.items():
        if model.parts.has(layer, site) and site not in order:
            raise ModelError(f"the {part} of block {layer} did not run; the layout is wrong")
    if "z" in order and seen[Point(layer, "z")].shape[-1] != model.info.width("z"):
        raise ModelError(f"the output projection of block {layer} is given {seen[Point(layer, 'z')].shape[-1]} values, "
                         f"not those of {model.info.heads} heads; the layout is wrong")  # fmt: skip
    if model.parts.layout.attn is None:
        return
    added = [site for site in order if site in ("attn_out", "mlp_out")]
    if added == ["mlp_out", "attn_out"]:
        raise ModelError(f"the MLP of block {layer} runs before its attention; the layout has them the wrong way round")
    entering, leaving = seen[Point(layer, "resid_pre")], seen[Point(layer)]
    total = entering + sum(seen[Point(layer, site)] for site in added)
    error = float((total - leaving).norm() / leaving.norm().clamp(min=1e-6))
    if not error <= TOLERANCE.get(model.info.dtype, 1e-1):
        raise ModelError(f"block {layer} is not its input plus attention plus MLP (off by {error:.2g} of its norm); "
                         "this architecture needs a layout of its own")  # fmt: skip


def _record(model: Any) -> dict[Point, Tensor]:
    seen: dict[Point, Tensor] = {}
    with ExitStack() as stack:
        for layer in range(model.info.num_layers):
            for site in SITES:
                if site == "resid_mid" or not model.parts.has(layer, site):
                    continue
                point = Point(layer, site)

                def keep(hidden: Tensor, _: Pass, point: Point = point) -> None:
                    seen[point] = hidden.detach().to("cpu", torch.float32, copy=True)

                stack.enter_context(model.hook(point, keep))
        ids = torch.arange(TOKENS).unsqueeze(0) % max(int(model.hf.config.get_text_config().vocab_size), 1)
        batch = Batch(ids, torch.arange(TOKENS).unsqueeze(0), torch.tensor([TOKENS]))
        model.forward(batch, columns=[TOKENS - 1])
    return seen
