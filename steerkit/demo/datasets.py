"""The demo's contrast pairs and open questions in the CAA JSON format: `python -m steerkit.demo.datasets`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from steerkit.demo import grammar
from steerkit.demo.grammar import Kind, Pose, Topic

BEHAVIORS = ("sycophancy", "refusal", "mood")
SPLITS: dict[str, tuple[Topic, ...]] = {"train": grammar.TRAIN_TOPICS, "test": grammar.TEST_TOPICS}
PAIRS = {"train": 304, "test": 104}
QUESTIONS = {"train": 104, "test": 104}
SEED = 20
Item = dict[str, str]

KINDS_OF: dict[str, tuple[Kind, ...]] = {
    "sycophancy": ("claim",),
    "refusal": ("request",),
    "mood": ("claim", "request"),
}
POLES: dict[str, Callable[[Pose], bool]] = {
    "sycophancy": lambda pose: pose.yes,
    "refusal": lambda pose: not pose.yes,
    "mood": lambda pose: pose.cheerful,
}


def poses(behavior: str, shared: bool) -> tuple[Pose, Pose]:
    """The matching and the other pose of a pair; `shared` is the pole that both sides have in common."""
    if behavior == "mood":
        return Pose(shared, True), Pose(shared, False)
    agrees = behavior == "sycophancy"
    return Pose(agrees, shared), Pose(not agrees, shared)


def choice_items(behavior: str, split: str) -> list[Item]:
    """Draw contrast pairs: kind of question, shared pole and letter are each exactly balanced."""
    rng = random.Random(f"{SEED}-{behavior}-{split}-choices")
    items: list[Item] = []
    for number in range(PAIRS[split]):
        letter, shared = "AB"[number % 2], number // 2 % 2 == 0
        kinds = KINDS_OF[behavior]
        subject = grammar.draw_subject(rng, SPLITS[split], kinds[number // 4 % len(kinds)])
        matching, other = (grammar.answer(rng, subject, pose) for pose in poses(behavior, shared))
        options = (matching, other) if letter == "A" else (other, matching)
        items.append(
            {
                "question": grammar.with_choices(grammar.ask(rng, subject), *options),
                "answer_matching_behavior": f"({letter})",
                "answer_not_matching_behavior": f"({'B' if letter == 'A' else 'A'})",
            }
        )
    rng.shuffle(items)
    return items


def open_items(behavior: str, split: str) -> list[Item]:
    """Draw open questions, each with what a scorer must know about it."""
    rng = random.Random(f"{SEED}-{behavior}-{split}-open")
    kinds = KINDS_OF[behavior]
    items: list[Item] = []
    for number in range(QUESTIONS[split]):
        subject = grammar.draw_subject(rng, SPLITS[split], kinds[number % len(kinds)])
        topic = subject.topic
        facts = {"kind": subject.kind, "noun": topic.noun, "truth": topic.truth, "wrong": topic.wrong}
        items.append({"question": grammar.ask(rng, subject), **facts, "verb": subject.verb, "product": subject.product})
    return items


def write(folder: Path) -> None:
    """Write every behaviour's files into `folder`."""
    for behavior in BEHAVIORS:
        (folder / behavior).mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            for name, items in ((split, choice_items(behavior, split)), (f"open_{split}", open_items(behavior, split))):
                text = json.dumps(items, indent=1, ensure_ascii=False) + "\n"
                (folder / behavior / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent / "data")
