"""Which layers have targets, and how others count them."""

from __future__ import annotations

from steerkit.errors import LayerError
from steerkit.points import Layers, resolve_layers

TargetLayers = Layers | str
"""Blocks counted from 0, or RAHF's notation `"first,last,step"`, which counts Hugging Face's `hidden_states`."""


def default_layers(num_layers: int) -> list[int]:
    """Up to five layers between 30 and 60 percent of the depth, at even distances.

    Source: RAHF and LORRA take every second of the 32 layers of Llama-2-7B from `hidden_states[10]`, which is block 9.

    Example:
        >>> default_layers(32), default_layers(8)
        ([9, 11, 13, 15, 17], [2, 3, 4])
    """
    stride = max(1, round(0.3 * num_layers / 4))
    first = int(0.3 * num_layers)
    return [layer for layer in range(first, first + 5 * stride, stride) if layer <= max(0.6 * num_layers, first)]


def hidden_state_indices(layers: list[int] | tuple[int, ...]) -> list[int]:
    """The same layers as Hugging Face counts `hidden_states`, where 0 is the embeddings.

    Example:
        >>> hidden_state_indices([9, 11])
        [10, 12]
    """
    return [layer + 1 for layer in layers]


def rahf_layers(notation: str, *, mode: str, num_layers: int) -> list[int]:
    """The blocks that RAHF's notation means: `hidden_states[i]` is the output of block `i - 1`.

    Args:
        notation: `"first,last,step"`. For `"dual"` the last one is included; else it is not, as in Python's range.
        mode: How the model was taught.
        num_layers: How many blocks the model has.

    Raises:
        LayerError: It is not three whole numbers, names no layer, names `hidden_states[0]` (the embeddings, which no
            block makes) or the last one, which Hugging Face reports after the final norm, or one beyond.

    Source: RAHF's `args.py` and launch scripts: `10,20,2` are five layers for SCIT and six for DUAL.

    Example:
        >>> rahf_layers("10,20,2", mode="scit", num_layers=32)
        [9, 11, 13, 15, 17]
        >>> rahf_layers("10,20,2", mode="dual", num_layers=32)
        [9, 11, 13, 15, 17, 19]
    """
    parts = [part.strip() for part in notation.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts) or parts[2] in ("", "0"):
        raise LayerError(f"layers={notation!r} is not valid; give 'first,last,step' as RAHF does, such as '10,20,2', "
                         "or a list of blocks counted from 0")  # fmt: skip
    first, last, step = map(int, parts)
    indices = list(range(first, last + (mode == "dual"), step))
    if not indices:
        raise LayerError(f"layers={notation!r} names no layer for mode {mode!r}; the first must lie before the last")
    if indices[0] == 0:
        raise LayerError(f"layers={notation!r} begins with hidden_states[0], the embeddings; no block makes them. "
                         "Begin with 1")  # fmt: skip
    if indices[-1] == num_layers:
        raise LayerError(f"layers={notation!r} ends with hidden_states[{num_layers}], which Hugging Face reports after "
                         f"the final norm; for the block's own output give layers=[..., {num_layers - 1}]")  # fmt: skip
    if indices[-1] > num_layers:
        raise LayerError(f"layers={notation!r} names hidden_states[{indices[-1]}]; the model has {num_layers} blocks, "
                         f"so the last usable one is {num_layers - 1}")  # fmt: skip
    return [index - 1 for index in indices]


def resolve_targets(layers: TargetLayers | None, *, mode: str, num_layers: int) -> list[int]:
    """The layers meant: blocks, RAHF's notation, or the default ones.

    Raises:
        LayerError: A layer does not exist, is given twice, or the notation is not valid.
    """
    if layers is None:
        return default_layers(num_layers)
    if isinstance(layers, str) and layers != "all":
        return rahf_layers(layers, mode=mode, num_layers=num_layers)
    return resolve_layers(layers, num_layers=num_layers)  # type: ignore[arg-type]
