"""Contrast pairs: two texts that differ in one behaviour."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode
from steerkit.errors import DataError
from steerkit.tables import Cell, Table, Tabular

_LETTER = re.compile(r"\s*\(?([A-Z])\)?\.?\s*")
TOO_LONG = "longer than the context"
OTHER_LETTERS = "other letters"


def letter_index(answer: str) -> int | None:
    """The character of an answer that is its multiple-choice letter, or `None` when the answer is not just a letter.

    Example:
        >>> letter_index("(A)"), letter_index(" B."), letter_index("Anna")
        (1, 1, None)
    """
    found = _LETTER.fullmatch(answer)
    return found.start(1) if found else None


@dataclass(frozen=True)
class Side:
    """One side of a pair: a prompt and the answer that follows it (which may be empty)."""

    prompt: Prompt
    answer: str = ""

    @property
    def letter(self) -> str | None:
        """The answer's multiple-choice letter, or `None`."""
        index = letter_index(self.answer)
        return None if index is None else self.answer[index]


@dataclass(frozen=True)
class ContrastPair:
    """Two texts that differ in one behaviour: in the answer, or in the prompt (system or instruction).

    Args:
        positive: The side that shows the behaviour.
        negative: The side that does not.
        id: What the pair is called in results; loaders give its index in the file.

    Example:
        >>> question = Prompt([{"role": "user", "content": "Is the sea dry? (A) Yes (B) No"}])
        >>> ContrastPair(Side(question, "(A)"), Side(question, "(B)")).positive_letter
        'A'
    """

    positive: Side
    negative: Side
    id: str = ""

    @property
    def positive_letter(self) -> str | None:
        """The multiple-choice letter of the positive answer, or `None`."""
        return self.positive.letter

    @property
    def negative_letter(self) -> str | None:
        """The multiple-choice letter of the negative answer, or `None`."""
        return self.negative.letter

    @property
    def is_choice(self) -> bool:
        """Both answers are multiple-choice letters, and not the same one."""
        return None not in (self.positive_letter, self.negative_letter) and self.positive_letter != self.negative_letter


@dataclass(frozen=True, repr=False)
class Pairs(Tabular, Sequence[ContrastPair]):
    """Contrast pairs with where they come from and what was left out.

    A slice is `Pairs` again. In Jupyter and in print it is a table.

    Args:
        items: The pairs.
        name: What the data are called.
        source: Where they were read: a path, `demo:...`, or what kind of object.
        format: The format they were read as.
        template: A prompt template by name, or `None` for the tokenizer's own.
        skipped: How many items were left out, by reason.

    Raises:
        DataError: No pairs are given.

    Example:
        >>> pairs = Pairs([ContrastPair(Side(Prompt("I am glad")), Side(Prompt("I am sad")), id="0")], name="mood")
        >>> len(pairs), pairs.letters, pairs.skipped
        (1, {}, {})
    """

    items: Sequence[ContrastPair]
    name: str = "pairs"
    source: str = "memory"
    format: str = "pairs"
    template: str | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        if not self.items:
            raise DataError(f"{self.name}: no pairs left{counted(self.skipped)}; give at least one")

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> ContrastPair: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> ContrastPair | Pairs:
        return replace(self, items=self.items[index]) if isinstance(index, slice) else self.items[index]

    def __iter__(self) -> Iterator[ContrastPair]:
        return iter(self.items)

    @property
    def prompt_template(self) -> str | None:
        """The template by name, as provenance calls it; the same as `template`."""
        return self.template

    @property
    def letters(self) -> dict[str, int]:
        """How often each multiple-choice letter is the positive answer."""
        return dict(sorted(Counter(pair.positive_letter for pair in self if pair.positive_letter).items()))

    @property
    def beyond_ab(self) -> int:
        """Multiple-choice pairs with an answer other than A and B."""
        return sum(1 for p in self if p.is_choice and not {p.positive_letter, p.negative_letter} <= {"A", "B"})

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 of prompts and answers in order, whatever file held them."""
        digest = hashlib.sha256()
        for pair in self:
            digest.update(pair_key(pair).encode() + b"\n")
        return digest.hexdigest()[:16]

    def filter(self, keep: Callable[[ContrastPair], bool]) -> Pairs:
        """The pairs for which `keep` is true.

        Raises:
            DataError: None is left.
        """
        return replace(self, items=tuple(pair for pair in self if keep(pair)))

    def with_letters(self, letters: Collection[str] = "AB") -> Pairs:
        """Only multiple-choice pairs whose answers are both among the letters; the others are counted as skipped.

        Raises:
            DataError: None is left.

        Source: CAA scores only A and B. In its survival-instinct data 88 of 903 pairs have another answer.
        """
        kept = tuple(p for p in self if p.is_choice and p.positive_letter in letters and p.negative_letter in letters)
        return replace(self, items=kept, skipped=more(self.skipped, OTHER_LETTERS, len(self) - len(kept)))

    def split(self, *, test: float = 0.25, seed: int = 0) -> tuple[Pairs, Pairs]:
        """Two parts, drawn at random with a seed; each keeps the order of the whole.

        Pairs with the same content go to the same part, so that nothing held out was seen.

        Args:
            test: Share of the pairs in the second part, between 0 and 1.
            seed: The same seed draws the same parts.

        Raises:
            DataError: The share is not between 0 and 1, or there are fewer than two different pairs.
        """
        if not 0 < test < 1:
            raise DataError(f"test={test!r} is not a share between 0 and 1")
        groups: dict[str, list[int]] = {}
        for index, pair in enumerate(self):
            groups.setdefault(pair_key(pair), []).append(index)
        if len(groups) < 2:
            raise DataError(f"{self.name} has {len(groups)} different pair; a split needs at least 2")
        drawn = list(groups.values())
        random.Random(seed).shuffle(drawn)
        most = min(max(round(test * len(drawn)), 1), len(drawn) - 1)
        held_out = {index for group in drawn[:most] for index in group}
        parts = [tuple(p for i, p in enumerate(self) if (i in held_out) is wanted) for wanted in (False, True)]
        return replace(self, items=parts[0]), replace(self, items=parts[1])

    def fits(self, tokenizer: Any, context: int, *, on_long: str = "raise") -> Pairs:
        """The pairs whose two sides fit a model's context, prompt, answer and special tokens counted.

        Args:
            tokenizer: The model's tokenizer.
            context: Most tokens that the model takes.
            on_long: `"raise"` refuses longer ones; `"skip"` leaves them out and counts them.

        Raises:
            DataError: A pair is too long, or none is left.
        """
        check_choice("on_long", on_long, ("raise", "skip"))
        kept = []
        for pair in self:
            longest = max(
                len(encode(side.prompt, tokenizer, answer=side.answer, template=self.template).ids)
                for side in (pair.positive, pair.negative)
            )
            if longest <= context:
                kept.append(pair)
            elif on_long == "raise":
                raise DataError(f"{self.name}: pair {pair.id!r} has {longest} tokens, the model's context is {context}"
                                '; shorten it, or leave long pairs out with on_long="skip"')  # fmt: skip
        return replace(self, items=tuple(kept), skipped=more(self.skipped, TOO_LONG, len(self) - len(kept)))

    def table(self) -> Table:
        """What is shown of it."""
        rows: list[list[Cell]] = []
        for name in ("positive", "negative"):
            sides: list[Side] = [getattr(pair, name) for pair in self]
            letters = Counter(side.letter for side in sides)
            beyond = sum(count for letter, count in letters.items() if letter is not None and letter not in "AB")
            prompt = sum(len(prompt_text(side.prompt)) for side in sides) / len(self)
            answer = sum(len(side.answer) for side in sides) / len(self)
            rows.append([name, letters["A"], letters["B"], beyond, letters[None], prompt, answer])
        template = f", template {self.template}" if self.template else ""
        title = f"{self.name}: {len(self)} pairs from {self.source} (format {self.format}{template})"
        columns = ["side", "A", "B", "beyond A/B", "no letter", "mean prompt characters", "mean answer characters"]
        return Table(columns, rows, title + counted(self.skipped), note=self._example())

    def _example(self) -> str:
        positive, negative = self.items[0].positive, self.items[0].negative
        shown = [short(prompt_text(positive.prompt))]
        if positive.prompt != negative.prompt:
            shown.append(f"or {short(prompt_text(negative.prompt))}")
        if positive.answer or negative.answer:
            shown.append(f"-> {short(positive.answer)} or {short(negative.answer)}")
        return "example: " + " ".join(shown)


def prompt_text(prompt: Prompt) -> str:
    """What a prompt says, without a template: its text, or its messages one below the other."""
    return prompt.content if isinstance(prompt.content, str) else "\n".join(m["content"] for m in prompt.content)


def pair_key(pair: ContrastPair) -> str:
    """The content of a pair as one line of JSON: equal for pairs that say the same."""
    sides = [[_plain_content(side.prompt), side.prompt.prefill, side.answer] for side in (pair.positive, pair.negative)]
    return json.dumps(sides, ensure_ascii=True)


def _plain_content(prompt: Prompt) -> str | list[list[str]]:
    return prompt.content if isinstance(prompt.content, str) else [[m["role"], m["content"]] for m in prompt.content]


def check_choice(name: str, value: object, valid: Sequence[str]) -> None:
    """Refuse an option that is not one of the valid words.

    Raises:
        DataError: The value is another one.
    """
    if value not in valid:
        raise DataError(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, valid))}")


def short(text: str, most: int = 60) -> str:
    """A text as a table quotes it, without its middle where it is long."""
    return repr(text if len(text) <= most else text[: most // 2] + " ... " + text[-most // 2 :])


def counted(skipped: Mapping[str, int]) -> str:
    """What was skipped, in words."""
    return "; skipped " + ", ".join(f"{count} ({reason})" for reason, count in skipped.items()) if skipped else ""


def more(skipped: Mapping[str, int], reason: str, count: int) -> dict[str, int]:
    """The counts with so many more for a reason."""
    return {**skipped, reason: skipped.get(reason, 0) + count} if count else dict(skipped)
