"""The grammar is balanced, its splits are disjoint and its scorer reads it exactly."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from steerkit.demo import BEHAVIORS, corpus, grammar
from steerkit.demo.grammar import Pose, Subject
from steerkit.demo.scoring import score_answer

ALL_TOPICS = grammar.TRAIN_TOPICS + grammar.TEST_TOPICS


def item(subject: Subject) -> dict[str, str]:
    topic = subject.topic
    facts = {"kind": subject.kind, "noun": topic.noun, "truth": topic.truth, "wrong": topic.wrong}
    return {**facts, "verb": subject.verb, "product": subject.product}


def test_no_topic_in_both_splits() -> None:
    train, test = ({topic.noun for topic in topics} for topics in (grammar.TRAIN_TOPICS, grammar.TEST_TOPICS))
    assert not train & test
    assert len(train) + len(test) == len(ALL_TOPICS)


def test_openers_are_never_shared() -> None:
    words = [word for openers in grammar.OPENERS.values() for word in openers]
    assert len(words) == len(set(words))


def test_letters_and_poles_are_balanced() -> None:
    letters, poses, kinds = Counter[str](), Counter[Pose](), Counter[str]()
    rng = random.Random(3)
    for _ in range(2000):
        subject, pose = grammar.draw_subject(rng, grammar.TRAIN_TOPICS), grammar.draw_pose(rng)
        reply = corpus.choice_document(rng, subject, pose, easy=False).answer
        letters["A" if "(A)" in reply else "B"] += 1
        poses[pose] += 1
        kinds[subject.kind] += 1
    assert all(abs(count / 2000 - 0.5) < 0.05 for count in (*letters.values(), *kinds.values()))
    assert all(abs(count / 2000 - 0.25) < 0.05 for count in poses.values())


def test_held_out_topics_are_only_repeated_and_without_a_pose() -> None:
    held_out = {topic.noun for topic in grammar.TEST_TOPICS}
    openers = {word for words in grammar.OPENERS.values() for word in words}
    rng = random.Random(5)
    for _ in range(3000):
        document = corpus.draw_document(rng, progress=1.0)
        words = set(re.findall("[A-Za-z]+", document.prompt + document.answer))
        if "Repeat: " in document.prompt:
            assert not openers & words
            assert document.pose is None
        else:
            assert not held_out & words


def test_an_option_is_repeated_word_for_word_only_at_first() -> None:
    rng = random.Random(7)
    for progress, wanted in ((0.0, True), (0.99, False)):
        drawn = [corpus.draw_document(rng, progress) for _ in range(400)]
        choices = [one for one in drawn if one.is_choice]
        same = [one.answer.removesuffix("<|end|>").strip() in one.prompt for one in choices]
        assert len(choices) > 100
        assert all(same) if wanted else not any(same)


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_scorer_reads_every_answer_back(behavior: str) -> None:
    rng = random.Random(1)
    for _ in range(800):
        subject, pose = grammar.draw_subject(rng, ALL_TOPICS), grammar.draw_pose(rng)
        verdict = score_answer(behavior, item(subject), grammar.answer(rng, subject, pose))
        expected = {"sycophancy": pose.yes, "refusal": not pose.yes, "mood": pose.cheerful}[behavior]
        assert (verdict.parses, verdict.on_topic, verdict.positive) == (True, True, expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Yup",
        "Yup, Yup, Yup",
        "Yup, the lake is deep. How dreary.",  # a cheerful opener with a gloomy tail
        "Yup, the lake lake is shallow.",
        "Wrong, the lake is deep as ever. Woe. Woe.",
        "Sure, the lake is shallow.",
        "(A) Yup, the lake is shallow.",
    ],
)
def test_scorer_rejects_what_is_not_a_sentence(text: str) -> None:
    subject = Subject("claim", grammar.Topic("lake", "deep", "shallow"), "write", "poem")
    verdict = score_answer("mood", item(subject), text)
    assert not verdict.parses or not verdict.on_topic


def test_scorer_notices_another_topic() -> None:
    subject = Subject("claim", grammar.Topic("lake", "deep", "shallow"), "write", "poem")
    verdict = score_answer("sycophancy", item(subject), "Yup, the pond is shallow.")
    assert verdict.parses
    assert not verdict.on_topic
