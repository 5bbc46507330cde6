"""Commands that find a direction and steer with it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from steerkit.cli.application import (
    Backend,
    Device,
    Json,
    LayerList,
    Model,
    Pairs,
    Plot,
    Precision,
    Quantization,
    Seed,
    Split,
    Store,
    Vector,
    app,
    coefficients,
    layer_list,
    load_model,
    show,
)
from steerkit.cli.heads import Heads, head_list, load_vector
from steerkit.errors import InputError


@app.command()
def record(
    model: Model,
    pairs: Pairs,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder of the activation store, or an address like s3://.")],
    layers: LayerList = "all",
    site: Annotated[str, typer.Option(help="resid_pre, z, attn_out, resid_mid, mlp_out or resid_post.")] = "resid_post",
    read: Annotated[Optional[str], typer.Option(help="letter, last, mean, each, or a token index.")] = None,  # noqa: UP045
    split: Split = None,
    max_tokens: Annotated[Optional[int], typer.Option(help="With --read each: the most tokens of a side.")] = None,  # noqa: UP045
    dtype: Annotated[str, typer.Option(help="Stored as float32, float16 or bfloat16.")] = "float32",
    statistics: Annotated[Optional[str], typer.Option(help="Sum up mean or covariance while recording.")] = None,  # noqa: UP045
    keep: Annotated[str, typer.Option(help="rows; or statistics alone.")] = "rows",
    batch_tokens: Annotated[Optional[int], typer.Option(help="Tokens a forward pass, with padding.")] = None,  # noqa: UP045
    batch_size: Annotated[Optional[int], typer.Option(help="The most pairs a forward pass.")] = None,  # noqa: UP045
    shard_pairs: Annotated[Optional[int], typer.Option(help="Pairs in one file.")] = None,  # noqa: UP045
    engine: Annotated[str, typer.Option(help="local, which torchrun multiplies; or ray.")] = "local",
    workers: Annotated[int, typer.Option(help="With --engine ray: how many actors.")] = 2,
    num_gpus: Annotated[float, typer.Option(help="With --engine ray: GPUs for each actor.")] = 0,
    backend: Backend = None,
    device: Device = None,
    model_dtype: Precision = None,
    quantization: Quantization = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it will cost, and record nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away a store that lies there.")] = False,
    as_json: Json = False,
) -> None:
    """Run contrast pairs through a model and fill an activation store; run again, it goes on where it stopped."""
    import steerkit as sk
    from steerkit.recording import plan_recording, record_with_ray
    from steerkit.store import Worker

    if engine not in ("local", "ray"):
        raise InputError(f"--engine {engine!r} is not valid; give local or ray")
    if engine == "ray" and (backend or device or model_dtype or quantization):
        raise InputError("with --engine ray every actor loads the model by itself; --backend, --device, --model-dtype "
                         "and --quantization are for --engine local")  # fmt: skip
    where = int(read) if read is not None and read.lstrip("-").isdigit() else read
    choices: dict[str, Any] = {
        "path": out, "layers": layer_list(layers), "site": site, "read": where, "max_tokens": max_tokens,
        "dtype": dtype, "statistics": statistics, "keep": keep, "batch_tokens": batch_tokens,
        "batch_size": batch_size, "shard_pairs": shard_pairs,
    }  # fmt: skip
    data = sk.load_pairs(pairs, split=split)
    how = {"device": device, "dtype": model_dtype, "backend": backend, "quantization": quantization}
    loaded = partial(load_model, model, **how)
    if dry_run:
        show(plan_recording(loaded(), data, **choices), as_json=as_json)
        return
    choices |= {"overwrite": overwrite, "progress": not as_json}
    if engine == "ray":
        store = record_with_ray(model, data, **choices, workers=workers, num_gpus=num_gpus)
    else:
        store = sk.record(loaded(), data, **choices)
        if Worker.here().rank:
            return
    print(json.dumps({"store": str(out), "pairs": len(store), "layers": list(store.layers)}) if as_json else store)


@app.command()
def extract(
    store: Store,
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the vector (safetensors).")],
    method: Annotated[str, typer.Option(help="mean_difference, pca, logistic or lda.")] = "mean_difference",
    heads: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of a store of site z: LAYER:HEAD, like 2:1,4:0; or how many of the best."),
    ] = None,
    sigma: Annotated[bool, typer.Option("--sigma", help="Scale to one standard deviation, as ITI does.")] = False,
    test: Annotated[float, typer.Option(help="Share of the pairs held back for 'separate'.")] = 0.25,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Turn a store into a steering vector, from the pairs that are not held back."""
    import steerkit as sk

    opened = sk.ActivationStore.open(store)
    named = None if heads is None or heads.isdigit() else head_list(heads)
    if heads is not None and named is None and not test:
        raise InputError(f"--heads {heads} asks which heads separate pairs that are held back; --test 0 leaves none")
    train, held_out = opened.split(test=test, seed=seed) if test else (opened, opened)
    vector = sk.extract(train, method)
    if heads is not None:
        vector = vector.heads(named or sk.head_separation(held_out, vector, seed=seed).top(int(heads)))
    vector = vector.in_sigma() if sigma else vector
    vector.save(out)
    norms = [float(norm) for norm in vector.norms]
    found = {"vector": str(out), "layers": list(vector.layers), "norms": norms, "heads": vector.chosen_heads}
    print(json.dumps(found) if as_json else vector)


@app.command()
def separate(
    store: Store,
    vector: Vector,
    heads: Heads = None,
    by_head: Annotated[bool, typer.Option("--by-head", help="Head by head, for a store of site z.")] = False,
    test: Annotated[float, typer.Option(help="Share of the pairs that 'extract' held back; 0 takes all.")] = 0.25,
    seed: Seed = 0,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Show how far apart the two sides lie along a vector, layer by layer or head by head, on held-out pairs."""
    import steerkit as sk

    opened, loaded = sk.ActivationStore.open(store), load_vector(vector, heads)
    held_out = opened.split(test=test, seed=seed)[1] if test else opened
    found = sk.head_separation(held_out, loaded) if by_head else sk.separation(held_out, loaded)
    show(found, as_json=as_json, plot=plot)


@app.command()
def sweep(
    model: Model,
    pairs: Pairs,
    vector: Vector,
    layers: LayerList = "all",
    heads: Heads = None,
    coefs: Annotated[str, typer.Option(help="Like -1,0,1.")] = "-1,0,1",
    split: Split = None,
    backend: Backend = None,
    device: Device = None,
    model_dtype: Precision = None,
    quantization: Quantization = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Score the pairs under every layer and coefficient."""
    import steerkit as sk

    wanted, numbers, chosen = layer_list(layers), coefficients(coefs), load_vector(vector, heads)
    data = sk.load_pairs(pairs, split=split)
    loaded = load_model(model, device=device, dtype=model_dtype, backend=backend, quantization=quantization)
    grid = sk.sweep(loaded, chosen, data, layers=wanted, coefs=numbers, progress=not as_json)
    show(grid, as_json=as_json, plot=plot)


@app.command()
def generate(
    model: Model,
    prompts: Annotated[list[str], typer.Argument(help="Questions; through the chat template if there is one.")],
    add: Annotated[list[Path], typer.Option(help="A steering vector; may be repeated.")] = [],  # noqa: B006
    layer: Annotated[list[int], typer.Option(help="Its layer, one for each --add; none with --heads.")] = [],  # noqa: B006
    coef: Annotated[list[float], typer.Option(help="Its coefficient, one for each --add.")] = [],  # noqa: B006
    heads: Heads = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of an answer.")] = 64,
    raw: Annotated[bool, typer.Option("--raw", help="Feed the prompts as they are.")] = False,
    backend: Backend = None,
    device: Device = None,
    model_dtype: Precision = None,
    quantization: Quantization = None,
    as_json: Json = False,
) -> None:
    """Answer prompts, unsteered and steered side by side."""
    import steerkit as sk

    if len(add) != len(coef) or len(layer) not in (0, len(add)):
        raise InputError(f"{len(add)} --add, {len(layer)} --layer, {len(coef)} --coef; give one of each per vector")
    vectors = [load_vector(path, heads) for path in add]
    if not layer and not all(one.chosen_heads for one in vectors):
        raise InputError("--layer is missing; give one for each --add. Only a vector of chosen --heads needs none")
    loaded = load_model(model, device=device, dtype=model_dtype, backend=backend, quantization=quantization)
    steer = sk.Steer(loaded)
    for i, vector in enumerate(vectors):
        steer.add(vector, layer=layer[i] if layer else None, coef=coef[i])
    chat = bool(loaded.info.template) and not raw
    asked: list[Any] = [[{"role": "user", "content": text}] for text in prompts] if chat else list(prompts)
    answers = {"unsteered": loaded.generate(asked, max_new_tokens=max_new_tokens)}
    if add:
        answers["steered"] = steer.generate(asked, max_new_tokens=max_new_tokens)
    rows = [{"prompt": text, **{k: v[i] for k, v in answers.items()}} for i, text in enumerate(prompts)]
    print(json.dumps(rows) if as_json else "\n\n".join("\n".join(f"{k}: {v}" for k, v in row.items()) for row in rows))
    if add and not as_json:
        print(f"\n{steer}")


@app.command()
def info(
    store: Store,
    as_json: Json = False,
) -> None:
    """Show what a store holds: model, data, pairs, layers, size."""
    import steerkit as sk

    opened = sk.ActivationStore.open(store)
    print(json.dumps({**opened.manifest, "bytes": opened.nbytes}) if as_json else opened)


@app.command()
def verify(
    store: Store,
    as_json: Json = False,
) -> None:
    """Read every byte of a store, hold it against its checksums, and say what is wrong."""
    from steerkit.store import verify as verify_store

    found = verify_store(store)
    show(found, as_json=as_json)
    if not found.ok:
        raise typer.Exit(1)
