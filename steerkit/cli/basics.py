"""Commands for the whole: the demo, and what this machine and a model can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from steerkit.cli.application import Backend, Device, Json, Precision, Quantization, app, check_out, load_model, show
from steerkit.errors import InputError


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report and what it was made from.")] = Path(
        "steerkit-demo"
    ),
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on the embedded model and write a report."""
    from steerkit.demo.beside import aligning

    try:
        check_out(out, "acts", "report.html").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written ({error}); give another folder") from error
    with aligning("demo", out / "adapters") as beside:  # before the heavy imports, which take as long there
        from steerkit.demo.run import run_demo

        result = run_demo(out, progress=not as_json, beside=beside)
    print(result.to_json() if as_json else result)


@app.command()
def doctor(
    model: Annotated[Optional[str], typer.Argument(help="'demo', a folder, or a hub id.")] = None,  # noqa: UP045
    full: Annotated[
        bool, typer.Option("--full", help="Run the whole suite on the model: every site, cache, batch and path.")
    ] = False,
    backend: Backend = None,
    device: Device = None,
    model_dtype: Precision = None,
    quantization: Quantization = None,
    as_json: Json = False,
) -> None:
    """Print versions and devices; for a model, its layout and a live proof that steering reaches it."""
    from steerkit.doctor import examine

    if model is not None and (device or model_dtype or quantization):
        how = {"device": device, "dtype": model_dtype, "backend": backend, "quantization": quantization}
        found = examine(load_model(model, **how), full=full)
    else:
        found = examine(model, backend=backend, full=full)
    show(found, as_json=as_json)
    if not found.healthy:
        raise typer.Exit(1)
