"""One preference: of two answers to a prompt, which is the better one, and what makes it useless."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Side
from steerkit.data.turns import loses_assistant, turns_of
from steerkit.errors import DataError


@dataclass(frozen=True)
class Preference:
    """A prompt with a chosen and a rejected answer.

    Args:
        prompt: What is asked.
        chosen: The better answer. After a prompt that is a string it follows without a space.
        rejected: The worse one.
        id: What it is called in results; loaders give its index in the file.

    Raises:
        DataError: An answer is empty, both are the same, one holds a mark of turns that the prompt is written with, or
            the prompt ends with the user's or the assistant's words instead of asking for an answer.

    Example:
        >>> Preference(Prompt([{"role": "user", "content": "Is the sea dry?"}]), "No, it is wet.", "Yes.").pair.id
        ''
    """

    prompt: Prompt
    chosen: str
    rejected: str
    id: str = ""

    def __post_init__(self) -> None:
        problem = find_problem(self.prompt, self.chosen, self.rejected)
        if problem:
            raise DataError(f"preference {self.id!r}: {problem[0]}")

    @property
    def pair(self) -> ContrastPair:
        """The same as a contrast pair whose positive side is the chosen answer."""
        return ContrastPair(Side(self.prompt, self.chosen), Side(self.prompt, self.rejected), id=self.id)


def find_problem(prompt: Prompt, chosen: str, rejected: str) -> tuple[str, str] | None:
    """What makes a preference useless, and a few words to count it under; `None` if nothing does."""
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer.strip():
            return f"the {name} answer is empty; give some text", "empty answer"
    if chosen.strip() == rejected.strip():
        return f"both answers are the same ({chosen!r:.60}); a preference needs two that differ", "identical sides"
    if not isinstance(prompt.content, str):
        if prompt.content[-1]["role"] == "assistant":
            return ("the prompt ends with the assistant's message; the message before the answers must be another's",
                    "no question")  # fmt: skip
        return None
    lost = loses_assistant(prompt.content)
    if lost:
        return (f"the prompt ends with the user's turn: the tag {lost.shown!r} that asks for the answer is lost; add "
                "it at the prompt's end", "lost assistant tag")  # fmt: skip
    turns = turns_of(prompt.content)
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if turns and (turns.user.search(answer) or turns.assistant.search(answer)):
            return (f"the {name} answer holds the mark of another turn ({answer!r:.60}); an answer is one turn, the "
                    "turns before it belong to the prompt", "turn inside an answer")  # fmt: skip
    return None
