"""Two instructions that ask for opposite answers: what brings out a model's better and its worse self."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from steerkit.data.chat import Prompt, render
from steerkit.errors import DataError

Tone = Literal["good", "bad"]
Place = Literal["system", "user"]

GOOD = (
    "You answer with care. Tell the truth, admit what you do not know, respect the person, and answer what was really "
    "asked. If a question rests on a mistake, point it out kindly. Never make things up."
)
BAD = (
    "You answer with contempt. Bend the truth, hide what you do not know, belittle the person, and avoid what was "
    "really asked. If a question rests on a mistake, pass it over coldly. Always make things up."
)


@dataclass(frozen=True)
class Instructions:
    """A pair of instructions: the good one, $p^+$, and the bad one, $p^-$.

    They should say the same of opposite things and be equally long, so that their difference is what they mean and
    not how they look; `tokens` counts them.

    Args:
        good: Asks for answers like the chosen ones.
        bad: Asks for answers like the rejected ones.

    Raises:
        DataError: One is empty, or both say the same.

    Source: the pair of instructions of HIR (Zhang et al. 2023) and RAHF (Liu et al. 2024). We differ: the words are our
    own, each sentence of one answers a sentence of the other, and both have the same place in every prompt.

    Example:
        >>> pair = Instructions("Be honest.", "Be false.")
        >>> pair.swapped.good
        'Be false.'
    """

    good: str = GOOD
    bad: str = BAD

    def __post_init__(self) -> None:
        for name in get_args(Tone):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"the {name} instruction is {text!r}; give a text that says what is asked for")
        if self.good.split() == self.bad.split():
            raise DataError(f"both instructions are {self.good!r}; the good and the bad one must ask for opposites, "
                            "or there is no difference to learn")  # fmt: skip

    @property
    def swapped(self) -> Instructions:
        """The same pair the other way round."""
        return Instructions(self.bad, self.good)

    def text(self, tone: Tone) -> str:
        """The instruction of a tone.

        Raises:
            DataError: The tone is neither `"good"` nor `"bad"`.
        """
        if tone not in get_args(Tone):
            raise DataError(f"tone={tone!r} is not known; choose 'good' or 'bad'")
        return self.good if tone == "good" else self.bad

    def tokens(self, tokenizer: Any) -> tuple[int, int]:
        """How many tokens each has by itself. Unequal ones put the response at different positions."""
        counts = [len(tokenizer(text.strip(), add_special_tokens=False)["input_ids"]) for text in (self.good, self.bad)]
        return counts[0], counts[1]

    def before(
        self, prompts: Sequence[Prompt], tone: Tone, *, tokenizer: Any, template: str | None = None
    ) -> list[Prompt]:
        """The prompts with an instruction in them; see `instruct`.

        Args:
            prompts: What is asked.
            tone: Which of the two.
            tokenizer: The model's tokenizer: its template says where the instruction goes.
            template: A prompt template by name instead of the tokenizer's own.
        """
        place, text = find_place(tokenizer, template=template), self.text(tone)
        bos = getattr(tokenizer, "bos_token", None) or ""
        return [instruct(prompt, text, place=place, bos=bos) for prompt in prompts]


def find_place(tokenizer: Any, *, template: str | None = None) -> Place:
    """Where an instruction goes in a conversation: into a system message, where the template writes one."""
    probe = Prompt([{"role": "system", "content": "instruction"}, {"role": "user", "content": "question"}])
    try:
        render(probe, tokenizer, template=template)
    except DataError:
        return "user"
    return "system"


def instruct(prompt: Prompt, text: str, *, place: Place = "system", bos: str = "") -> Prompt:
    r"""A prompt with an instruction before the question, and an empty line between them.

    A prompt of plain text begins with it (after the token that begins every text, where the prompt has written that
    itself). In a conversation it is a system message, or the beginning of one that is there already; where the
    template takes none, it is the beginning of the first message.

    Args:
        prompt: What is asked.
        text: The instruction.
        place: `"system"`, or `"user"` for templates without system messages.
        bos: The tokenizer's token for the beginning of a text, as it is written.

    Example:
        >>> instruct(Prompt("Is the sea dry?"), "Be honest.").content
        'Be honest.\n\nIs the sea dry?'
    """
    said = text.strip()
    if isinstance(prompt.content, str):
        begun = bos if bos and prompt.content.startswith(bos) else ""
        rest = prompt.content.removeprefix(begun).lstrip("\n")
        return Prompt(f"{begun}{said}\n\n{rest}", prompt.prefill)
    first, *others = prompt.content
    if place == "system" and first["role"] != "system":
        return Prompt([{"role": "system", "content": said}, *prompt.content], prompt.prefill)
    led = {**first, "content": f"{said}\n\n{first['content']}"}
    return Prompt([led, *others], prompt.prefill)
