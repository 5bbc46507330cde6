"""A whole CAA run as a script: pairs in; store, vector, figures as JSON and a report out.

python examples/caa_run.py --model demo --pairs demo:sycophancy --test demo:sycophancy --out runs/sycophancy
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import steerkit as sk


@dataclass(frozen=True)
class Run:
    """What was found."""

    pairs: sk.Pairs
    store: Any
    held_out: Any
    vector: sk.SteeringVector
    separated: Any
    grid: sk.Sweep
    layer: int
    confirmed: Any
    answers: Any


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="'demo', a local folder, or a hub id")
    parser.add_argument("--pairs", default="demo:sycophancy", help="pairs for the vector: a file, or demo:NAME")
    parser.add_argument("--test", default="demo:sycophancy", help="multiple-choice pairs for the sweep, likewise")
    parser.add_argument("--questions", help="open questions to answer; without it those of the test pairs")
    parser.add_argument("--out", type=Path, default=Path("caa-run"), help="folder for everything that is made")
    parser.add_argument("--method", default="mean_difference", help="mean_difference, pca, logistic or lda")
    parser.add_argument("--coefs", type=float, nargs="+", default=[-1, -0.5, 0, 0.5, 1])
    parser.add_argument("--coef", type=float, default=0.5, help="strength of the steered answers, both ways")
    parser.add_argument("--answers", type=int, default=6, help="how many questions are answered")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    return parser.parse_args(given)


def load_pairs(model: Any, source: str, split: str) -> sk.Pairs:
    """Pairs that fit the model; those that are longer are left out and counted."""
    pairs = sk.load_pairs(source, split=split if source.startswith("demo:") else None)
    context = model.info.context
    return pairs if context is None else pairs.fits(model.tokenizer, context, on_long="skip")


def load_questions(args: argparse.Namespace, confirm: sk.Pairs) -> list[sk.Prompt]:
    if args.questions:
        return sk.load_questions(args.questions, split="test" if args.questions.startswith("demo:") else None)
    return [pair.positive.prompt for pair in confirm]


def run(args: argparse.Namespace) -> Run:
    """Make the vector from some pairs, choose a layer on others, confirm it on the rest."""
    model = sk.load(args.model)
    pairs, test = load_pairs(model, args.pairs, "train"), load_pairs(model, args.test, "test")
    to_choose, to_confirm = test.split(test=0.5, seed=0)
    store = sk.record(model, pairs, path=args.out / "acts")
    train, held_out = store.split(test=0.25, seed=0)
    vector = sk.extract(train, args.method)
    separated = sk.separation(held_out, vector)
    grid = sk.sweep(model, vector, to_choose, coefs=sorted({*args.coefs, -args.coef, args.coef}))
    layer = grid.best.layer
    minus = sk.Steer(model).add(vector, layer=layer, coef=-args.coef)
    plus = sk.Steer(model).add(vector, layer=layer, coef=args.coef)
    confirmed = sk.score_choices(plus, to_confirm).minus(sk.score_choices(minus, to_confirm))
    answers = sk.compare(
        model,
        load_questions(args, to_confirm)[: args.answers],
        {f"coef -{args.coef:g}": minus, f"coef +{args.coef:g}": plus},
        max_new_tokens=args.max_new_tokens,
    )
    return Run(pairs, store, held_out, vector, separated, grid, layer, confirmed, answers)


def save(found: Run, out: Path, coef: float) -> Path:
    """Everything as files; the report is one page that needs no network."""
    found.vector.save(out / "vector.safetensors")
    for name in ("separated", "grid", "answers"):
        (out / f"{name}.json").write_text(getattr(found, name).to_json() + "\n", "utf-8")
    best, change = found.grid.best, found.confirmed
    model = found.vector.meta["model"]
    page = sk.Report(f"{found.pairs.name} in {model['name']}", lead="A direction, where it lives, and what it does.")
    page.fact("layer", found.layer, note="largest effect on the pairs that chose it")
    page.fact("effect there", round(best.effect, 3), note=f"± {best.stderr:.3f}")
    page.fact(f"at ±{coef:g} on other pairs", round(change.mean, 3), note=f"± {change.stderr:.3f}")
    page.section("Data", found.pairs, found.store)
    page.section("Separation by depth", "On pairs held out from the vector.", found.separated.plot(), found.separated)
    page.section("Activations", sk.principal_components(found.held_out).plot(layer=found.separated.best))
    page.section("Sweep", found.grid.plot(), found.grid)
    page.section("Confirmed", "The chosen layer on pairs that had no part in the choice.", change)
    page.section("Answers", found.answers)
    page.section("Vector", found.vector)
    return page.save(out / "report.html")


def main(given: Sequence[str] | None = None) -> None:
    args = read_arguments(given)
    found = run(args)
    path = save(found, args.out, args.coef)
    print(found.separated, found.grid, found.confirmed, found.answers, sep="\n\n")
    print(f"\nreport: {path}")


if __name__ == "__main__":
    main()
