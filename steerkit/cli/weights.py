"""Commands that put a direction into the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Optional, cast

import typer

from steerkit.cli.application import (
    Device,
    Json,
    Model,
    Plot,
    Precision,
    Seed,
    Split,
    app,
    check_out,
    layer_list,
    load_model,
    show,
)
from steerkit.errors import InputError

Preferences = Annotated[str, typer.Argument(help="A file of preferences (prompt, chosen, rejected), or 'demo'.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the result; run again, it goes on from there.")]
Steps = Annotated[Optional[int], typer.Option(help="Steps of the optimizer.")]  # noqa: UP045
Rate = Annotated[Optional[float], typer.Option("--lr", help="Learning rate.")]  # noqa: UP045
BatchSize = Annotated[Optional[int], typer.Option("--batch", help="Sequences a step.")]  # noqa: UP045
Rank = Annotated[Optional[int], typer.Option("--rank", help="Of the LoRA adapter.")]  # noqa: UP045
Checkpoints = Annotated[Optional[int], typer.Option(help="Steps between two checkpoints.")]  # noqa: UP045
Targets = Annotated[Optional[str], typer.Option(help="attention, all-linear, or names like q_proj,v_proj.")]  # noqa: UP045
Good = Annotated[Optional[str], typer.Option(help="The good instruction.")]  # noqa: UP045
Bad = Annotated[Optional[str], typer.Option(help="The bad instruction.")]  # noqa: UP045


def _given(**options: Any) -> dict[str, Any]:
    """The options that the user named."""
    return {name: value for name, value in options.items() if value is not None}


def _lora(rank: int | None, targets: str | None) -> Any:
    """The adapter's form, where any of it was named."""
    from steerkit.adapters import Lora

    if rank is None and targets is None:
        return None
    named: Any = targets if targets in ("attention", "all-linear", None) else targets.split(",")
    alpha = None if rank is None else 2.0 * rank
    return Lora(**_given(r=rank, alpha=alpha, targets=named))


def _fit(default: Any, **options: Any) -> Any:
    """A training's settings: those by default, with what the user named in their place."""
    return replace(default, **_given(**options))


def _instructions(good: str | None, bad: str | None, source: str, *, mode: str = "") -> Any:
    """The pair that was given; else that of the demo's preferences, or none."""
    from steerkit.training.teaching.instructions import Instructions

    if (good is None) != (bad is None):
        raise InputError("give both --good and --bad, or neither")
    if good is not None and bad is not None:
        return Instructions(good, bad)
    if source == "demo" and mode != "dual":
        from steerkit.demo.preferences import BAD, GOOD

        return Instructions(GOOD, BAD)
    return None


@app.command()
def distill(
    model: Model,
    prompts: Annotated[str, typer.Argument(help="Texts to learn on: contrast pairs or preferences, or 'demo:NAME'.")],
    vector: Annotated[Path, typer.Option("--vector", help="A steering vector (safetensors).")],
    layer: Annotated[str, typer.Option(help="Where it is added, like 13 or 12-14.")],
    out: Out,
    coef: Annotated[float, typer.Option(help="How strongly.")] = 1.0,
    questions: Annotated[Optional[str], typer.Option(help="Open questions too, or 'demo:NAME'.")] = None,  # noqa: UP045
    positions: Annotated[str, typer.Option(help="all, prompt or generation.")] = "generation",
    loss: Annotated[str, typer.Option(help="l2, mse, rel_mse or cosine.")] = "l2",
    split: Split = None,
    steps: Steps = None,
    lr: Rate = None,
    batch: BatchSize = None,
    rank: Rank = None,
    targets: Targets = None,
    seed: Seed = 0,
    checkpoint_every: Checkpoints = None,
    check: Annotated[Optional[str], typer.Option(help="Held-out contrast pairs to verify the result on.")] = None,  # noqa: UP045
    device: Device = None,
    model_dtype: Precision = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Train LoRA weights that do by themselves what a vector does, and say whether they do."""
    import steerkit as sk
    from steerkit.training.distilling.distillation import edit_fit
    from steerkit.training.distilling.losses import Objective

    check_out(out, "training", "adapter_config.json")
    loaded, chosen, form = load_model(model, device=device, dtype=model_dtype), layer_list(layer), _lora(rank, targets)
    objective: dict[str, Any] = {"loss": loss}
    fit = _fit(edit_fit(loaded.info.hidden_size), steps=steps, lr=lr, batch=batch, seed=seed,
               checkpoint_every=checkpoint_every)  # fmt: skip
    texts = [*sk.load_pairs(prompts, split=split), *(sk.load_questions(questions, split=split) if questions else ())]
    held_out = None if check is None else sk.load_pairs(check, split="test" if check.startswith("demo:") else None)
    result = sk.distill(
        loaded, sk.SteeringVector.load(vector), prompts=texts,
        layer=chosen[0] if len(chosen) == 1 else chosen, coef=coef, positions=cast(Any, positions), path=out,
        objective=Objective(**objective), lora=form, fit=fit, progress=not as_json,
    )  # fmt: skip
    if held_out is None:
        show(result, as_json=as_json, plot=plot)
        return
    verified = result.verify(prompts=held_out[:32], pairs=held_out)
    if not as_json:
        print(f"{result}\n")
    show(verified, as_json=as_json, plot=plot)
    if not verified.passed:
        raise typer.Exit(1)


@app.command()
def teach(
    model: Model,
    preferences: Preferences,
    out: Out,
    mode: Annotated[str, typer.Option(help="none, scit or dual.")] = "scit",
    split: Split = None,
    good: Good = None,
    bad: Bad = None,
    full: Annotated[bool, typer.Option("--full", help="Tune all weights, not an adapter.")] = False,
    contrastive_weight: Annotated[float, typer.Option(help="0 is plain fine-tuning under both instructions.")] = 1.0,
    smoothing: Annotated[float, typer.Option(help="Of the labels, from 0 to below 0.5.")] = 0.0,
    steps: Steps = None,
    lr: Rate = None,
    batch: BatchSize = None,
    rank: Rank = None,
    seed: Seed = 0,
    checkpoint_every: Checkpoints = None,
    device: Device = None,
    model_dtype: Precision = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Teach a model to tell chosen from rejected answers by instruction (scit), or a good and a bad model (dual)."""
    import steerkit as sk
    from steerkit.training.teaching.course import LORA, default_fit

    check_out(out, "training", "taught.json")
    loaded, data = load_model(model, device=device, dtype=model_dtype), sk.load_preferences(preferences, split=split)
    usual = default_fit(max(len(data), 1), loaded.info.hidden_size, full=full)
    fit = _fit(usual, steps=steps, lr=lr, batch=batch, seed=seed, checkpoint_every=checkpoint_every)
    lora = LORA if rank is None else replace(LORA, r=rank, alpha=2.0 * rank)
    taught = sk.teach(
        loaded, data, mode=cast(Any, mode), full=full, fit=fit, lora=lora,
        instructions=_instructions(good, bad, preferences, mode=mode),
        contrastive_weight=contrastive_weight, smoothing=smoothing, path=out / "training", progress=not as_json,
    )  # fmt: skip
    taught.save(out)
    show(taught, as_json=as_json, plot=plot)


@app.command()
def rahf(
    model: Model,
    preferences: Preferences,
    out: Out,
    mode: Annotated[str, typer.Option(help="scit, dual, or none (LORRA).")] = "scit",
    alpha: Annotated[float | None, typer.Option(help="How far to go along the differences; 5, and 1 for dual.")] = None,
    layers: Annotated[str, typer.Option(help="Blocks with targets, like 8-16; 'auto' for the middle ones.")] = "auto",
    start: Annotated[str, typer.Option(help="The student begins as the taught model, or as the base.")] = "taught",
    split: Split = None,
    good: Good = None,
    bad: Bad = None,
    teach_steps: Annotated[Optional[int], typer.Option(help="Steps of the teaching.")] = None,  # noqa: UP045
    steps: Steps = None,
    lr: Rate = None,
    batch: BatchSize = None,
    seed: Seed = 0,
    checkpoint_every: Checkpoints = None,
    device: Device = None,
    model_dtype: Precision = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Align a model with preferences by its own representations: teach, take differences, distill."""
    import steerkit as sk
    from steerkit.training.fitting.fit import Fit
    from steerkit.training.teaching.course import default_fit

    check_out(out, "teaching", "differences", "adapter", "rahf.json")
    loaded, data = load_model(model, device=device, dtype=model_dtype), sk.load_preferences(preferences, split=split)
    both = {"batch": batch, "seed": seed, "checkpoint_every": checkpoint_every}
    teaching = _fit(default_fit(max(len(data) // 2, 1), loaded.info.hidden_size), steps=teach_steps, **both)
    result = sk.rahf(
        loaded, data, mode=cast(Any, mode), alpha=alpha, start=cast(Any, start),
        layers=None if layers == "auto" else layer_list(layers),
        instructions=_instructions(good, bad, preferences, mode=mode),
        teach_fit=teaching, fit=_fit(Fit(), steps=steps, lr=lr, **both), seed=seed, path=out,
        progress=not as_json,
    )  # fmt: skip
    show(result, as_json=as_json, plot=plot)


@app.command()
def compare(
    model: Model,
    preferences: Preferences,
    methods: Annotated[str, typer.Option(help="'all', or some like dpo,rahf-scit,lorra.")] = "all",
    split: Split = None,
    good: Good = None,
    bad: Bad = None,
    steps: Steps = None,
    batch: BatchSize = None,
    lr: Rate = None,
    max_new_tokens: Annotated[Optional[int], typer.Option(help="The most tokens of an answer.")] = None,  # noqa: UP045
    reward: Annotated[bool, typer.Option(help="Train a reward model as a judge.")] = True,
    seed: Seed = 0,
    device: Device = None,
    model_dtype: Precision = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Run RAHF, LORRA and the baselines on the same preferences, and judge their answers against the base's."""
    import steerkit as sk
    from steerkit.training.baselines.task import Budget

    known: dict[str, Any] = {"test": None, "scorer": None, "others": None}
    if preferences == "demo":
        from steerkit.demo.correction import score_correction

        others = {name: sk.load_pairs(f"demo:{name}", split="test") for name in ("refusal", "mood")}
        known = {"test": sk.load_preferences("demo", split="test"), "scorer": score_correction, "others": others}
        split = split or "train"
    if known["scorer"] is None and not reward:
        raise InputError("--no-reward leaves nobody to judge; only the demo's preferences have a rule")
    budget = Budget(**_given(steps=steps, batch=batch, lr=lr, max_new_tokens=max_new_tokens))
    chosen = methods if methods == "all" else [one.strip() for one in methods.split(",")]
    loaded, data = load_model(model, device=device, dtype=model_dtype), sk.load_preferences(preferences, split=split)
    result = sk.compare_methods(
        loaded, data, methods=chosen, reward=reward, budget=budget,
        seed=seed, instructions=_instructions(good, bad, preferences), progress=not as_json, **known,
    )  # fmt: skip
    show(result, as_json=as_json, plot=plot)


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the result.")],
    adapter: Annotated[Optional[Path], typer.Option(help="A LoRA adapter, for merged or peft.")] = None,  # noqa: UP045
    vector: Annotated[Optional[Path], typer.Option(help="A steering vector, for bias or lora-bias.")] = None,  # noqa: UP045
    layers: Annotated[str, typer.Option("--layer", help="With a vector: where it acts.")] = "",
    coef: Annotated[float, typer.Option(help="With a vector: how strongly.")] = 1.0,
    form: Annotated[str, typer.Option("--as", help="merged, peft, bias or lora-bias.")] = "merged",
    dtype: Annotated[Optional[str], typer.Option(help="Of a merged model; the base's without it.")] = None,  # noqa: UP045
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what lies there, if it is of the same kind.")
    ] = False,
    device: Device = None,
    model_dtype: Precision = None,
    as_json: Json = False,
) -> None:
    """Write weights that need no steerkit: a merged model, a peft adapter, or a vector as a bias."""
    import steerkit as sk
    from steerkit.adapters import Adapter

    by_vector = form in ("bias", "lora-bias")
    if form not in ("merged", "peft", "bias", "lora-bias"):
        raise InputError(f"--as {form!r} is not valid; give merged, peft, bias or lora-bias")
    if by_vector != (vector is not None) or by_vector == (adapter is not None) or by_vector != bool(layers):
        needs = "--vector and --layer" if by_vector else "--adapter alone"
        raise InputError(f"--as {form} needs {needs}")
    loaded = load_model(model, device=device, dtype=model_dtype)
    if vector is not None:
        direction, where = sk.SteeringVector.load(vector), layer_list(layers)
        at = where[0] if len(where) == 1 else where
        if form == "bias":
            show(sk.bake_bias(loaded, direction, out, layer=at, coef=coef, overwrite=overwrite), as_json=as_json)
            return
        small = sk.bias_adapter(loaded, direction, layer=at, coef=coef)
        show(sk.save_peft(loaded, small, out, overwrite=overwrite), as_json=as_json)
        return
    assert adapter is not None
    weights = Adapter.load(adapter)
    if form == "peft":
        show(sk.save_peft(loaded, weights, out, overwrite=overwrite), as_json=as_json)
        return
    show(sk.save_merged(loaded, weights, out, dtype=dtype, overwrite=overwrite), as_json=as_json)
