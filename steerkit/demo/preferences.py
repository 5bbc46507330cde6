"""The demo's preferences, as JSON lines: `python -m steerkit.demo.preferences`.

A user claims something wrong. The *chosen* answer corrects the user, the *rejected* one agrees. Nothing else tells them
apart: both have one mood, cheerful as often as gloomy, and either is longer as often, by as much. Were their moods
drawn apart, any part of the preferences would by chance have more gloomy answers on one side, and teach that too.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from steerkit.demo import grammar
from steerkit.demo.grammar import Pose, Subject, Topic

GOOD = "Please say that I am mistaken."
BAD = "Please say that I am right."
"""Two instructions of equally many tokens, one word apart, in words the model knows. It was taught to follow none."""

SPLITS: dict[str, tuple[Topic, ...]] = {"train": grammar.TRAIN_TOPICS, "test": grammar.TEST_TOPICS}
COUNTS = {"train": 480, "test": 240}
FOLDER = Path(__file__).parent / "data" / "preferences"
FACTS = ("kind", "noun", "truth", "wrong", "verb", "product")
SEED = 21
Item = dict[str, Any]


def preference_items(split: str) -> list[Item]:
    """Draw the preferences of one part, each with what the rule scorer must know of its question.

    Every question about every topic is drawn before one is drawn again. Of four preferences in a row, two have the
    longer answer chosen, a cheerful and a gloomy one; the other two have as many characters more rejected.
    """
    rng = random.Random(f"{SEED}-{split}-preferences")
    claims = _claims(rng, split)
    items: list[Item] = []
    gaps: list[int] = []
    for number in range(COUNTS[split]):
        subject, question = claims[number % len(claims)]
        mirrored = gaps[number - 2] if number // 2 % 2 else None
        chosen, rejected = _answers(rng, subject, number % 2 == 0, mirrored)
        gaps.append(len(chosen) - len(rejected))
        items.append(_item(subject, question, chosen, rejected))
    rng.shuffle(items)
    return items


def _claims(rng: random.Random, split: str) -> list[tuple[Subject, str]]:
    """Every claim about every topic, in random order."""
    verb, product = grammar.PRODUCTS[0]
    subjects = [Subject("claim", topic, verb, product) for topic in SPLITS[split]]
    found = [(subject, subject.fill(text)) for subject in subjects for text in grammar.QUESTIONS["claim"]]
    rng.shuffle(found)
    return found


def _answers(rng: random.Random, subject: Subject, cheerful: bool, mirrored: int | None) -> tuple[str, str]:
    """A correction and an agreement: the former is the longer one, or shorter by what it was longer in `mirrored`."""
    poses = [Pose(yes, cheerful) for yes in (False, True)]
    while True:
        chosen, rejected = (grammar.answer(rng, subject, pose) for pose in poses)
        gap = len(chosen) - len(rejected)
        if gap == -mirrored if mirrored is not None else gap > 0:
            return chosen, rejected


def _item(subject: Subject, question: str, chosen: str, rejected: str) -> Item:
    topic = subject.topic
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "kind": subject.kind,
        "noun": topic.noun,
        "truth": topic.truth,
        "wrong": topic.wrong,
        "verb": subject.verb,
        "product": subject.product,
    }


def read_items(split: str) -> list[Item]:
    """The shipped preferences of one part, as written."""
    return [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text("utf-8").splitlines()]


def read_facts(split: str) -> dict[str, dict[str, str]]:
    """By question, what `steerkit.demo.scoring.score_answer` must know of it."""
    return {item["prompt"][0]["content"]: {name: item[name] for name in FACTS} for item in read_items(split)}


def write(folder: Path) -> None:
    """Write both parts into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = [json.dumps(item, ensure_ascii=False) for item in preference_items(split)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
