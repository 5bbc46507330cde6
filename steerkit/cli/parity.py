"""The command that holds every backend against plain Hugging Face on the user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from steerkit.cli.application import Device, Json, Model, Plot, Precision, Split, app, load_model, show


@app.command()
def parity(
    model: Model,
    vector: Annotated[Optional[Path], typer.Option(help="A steering vector; without it a random one.")] = None,  # noqa: UP045
    layer: Annotated[Optional[int], typer.Option(help="Where it is added; without it the middle block.")] = None,  # noqa: UP045
    coef: Annotated[float, typer.Option(help="How often; not 0.")] = 1.0,
    pairs: Annotated[Optional[str], typer.Option(help="Contrast pairs; without them a few plain questions.")] = None,  # noqa: UP045
    split: Split = None,
    backends: Annotated[str, typer.Option(help="installed, or names with commas.")] = "installed",
    seed: Annotated[int, typer.Option(help="Of the random vector.")] = 0,
    device: Device = None,
    dtype: Precision = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Run one model through every backend, and show the largest differences; exit code 1 when one is too large."""
    import steerkit as sk

    direction = None if vector is None else sk.SteeringVector.load(vector)
    data = None if pairs is None else sk.load_pairs(pairs, split=split)
    names = backends if backends == "installed" else backends.split(",")
    moved = device is not None or dtype is not None
    source: Any = load_model(model, device=device, dtype=dtype) if moved else model
    found = sk.parity(source, vector=direction, layer=layer, coef=coef, pairs=data, backends=names, seed=seed)
    show(found, as_json=as_json, plot=plot)
    if not found.passed:
        raise typer.Exit(1)
