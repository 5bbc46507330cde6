"""Where in a model: a layer and a site in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from steerkit.errors import LayerError

Site = Literal["resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"]
"""TransformerLens's words, in the order in which a block computes them.

The residual stream before, inside and after a block; what its two halves add to it (`attn_out`, `mlp_out`: with any
norm after them, so that stream + attn_out + mlp_out is the next stream); and `z`, the outputs of the attention heads
side by side, `[batch, pos, heads * head_size]`, before the output projection mixes them.
"""

SITES: tuple[Site, ...] = get_args(Site)


@dataclass(frozen=True, order=True)
class Point:
    """A place whose activations can be read and written.

    Args:
        layer: Decoder block, counted from 0. `resid_post` of block `l` is the block's output, which Hugging Face calls
            `hidden_states[l + 1]` (except for the last block, where Hugging Face reports it after the final norm).
        site: Where in the block.

    Raises:
        LayerError: The layer is negative or not an integer, or the site has no such name.

    Example:
        >>> Point(13)
        Point(layer=13, site='resid_post')
    """

    layer: int
    site: Site = "resid_post"

    def __post_init__(self) -> None:
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise LayerError(f"layer={self.layer!r} is not valid; layers are decoder blocks, counted from 0")
        if self.site not in SITES:
            raise LayerError(f"site={self.site!r} is not valid; choose one of {', '.join(SITES)}")


Layers = int | Sequence[int] | Literal["all"]


def resolve_layers(layers: Layers | None, *, num_layers: int) -> list[int]:
    """The layers meant, sorted and checked against the model's number of blocks.

    Args:
        layers: One layer, several, or `"all"` (also `None`).
        num_layers: How many blocks the model has.

    Raises:
        LayerError: A layer is out of range, given twice, or not an integer; or none is given.

    Example:
        >>> resolve_layers([3, 1], num_layers=4)
        [1, 3]
    """
    if layers is None or layers == "all":
        return list(range(num_layers))
    given: object = layers
    if isinstance(given, str) or not isinstance(given, int | Iterable):
        raise LayerError(f"layers={layers!r} is not valid; give an integer, a list of integers or 'all'")
    wanted = [layers] if isinstance(layers, int) else list(layers)
    if not wanted:
        raise LayerError("layers is empty; give at least one layer, or 'all'")
    for layer in wanted:
        if Point(layer).layer >= num_layers:
            raise LayerError(f"layer {layer} does not exist; the model has {num_layers} blocks, 0 to {num_layers - 1}")
    if len(set(wanted)) < len(wanted):
        raise LayerError(f"layers={wanted} names a layer twice")
    return sorted(wanted)
