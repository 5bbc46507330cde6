"""The application, and what its commands have in common."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from steerkit.errors import InputError

app = typer.Typer(
    name="steerkit",
    help="Find a direction in a language model, see whether it is real, steer with it, and put it into the weights.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def check_plot(path: Path | None) -> Path | None:
    """The place of a figure, which is written last: a place that cannot be is refused before any work.

    Raises:
        InputError: It is a folder, or in none.
    """
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(f"--plot {str(path)!r} is not valid; give the name of a file in a folder that is there")
    return path


Model = Annotated[str, typer.Argument(help="'demo', a local folder, or a hub id.")]
Pairs = Annotated[str, typer.Argument(help="A file of contrast pairs, or 'demo:NAME'.")]
Store = Annotated[str, typer.Argument(help="An activation store: a folder, or an address such as s3://bucket/store.")]
Vector = Annotated[Path, typer.Option("--vector", help="A steering vector (safetensors).")]
Split = Annotated[Optional[str], typer.Option(help="'train' or 'test', for embedded data.")]  # noqa: UP045
LayerList = Annotated[str, typer.Option(help="'all', or like 3,4,5 or 8-16.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Plot = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--plot", help="Write the figure to this HTML file.", callback=check_plot),
]
Seed = Annotated[int, typer.Option(help="Of the split.")]
Device = Annotated[Optional[str], typer.Option(help="Such as cuda; auto spreads a large model over all.")]  # noqa: UP045
Precision = Annotated[Optional[str], typer.Option("--model-dtype", help="float32, float16 or bfloat16.")]  # noqa: UP045
Quantization = Annotated[Optional[str], typer.Option(help="Load the weights in 8bit or 4bit.")]  # noqa: UP045
Backend = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Who runs the model: huggingface, transformer_lens or nnsight."),
]


def layer_list(text: str) -> Any:
    """Layers from the text of an option."""
    if text == "all":
        return text
    try:
        spans = [part.split("-") for part in text.split(",")]
        return [layer for span in spans for layer in range(int(span[0]), int(span[-1]) + 1)]
    except ValueError:
        raise InputError(f"--layers {text!r} is not valid; give 'all', or layers like 3,4,5 or 8-16") from None


def coefficients(text: str) -> list[float]:
    """Numbers from the text of an option."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--coefs {text!r} is not valid; give numbers like -1,0,1") from None


def check_out(folder: Path, *marks: str) -> Path:
    """The folder of a result: a new one, an empty one, or one that the same command began.

    Args:
        folder: What was given.
        marks: Files and folders of which the command leaves at least one.

    Raises:
        InputError: It is a file, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {str(folder)!r} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / mark).exists() for mark in marks):
        raise InputError(f"--out {str(folder)!r} holds something else; give the path of a new folder")
    return folder


def device_name(name: str | None) -> str | None:
    """The device meant; with several processes on a machine, as torchrun starts them, each has its own GPU."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if name == "cuda" and local else name


def load_model(
    source: str,
    *,
    device: str | None,
    dtype: str | None,
    backend: str | None = None,
    quantization: str | None = None,
) -> Any:
    """The model that a command was given."""
    import steerkit as sk

    return sk.load(source, device=device_name(device), dtype=dtype, backend=backend, quantization=quantization)


def show(result: Any, *, as_json: bool, plot: Path | None = None) -> None:
    """Print a result, and write its figure."""
    print(result.to_json() if as_json else result)
    if plot is not None:
        result.plot().write_html(plot)
        print(f"figure: {plot}", file=sys.stderr)
