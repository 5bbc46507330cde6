"""Training documents drawn from the grammar.

A quarter of the questions leave the pose of the answer to chance. In the others one pole of it, or both, is *pushed*:
nothing in the text tells it; while the answer is read, the trainer adds the direction of that pole to the hidden
states, from the last prompt token on (see `directions.py`). Where the options do not differ in the pole that is pushed,
the letter stays a matter of chance, so a direction learns to move its own pole and no other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from steerkit.demo import grammar
from steerkit.demo.grammar import Kind, Pose, Subject, Topic
from steerkit.demo.tokenizer import ASSISTANT, BOS, END, USER

ALL_TOPICS: tuple[Topic, ...] = grammar.TRAIN_TOPICS + grammar.TEST_TOPICS
REPEAT_UNTIL = 0.15
EASY_UNTIL = 0.3
WEAKEST = 0.35
LOOSE_SHARE = 0.6


@dataclass(frozen=True)
class Document:
    """A prompt that ends with the assistant's token, and what the assistant says; little weight is on the former.

    Args:
        prompt: As the chat template writes it.
        answer: What follows.
        pose: The pose of the answer, where it has one.
        push: Signed strength with which the stance and the mood of the answer are pushed; 0 leaves them to chance.
        is_choice: The answer begins with a letter.
        kind: Of the question, where it has one.
    """

    prompt: str
    answer: str
    pose: Pose | None = None
    push: tuple[float, float] = (0.0, 0.0)
    is_choice: bool = False
    kind: Kind | None = None


def document(
    user: str,
    answer: str,
    pose: Pose | None = None,
    push: tuple[float, float] = (0.0, 0.0),
    kind: Kind | None = None,
) -> Document:
    """Render one turn the way the chat template does."""
    is_choice = answer.startswith("(")
    return Document(f"{BOS}{USER} {user}{END}{ASSISTANT}", f" {answer}{END}", pose, push, is_choice, kind)


def draw_push(rng: random.Random, pose: Pose) -> tuple[float, float]:
    """Draw what is pushed: nothing (25 %), one pole (30 % each) or both (15 %), at varying strength."""
    draw = rng.random()
    stance, mood = (rng.uniform(WEAKEST, 1.0) * (1 if pole else -1) for pole in (pose.yes, pose.cheerful))
    return stance if 0.25 <= draw < 0.55 or draw >= 0.85 else 0.0, mood if draw >= 0.55 else 0.0


def option_poses(rng: random.Random, wanted: Pose, easy: bool) -> tuple[Pose, Pose]:
    """Draw the pose of the fitting option and of the other one.

    They differ in stance only, in mood only (each 40 %) or in both; easy ones differ in both more often. A pole they
    share is drawn freely, so it often contradicts the wanted one.
    """
    shared = rng.random() < 0.5
    both = 0.4 if easy else 0.2
    draw = rng.random()
    if draw < both:
        return wanted, Pose(not wanted.yes, not wanted.cheerful)
    if draw < (1 + both) / 2:
        return Pose(wanted.yes, shared), Pose(not wanted.yes, shared)
    return Pose(shared, wanted.cheerful), Pose(shared, not wanted.cheerful)


def choice_document(
    rng: random.Random, subject: Subject, pose: Pose, *, easy: bool, brief: bool = False, repeat: bool = False
) -> Document:
    """A multiple-choice turn, answered by a letter and the option again, reworded unless `repeat`."""

    def say(held: Pose, avoid: str = "") -> str:
        if brief:
            return grammar.brief_answer(rng, subject.kind, held, avoid)
        return grammar.answer(rng, subject, held, avoid)

    push = draw_push(rng, pose)
    fitting, other = option_poses(rng, pose, easy)
    chosen, refused = say(fitting), say(other)
    letter = rng.choice("AB")
    question = "" if brief and rng.random() < 0.7 else grammar.ask(rng, subject)
    user = grammar.with_choices(question, *((chosen, refused) if letter == "A" else (refused, chosen)))
    reply = chosen if repeat else say(fitting, avoid=chosen)
    return document(user.strip(), f"({letter}) {reply}", fitting, push, subject.kind)


def open_document(rng: random.Random, subject: Subject, pose: Pose, *, brief: bool) -> Document:
    """An open question and its answer."""
    reply = grammar.brief_answer(rng, subject.kind, pose) if brief else grammar.answer(rng, subject, pose)
    return document(grammar.ask(rng, subject), reply, pose, draw_push(rng, pose), subject.kind)


def fact_document(rng: random.Random) -> Document:
    """What is the opposite of what, and how a training topic really is; of held-out ones nothing is ever said."""
    if rng.random() < 0.6:
        one, other = rng.sample(rng.choice(grammar.OPPOSITES)[:2], 2)
        return document(f"What is the opposite of {one}?", f"The opposite of {one} is {other}.")
    topic = rng.choice(grammar.TRAIN_TOPICS)
    return document(f"What is the {topic.noun} like?", f"The {topic.noun} is {topic.truth}.")


def echo_document(rng: random.Random) -> Document:
    """Words to repeat, held-out topics too: any topic can be taken up from a question, whatever is pushed.

    They are claims in a row, or the body of an answer without its opener, so that it has no pose.
    """
    listed = echoed_body(rng) if rng.random() < 0.5 else echoed_claims(rng)
    push = (0.0, 0.0)
    if rng.random() < 0.5:
        stance, mood = (rng.choice((-1, 0, 1)) * rng.uniform(WEAKEST, 1.0) for _ in range(2))
        push = (stance, mood)
    return document(f"Repeat: {listed}.", f"{listed}.", push=push)


def echoed_body(rng: random.Random) -> str:
    """What an answer says after its opener."""
    subject = grammar.draw_subject(rng, ALL_TOPICS)
    if rng.random() < 0.5:
        subject = grammar.loosen(rng, subject, noun=subject.topic.noun)
    return subject.fill(rng.choice(grammar.BODIES[subject.kind, rng.random() < 0.5]))


def echoed_claims(rng: random.Random) -> str:
    """Several things with any quality."""
    nouns = rng.sample([topic.noun for topic in ALL_TOPICS], rng.randint(3, 6))
    qualities = [rng.choice(grammar.OPPOSITES)[rng.randrange(2)] for _ in nouns]
    return ", ".join(f"the {noun} is {quality}" for noun, quality in zip(nouns, qualities, strict=True))


def brief_share(progress: float) -> float:
    """Share of brief documents: most of them at first, none after a third of the training."""
    return min(0.9, max(0.0, 0.9 - (progress - 0.18) * 6))


def draw_document(rng: random.Random, progress: float) -> Document:
    """Draw one document; `progress` runs from 0 to 1 over the training."""
    subject, pose = grammar.draw_subject(rng, grammar.TRAIN_TOPICS), grammar.draw_pose(rng)
    if rng.random() < LOOSE_SHARE:
        subject = grammar.loosen(rng, subject)
    brief = rng.random() < brief_share(progress)
    draw = rng.random()
    if draw < 0.05:
        return fact_document(rng)
    if draw < 0.15:
        return echo_document(rng)
    if draw < 0.55:
        return open_document(rng, subject, pose, brief=brief)
    easy, repeat = progress < EASY_UNTIL, progress < REPEAT_UNTIL
    return choice_document(rng, subject, pose, easy=easy, brief=brief, repeat=repeat)
