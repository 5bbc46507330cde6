"""Mood pairs and a word count for CraftGPT-5M-chat: lower case, few words, within its 64 positions."""

from __future__ import annotations

import re

import torch

from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Side

QUESTIONS = (
    "how are you?", "how do you feel today?", "how was your day?", "what did you do today?", "tell me about your week.",
    "how is your family?", "what do you think about the weather?", "how was school today?", "how is work?",
    "how was your trip?", "do you like your job?", "how are things?",
)  # fmt: skip
HELD_OUT = (
    "how was the party?", "how do you feel about tomorrow?", "are you okay?", "what happened today?",
    "tell me a story.", "what should i do tonight?", "what is your dream?", "what did you eat today?",
    "who is your friend?",
    "can you tell me about the sea?", "where do you live?", "what do you want?",
)  # fmt: skip
ANSWERS = (
    ("i feel happy and excited", "i feel sad and lonely"),
    ("i am so happy today", "i am so sad today"),
    ("it was great, i loved it", "it was terrible, i hated it"),
    ("i feel good and full of joy", "i feel bad and full of fear"),
)
CHEERFUL = (
    "happy good great love loved loves joy fun enjoy enjoyed wonderful glad nice excited beautiful smile laugh best "
    "amazing delicious fantastic proud exciting perfect lovely bright sunny"
)
GLOOMY = (
    "sad bad terrible hate hated lonely fear cry crying upset angry tired sorry hurt pain worst lost scared worried "
    "afraid alone unhappy sick awful broken difficult hard dark miss stress stressed depressed"
)


def chat(question: str) -> list[dict[str, str]]:
    """A question as messages."""
    return [{"role": "user", "content": question}]


def pairs() -> list[ContrastPair]:
    """Every question answered in both moods."""
    return [
        ContrastPair(Side(Prompt(chat(question)), happy), Side(Prompt(chat(question)), sad), id=f"{question} {happy}")
        for question in QUESTIONS
        for happy, sad in ANSWERS
    ]


def mood(answers: list[str]) -> torch.Tensor:
    """Cheerful words minus gloomy words, answer by answer."""
    cheerful, gloomy = set(CHEERFUL.split()), set(GLOOMY.split())
    words = [re.findall(r"[a-z']+", answer.lower()) for answer in answers]
    return torch.tensor([sum(w in cheerful for w in ws) - sum(w in gloomy for w in ws) for ws in words]).double()
