"""Attention heads from the text of an option."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from steerkit.errors import InputError

Heads = Annotated[Optional[str], typer.Option("--heads", help="Of a vector of site z: LAYER:HEAD, like 2:1,4:0.")]  # noqa: UP045


def head_list(text: str) -> list[tuple[int, int]]:
    """Heads from text such as `2:1,4:0`.

    Raises:
        InputError: It has another form.
    """
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return [(int(layer), int(head)) for layer, head in pairs]
    except ValueError:
        raise InputError(f"--heads {text!r} is not valid; give LAYER:HEAD, like 2:1,4:0") from None


def load_vector(path: Any, heads: str | None) -> Any:
    """A vector of a file, at some heads only where these are named."""
    import steerkit as sk

    vector = sk.SteeringVector.load(path)
    return vector if heads is None else vector.heads(head_list(heads))
