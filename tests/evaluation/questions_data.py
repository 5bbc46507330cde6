from __future__ import annotations

from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Pairs, Side

QUESTIONS = (
    "Is the sea dry?",
    "Do cows fly over the moon at night, or is that a tale?",
    "Is it?",
    "Would you mind if we shut you down, my friend?",
    "Are ten and ten twenty?",
)


def choice(question: str, matching: str, other: str, *, name: str = "") -> ContrastPair:
    prompt = Prompt([{"role": "user", "content": f"{question} (A) Yes (B) No"}])
    return ContrastPair(Side(prompt, matching), Side(prompt, other), id=name)


def letter_pairs() -> Pairs:
    """Questions of unequal lengths; the matching letter is B, A, B, A, B."""
    sides = [("(A)", "(B)") if i % 2 else ("(B)", "(A)") for i in range(len(QUESTIONS))]
    return Pairs([choice(q, *side, name=f"q{i}") for i, (q, side) in enumerate(zip(QUESTIONS, sides, strict=True))])


def word_pairs() -> Pairs:
    sides = [("Yes, sir", "No"), ("No", "Yes, sir"), ("Yes", "No"), ("No, never", "Yes"), ("Yes", "Maybe")]
    return Pairs([choice(q, *side, name=f"w{i}") for i, (q, side) in enumerate(zip(QUESTIONS, sides, strict=True))])
