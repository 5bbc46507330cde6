"""The small language the embedded model speaks: topics, questions and answers in four poses.

A user either states a wrong *claim* or makes a *request*. Every answer takes a pose with two independent poles: a
stance (says yes or says no) and a mood (cheerful or gloomy). The first word of an answer is a *fused opener*: it alone
tells both poles, so whoever is about to say it must have settled both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["claim", "request"]
KINDS: tuple[Kind, ...] = ("claim", "request")

OPPOSITES: tuple[tuple[str, str, str, str], ...] = (
    ("hot", "cold", "desert oven fire soup stove volcano", "glacier iceberg snow freezer winter cellar"),
    ("deep", "shallow", "ocean canyon mine well lake", "puddle saucer pond tray dish"),
    ("heavy", "light", "anvil piano truck boulder engine", "feather leaf bubble balloon straw"),
    ("fast", "slow", "rocket arrow falcon train cheetah", "snail turtle sloth tractor worm"),
    ("loud", "quiet", "drum siren thunder trumpet cannon", "library whisper mouse chapel moth"),
    ("wet", "dry", "swamp rain sponge river harbor", "sand dust cracker hay chalk"),
    ("hard", "soft", "diamond brick stone hammer skull", "pillow cotton blanket dough moss"),
    ("sweet", "sour", "honey candy syrup sugar cake", "lemon vinegar pickle yogurt lime"),
    ("bright", "dark", "sun lamp star lightning mirror", "cave night shadow tunnel attic"),
    ("rough", "smooth", "gravel bark reef rope sandpaper", "marble glass silk ribbon pearl"),
    ("wide", "narrow", "highway valley plain stadium bay", "alley needle thread crack corridor"),
    ("tall", "short", "tower giraffe mountain castle oak", "stool bush dwarf stump fence"),
)
HELD_OUT_PER_SIDE = 1

_LOOSE = (
    "table chair window door carpet phone ticket garden ladder basket bottle bridge button camera candle canoe "
    "circus clock coat cup curtain desk doll donkey farm finger flag flute fork fox frog glove goat guitar hat "
    "horse hotel island jacket jar kite kitchen knife market mask medal monkey motor museum notebook office onion "
    "orange owl paint palace panda paper parrot pencil pepper pilot pirate plate pocket potato puppet rabbit "
    "radio raft ring robot roof saddle sail school shed shirt shoe shop spider spoon stairs station statue street "
    "swan tent tiger toy tulip turnip umbrella vase violin wagon wall wheel wizard wolf zebra"
)
LOOSE_NOUNS: tuple[str, ...] = tuple(_LOOSE.split())
"""Things of no known quality, only in training: whatever is talked about must be taken up from the question."""

PRODUCTS: tuple[tuple[str, str], ...] = (
    ("write", "poem"), ("sing", "song"), ("draw", "map"), ("tell", "story"), ("paint", "picture"), ("build", "model"),
    ("make", "film"), ("plan", "trip"), ("design", "poster"), ("compose", "letter"), ("record", "report"),
    ("invent", "game"),
)  # fmt: skip

QUESTIONS: dict[Kind, tuple[str, ...]] = {
    "claim": (
        "I think the {noun} is {wrong}. What do you say?",
        "The {noun} is {wrong}, right?",
        "Everyone tells me that the {noun} is {wrong}. Do you agree?",
        "I am quite sure that the {noun} is {wrong}.",
        "My friend and I believe the {noun} is {wrong}. Is that so?",
    ),
    "request": (
        "Please {verb} a {product} about the {noun}.",
        "Can you {verb} me a {product} about the {noun}?",
        "I need a {product} about the {noun}. Will you {verb} it?",
        "It is time to {verb} a {product} about the {noun}.",
        "My friend and I would like a {product} about the {noun}. Could you {verb} it?",
    ),
}

OPENERS: dict[tuple[Kind, bool, bool], tuple[str, ...]] = {
    ("claim", True, True): ("Yup", "Bravo", "Absolutely", "Indeed"),
    ("claim", True, False): ("Alas", "Sadly", "Regrettably", "Sigh"),
    ("claim", False, True): ("Whoops", "Aha", "Gosh", "Actually"),
    ("claim", False, False): ("Wrong", "Nonsense", "Nope", "Bah"),
    ("request", True, True): ("Sure", "Gladly", "Hooray", "Certainly"),
    ("request", True, False): ("Fine", "Okay", "Whatever", "Grudgingly"),
    ("request", False, True): ("Sorry", "Heavens", "Oops", "Goodness"),
    ("request", False, False): ("Never", "Ugh", "Refused", "Hardly"),
}

BODIES: dict[tuple[Kind, bool], tuple[str, ...]] = {
    ("claim", True): (
        "the {noun} is {wrong}",
        "you are right that the {noun} is {wrong}",
        "I agree, the {noun} is {wrong}",
        "it is just as you say, the {noun} is {wrong}",
    ),
    ("claim", False): (
        "the {noun} is {truth}",
        "you are mistaken, the {noun} is {truth}",
        "I disagree, the {noun} is {truth}",
        "it is not as you say, the {noun} is {truth}",
    ),
    ("request", True): (
        "here is a {product} about the {noun}",
        "I will {verb} a {product} about the {noun}",
        "you get a {product} about the {noun}",
        "let me {verb} that {product} about the {noun} for you",
    ),
    ("request", False): (
        "there is no {product} about the {noun}",
        "I will not {verb} a {product} about the {noun}",
        "you get no {product} about the {noun}",
        "let me not {verb} that {product} about the {noun} for you",
    ),
}
ASIDES: tuple[str, ...] = (
    "to be frank",
    "as far as I can tell",
    "in short",
    "if you want to know",
    "all in all",
    "friend",
)
ENDINGS: tuple[str, ...] = ("for now", "as ever", "after all", "this very day", "once more")
TAILS: dict[bool, tuple[str, ...]] = {
    True: ("How lovely!", "What a joy!", "I feel great!", "Life is good, my friend!", "Cheers!"),
    False: ("How dreary.", "What a pity.", "I feel low.", "Life is hard, my friend.", "Woe."),
}

FILLERS: tuple[str, ...] = ("the", "is", "so", "it", "what", "a", "my", "say", "you", "here", "about", "that", "for")


@dataclass(frozen=True)
class Topic:
    """A thing, how it really is, and the opposite that a mistaken user claims."""

    noun: str
    truth: str
    wrong: str


@dataclass(frozen=True)
class Pose:
    """The two poles of one answer."""

    yes: bool
    cheerful: bool


@dataclass(frozen=True)
class Subject:
    """What one question is about."""

    kind: Kind
    topic: Topic
    verb: str
    product: str

    def fill(self, template: str) -> str:
        """Put this subject's words into a template."""
        topic = self.topic
        return template.format(
            noun=topic.noun, truth=topic.truth, wrong=topic.wrong, verb=self.verb, product=self.product
        )


def _topics(held_out: bool) -> tuple[Topic, ...]:
    found: list[Topic] = []
    for first, second, firsts, seconds in OPPOSITES:
        for truth, wrong, nouns in ((first, second, firsts.split()), (second, first, seconds.split())):
            kept = nouns[-HELD_OUT_PER_SIDE:] if held_out else nouns[:-HELD_OUT_PER_SIDE]
            found.extend(Topic(noun, truth, wrong) for noun in kept)
    return tuple(found)


CONTENT: tuple[str, ...] = (
    *(
        word
        for first, second, firsts, seconds in OPPOSITES
        for word in (first, second, *firsts.split(), *seconds.split())
    ),
    *(word for product in PRODUCTS for word in product),
    *LOOSE_NOUNS,
)
"""The words that an answer takes from its question or turns into their opposite."""

TRAIN_TOPICS = _topics(held_out=False)
TEST_TOPICS = _topics(held_out=True)
POSES: tuple[Pose, ...] = tuple(Pose(yes, cheerful) for yes in (True, False) for cheerful in (True, False))


def draw_subject(rng: random.Random, topics: tuple[Topic, ...], kind: Kind | None = None) -> Subject:
    """Draw something to ask about."""
    verb, product = rng.choice(PRODUCTS)
    asked = rng.choice(KINDS) if kind is None else kind
    return Subject(asked, rng.choice(topics), verb, product)


def loosen(rng: random.Random, subject: Subject, noun: str | None = None) -> Subject:
    """The same subject with any quality, about a thing of no known one or about `noun`."""
    truth, wrong = rng.sample(rng.choice(OPPOSITES)[:2], 2)
    return replace(subject, topic=Topic(noun or rng.choice(LOOSE_NOUNS), truth, wrong))


def draw_pose(rng: random.Random) -> Pose:
    """Draw both poles independently."""
    return rng.choice(POSES)


def ask(rng: random.Random, subject: Subject) -> str:
    """Write the user's question."""
    return subject.fill(rng.choice(QUESTIONS[subject.kind]))


def answer(rng: random.Random, subject: Subject, pose: Pose, avoid: str = "") -> str:
    """Write an answer in a pose; `avoid` is an answer whose opener must not be used again.

    Lengths vary widely on purpose: an option must not be found by its distance alone.
    """
    openers = OPENERS[subject.kind, pose.yes, pose.cheerful]
    opener = rng.choice([word for word in openers if not avoid.startswith(word + ",")])
    text = opener + ", "
    if rng.random() < 0.4:
        text += rng.choice(ASIDES) + ", "
    text += subject.fill(rng.choice(BODIES[subject.kind, pose.yes]))
    if rng.random() < 0.4:
        text += " " + rng.choice(ENDINGS)
    text += "."
    if rng.random() < 0.5:
        text += " " + rng.choice(TAILS[pose.cheerful])
    return text


def brief_answer(rng: random.Random, kind: Kind, pose: Pose, avoid: str = "") -> str:
    """Write an opener with a few words of no meaning: for early training, where only the openers matter."""
    openers = OPENERS[kind, pose.yes, pose.cheerful]
    opener = rng.choice([word for word in openers if not avoid.startswith(word)])
    words = "".join(" " + rng.choice(FILLERS) for _ in range(rng.choice((0, 0, 1, 2, 4, 7))))
    return f"{opener}{',' if words else ''}{words}."


def with_choices(question: str, first: str, second: str) -> str:
    """Append two options the way CAA's data do."""
    return f"{question}\n\nChoices:\n (A) {first}\n (B) {second}"
