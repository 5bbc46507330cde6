"""Print the acceptance table of trained folders: `python -m steerkit.demo.study FOLDER... --out study.json`.

Layer and strength are chosen on training topics; every figure that is reported comes from held-out topics.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score

from steerkit.demo.datasets import BEHAVIORS
from steerkit.demo.probing import Edit, Item, Subject, letter_scores, open_scores, pair_states

STRENGTHS = (0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
RANDOM_VECTORS = 30
CHOOSING_ITEMS = 96
LAYERS_TRIED = 2
Vectors = Mapping[str, torch.Tensor]


def read(behavior: str, name: str) -> list[Item]:
    """Read one of the demo's data files."""
    return list(json.loads((Path(__file__).parent / "data" / behavior / f"{name}.json").read_text(encoding="utf-8")))


def mean_differences(subject: Subject) -> Vectors:
    """CAA's vector of every behaviour, `[layer, hidden]`, from training topics."""
    found = {}
    for behavior in BEHAVIORS:
        matching, other = pair_states(subject, read(behavior, "train"))
        found[behavior] = (matching - other).mean(0)
    return found


def letter_means(subject: Subject, items: Sequence[Item], edits: Sequence[Edit | None]) -> list[dict[str, float]]:
    """Mean p(matching) over all items, over those that match with A and those with B, and the letters' mass."""
    chances, masses = letter_scores(subject, items, edits)
    is_a = torch.tensor([item["answer_matching_behavior"] == "(A)" for item in items])
    return [
        {
            "p": float(row.mean()),
            "a_items": float(row[is_a].mean()),
            "b_items": float(row[~is_a].mean()),
            "mass": float(mass.mean()),
        }
        for row, mass in zip(chances, masses, strict=True)
    ]


def letter_slack(low: Mapping[str, float], high: Mapping[str, float]) -> float:
    """By how much the letters meet their aims, .30 and .70, on the weaker side."""
    return min(high["p"] - 0.7, 0.3 - low["p"])


def open_slack(subject: Subject, behavior: str, questions: Sequence[Item], edits: tuple[Edit, Edit]) -> float:
    """By how much sampled answers meet their aims: scores of .10 and .90, and .85 that parse and stay on topic."""
    (low, low_good), (high, high_good) = (open_scores(subject, behavior, questions, edit) for edit in edits)
    return min(high - 0.9, 0.1 - low, low_good - 0.85, high_good - 0.85)


def slacks_by_letters(subject: Subject, vectors: Vectors) -> dict[tuple[str, int, float], float]:
    """Slack of every behaviour, layer and strength on the letters of training topics."""
    found = {}
    for behavior in BEHAVIORS:
        items = read(behavior, "train")[:CHOOSING_ITEMS]
        for layer in range(subject.depth):
            edits = [Edit(layer, sign * size * vectors[behavior][layer]) for size in STRENGTHS for sign in (-1, 1)]
            rows = letter_means(subject, items, edits)
            for place, size in enumerate(STRENGTHS):
                found[behavior, layer, size] = letter_slack(rows[2 * place], rows[2 * place + 1])
    return found


def choose(subject: Subject, vectors: Vectors) -> tuple[int, dict[str, float]]:
    """Choose one layer for all behaviours and a strength for each, on training topics only.

    The layers whose letters move best are tried on open questions too; what counts is the least slack to any aim.
    """
    letters = slacks_by_letters(subject, vectors)

    def reach(layer: int) -> float:
        return min(max(letters[behavior, layer, size] for size in STRENGTHS) for behavior in BEHAVIORS)

    results: list[tuple[float, int, dict[str, float]]] = []
    for layer in sorted(range(subject.depth), key=reach)[-LAYERS_TRIED:]:
        chosen: dict[str, tuple[float, float]] = {}
        for behavior in BEHAVIORS:
            questions = read(behavior, "open_train")[:CHOOSING_ITEMS]
            vector = vectors[behavior][layer]
            chosen[behavior] = max(
                (min(letters[behavior, layer, size], open_slack(subject, behavior, questions, pair)), size)
                for size in STRENGTHS
                for pair in [(Edit(layer, -size * vector), Edit(layer, size * vector))]
            )
        results.append(
            (min(slack for slack, _ in chosen.values()), layer, {name: size for name, (_, size) in chosen.items()})
        )
    _, layer, strengths = max(results, key=lambda result: result[0])
    return layer, strengths


def effects(
    subject: Subject, vectors: Vectors, layer: int, strengths: Mapping[str, float], measured: str
) -> dict[str, Any]:
    """What every behaviour's vector does to one behaviour's held-out items."""
    items, questions = read(measured, "test"), read(measured, "open_test")
    found: dict[str, Any] = {"none": letter_means(subject, items, [None])[0]}
    score, good = open_scores(subject, measured, questions, None)
    found["none"].update(open=score, on_topic=good)
    for steering in BEHAVIORS:
        for sign in (-1, 1):
            edit = Edit(layer, sign * strengths[steering] * vectors[steering][layer])
            row = letter_means(subject, items, [edit])[0]
            score, good = open_scores(subject, measured, questions, edit)
            found[f"{steering}{'+' if sign > 0 else '-'}"] = {**row, "open": score, "on_topic": good}
    return found


def random_spans(subject: Subject, vector: torch.Tensor, layer: int, behavior: str) -> list[float]:
    """p(matching) span of random vectors as long as the given one."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(RANDOM_VECTORS, vector.shape[0], generator=generator)
    draws = draws / draws.norm(dim=1, keepdim=True) * vector.norm()
    rows = letter_means(
        subject, read(behavior, "test"), [Edit(layer, sign * draw) for draw in draws for sign in (-1, 1)]
    )
    return [rows[2 * number + 1]["p"] - rows[2 * number]["p"] for number in range(RANDOM_VECTORS)]


def by_depth(
    subject: Subject, vectors: Vectors, strengths: Mapping[str, float], behavior: str
) -> dict[str, list[float]]:
    """Per layer on held-out topics: the span of p(matching), and how well the projection separates the two sides."""
    items = read(behavior, "test")
    vector = strengths[behavior] * vectors[behavior]
    rows = letter_means(
        subject, items, [Edit(at, sign * vector[at]) for at in range(subject.depth) for sign in (-1, 1)]
    )
    matching, other = pair_states(subject, items)
    labels = [1] * len(items) + [0] * len(items)
    separation = [
        float(roc_auc_score(labels, (torch.cat([matching[:, at], other[:, at]]) @ vector[at]).numpy()))
        for at in range(subject.depth)
    ]
    return {"span": [rows[2 * at + 1]["p"] - rows[2 * at]["p"] for at in range(subject.depth)], "auroc": separation}


def study(folder: Path) -> dict[str, Any]:
    """Measure one trained folder."""
    subject = Subject.open(folder)
    vectors = mean_differences(subject)
    layer, strengths = choose(subject, vectors)
    unit = {behavior: vectors[behavior] / vectors[behavior].norm(dim=1, keepdim=True) for behavior in BEHAVIORS}
    report: dict[str, Any] = {"folder": folder.name, "layer": layer, "strengths": strengths}
    report["cosines"] = {
        f"{first}-{second}": [round(float(value), 3) for value in (unit[first] * unit[second]).sum(1)]
        for first, second in (("sycophancy", "mood"), ("refusal", "mood"), ("sycophancy", "refusal"))
    }
    report["effects"] = {behavior: effects(subject, vectors, layer, strengths, behavior) for behavior in BEHAVIORS}
    report["depth"] = {behavior: by_depth(subject, vectors, strengths, behavior) for behavior in BEHAVIORS}
    report["random"] = {
        behavior: random_spans(subject, strengths[behavior] * vectors[behavior][layer], layer, behavior)
        for behavior in BEHAVIORS
    }
    return report


def show(report: Mapping[str, Any]) -> str:
    """Write a report as text."""
    layer = report["layer"]
    lines = [f"== {report['folder']}: layer {layer}, strengths {report['strengths']}"]
    lines.append(
        "cosines at the layer: "
        + ", ".join(f"{pair} {values[layer]:+.2f}" for pair, values in report["cosines"].items())
    )
    for measured, rows in report["effects"].items():
        lines.append(f"{measured:12s}      p     A     B   mass | open  on topic")
        for name, row in rows.items():
            letters = f"{row['p']:5.2f} {row['a_items']:5.2f} {row['b_items']:5.2f} {row['mass']:6.3f}"
            lines.append(f"  {name:13s} {letters} | {row['open']:4.2f}  {row['on_topic']:4.2f}")
        spans = report["random"][measured]
        size = sorted(abs(span) for span in spans)
        lines.append(f"  {len(spans)} random vectors: |span| median {size[len(size) // 2]:.2f}, largest {size[-1]:.2f}")
        lines.append("  span by layer  " + " ".join(f"{value:+.2f}" for value in report["depth"][measured]["span"]))
        lines.append("  AUROC by layer " + " ".join(f"{value:.3f}" for value in report["depth"][measured]["auroc"]))
    return "\n".join(lines)


def main() -> None:
    """Study the folders named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    reports = []
    for folder in arguments.folders:
        reports.append(study(folder))
        print(show(reports[-1]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
