"""Preferences as a whole: parts without a shared prompt, lengths, and what fits a model."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any, overload

from steerkit.data.lengths import Lengths
from steerkit.data.pairs import TOO_LONG, Pairs, check_choice, counted, more, pair_key, prompt_text, short
from steerkit.data.preference_items import Preference
from steerkit.data.preference_tokens import control_tokens, count_tokens, fitted
from steerkit.errors import DataError
from steerkit.tables import Table, Tabular

UNEQUAL = "answers of unequal length"


@dataclass(frozen=True, repr=False)
class Preferences(Tabular, Sequence[Preference]):
    """Preferences with where they come from and what was left out.

    A slice is `Preferences` again. In Jupyter and in print it is a table.

    Args:
        items: The preferences.
        name: What the data are called.
        source: Where they were read.
        template: A prompt template by name, or `None` for the tokenizer's own.
        skipped: How many items were left out, by reason.
        cut: How many prompts were shortened from the left to fit.

    Raises:
        DataError: No preferences are given.

    Example:
        >>> from steerkit.data.chat import Prompt
        >>> asked = Prompt([{"role": "user", "content": "Is the sea dry?"}])
        >>> mine = Preferences([Preference(asked, "No.", "Yes."), Preference(asked, "No!", "Yes!")], name="sea")
        >>> len(mine), mine.lengths.chosen_longer, mine.pairs()[0].positive.answer
        (2, 0.0, 'No.')
    """

    items: Sequence[Preference]
    name: str = "preferences"
    source: str = "memory"
    template: str | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    cut: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        if not self.items:
            raise DataError(f"{self.name}: no preferences left{counted(self.skipped)}; give at least one")

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Preference: ...
    @overload
    def __getitem__(self, index: slice) -> Preferences: ...
    def __getitem__(self, index: int | slice) -> Preference | Preferences:
        return replace(self, items=self.items[index]) if isinstance(index, slice) else self.items[index]

    def __iter__(self) -> Iterator[Preference]:
        return iter(self.items)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 of prompts and answers in order; that of `pairs()` is the same."""
        digest = hashlib.sha256()
        for one in self:
            digest.update(pair_key(one.pair).encode() + b"\n")
        return digest.hexdigest()[:16]

    @cached_property
    def lengths(self) -> Lengths:
        """Lengths in characters, without any template."""
        rows = [(len(prompt_text(one.prompt)), len(one.chosen), len(one.rejected)) for one in self]
        return _lengths(rows, "characters")

    def token_lengths(self, tokenizer: Any) -> Lengths:
        """Lengths in tokens of a model, those of its template counted with the prompt.

        Raises:
            DataError: A prompt cannot be written with the tokenizer's template.
        """
        return _lengths([count_tokens(one, tokenizer, self.template) for one in self], "tokens")

    def pairs(self) -> Pairs:
        """Contrast pairs whose positive side is the chosen answer, to record, extract and score with."""
        pairs = [one.pair for one in self]
        return Pairs(pairs, name=self.name, source=self.source, format="preferences", template=self.template,
                     skipped=self.skipped)  # fmt: skip

    def filter(self, keep: Callable[[Preference], bool]) -> Preferences:
        """The preferences for which `keep` is true.

        Raises:
            DataError: None is left.
        """
        return replace(self, items=tuple(one for one in self if keep(one)))

    def length_matched(self, tolerance: float = 0.1, *, tokenizer: Any = None) -> Preferences:
        """The preferences whose two answers are about equally long.

        Args:
            tolerance: How much they may differ, as a share of the longer one, between 0 and 1.
            tokenizer: Counts tokens instead of characters.

        Raises:
            DataError: The tolerance is not a share, or none is left.
        """
        if not 0 <= tolerance <= 1:
            raise DataError(f"tolerance={tolerance!r} is not a share between 0 and 1")
        lengths = self.lengths if tokenizer is None else self.token_lengths(tokenizer)
        kept = [one for one, match in zip(self, lengths.matched(tolerance), strict=True) if match]
        gone = len(self) - len(kept)
        return replace(self, items=kept, skipped=more(self.skipped, UNEQUAL, gone))

    def split(
        self, *, teach: float = 0.45, distil: float = 0.45, test: float = 0.10, seed: int = 0
    ) -> tuple[Preferences, Preferences, Preferences]:
        """Three parts, drawn at random with a seed: to teach with, to distil with, and to measure with.

        Preferences with the same prompt go to the same part, so that nothing held out was seen; each part keeps the
        order of the whole.

        Args:
            teach: Share of the first part, above 0; the three come to 1.
            distil: Share of the second part.
            test: Share of the third part.
            seed: The same seed draws the same parts.

        Raises:
            DataError: The shares do not come to 1, or there are fewer different prompts than parts.

        Source: RAHF (Liu et al. 2024) teaches and distils on disjoint halves. We differ: it drew them without a seed.
        """
        parts = self.parts({"teach": teach, "distil": distil, "test": test}, seed=seed)
        return parts["teach"], parts["distil"], parts["test"]

    def parts(self, shares: Mapping[str, float], *, seed: int = 0) -> dict[str, Preferences]:
        """Any number of parts by name, drawn as in `split`.

        Raises:
            DataError: The shares do not come to 1, or there are fewer different prompts than parts.
        """
        if not all(isfinite(share) and share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
            given = ", ".join(f"{name}={share!r}" for name, share in shares.items())
            raise DataError(f"the shares {given} must each be above 0 and come to 1")
        drawn = _draw(list(self), shares, seed)
        return {
            name: replace(self, items=tuple(self.items[i] for i in sorted(rows)), name=f"{self.name}/{name}")
            for name, rows in drawn.items()
        }

    def fits(self, tokenizer: Any, context: int, *, on_long: str = "raise", reserve: int = 0) -> Preferences:
        """The preferences whose prompt fits a model's context with either answer, special tokens counted.

        Answers are never cut. A prompt is cut from the left only: oldest turns first, then words of the last question;
        the template writes the assistant's tag after what is left.

        Args:
            tokenizer: The model's tokenizer.
            context: Most tokens that the model takes.
            on_long: `"raise"` refuses longer ones; `"skip"` leaves them out and counts them; `"cut"` shortens their
                prompts, and leaves out and counts those that are too long even so.
            reserve: Tokens to keep free, as for an instruction that will stand before the prompt.

        Raises:
            DataError: A preference is too long, its answers hold no token, the same tokens or a control token, or none
                is left.
        """
        check_choice("on_long", on_long, ("raise", "skip", "cut"))
        kept, cut, controls, room = [], 0, control_tokens(tokenizer), context - reserve
        for one in self:
            fitting, tokens = fitted(one, tokenizer, self.template, room=room, cut=on_long == "cut", controls=controls)
            if fitting is None and on_long == "raise":
                raise DataError(f"{self.name}: preference {one.id!r} has {tokens} tokens, there is room for {room}; "
                                'leave long ones out with on_long="skip", or cut their prompts from the left with '
                                'on_long="cut"')  # fmt: skip
            if fitting is not None:
                kept.append(fitting)
                cut += fitting != one
        skipped = more(self.skipped, TOO_LONG, len(self) - len(kept))
        return replace(self, items=kept, skipped=skipped, cut=self.cut + cut)

    def table(self) -> Table:
        """What is shown of it."""
        lengths, first = self.lengths.table(), self.items[0]
        prompts = len({_prompt_key(one) for one in self})
        template = f", template {self.template}" if self.template else ""
        cut = f"; {self.cut} prompts cut from the left" if self.cut else ""
        title = f"{self.name}: {len(self)} preferences on {prompts} prompts from {self.source}{template}"
        example = f"example: {short(prompt_text(first.prompt))} -> {short(first.chosen)} over {short(first.rejected)}"
        return replace(lengths, title=title + counted(self.skipped) + cut, note=f"{lengths.note}\n{example}")


def _lengths(rows: Sequence[tuple[int, int, int]], unit: str) -> Lengths:
    prompt, chosen, rejected = zip(*rows, strict=True)
    return Lengths(prompt, chosen, rejected, unit)


def _prompt_key(one: Preference) -> str:
    """What a prompt says, whatever its spaces and its form."""
    return " ".join(prompt_text(one.prompt).split())


def _draw(items: Sequence[Preference], shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Rows by part: prompts in random order, first one for each part, then each to the part that lacks most rows."""
    groups: dict[str, list[int]] = {}
    for row, one in enumerate(items):
        groups.setdefault(_prompt_key(one), []).append(row)
    if len(groups) < len(shares):
        raise DataError(f"{len(groups)} different prompts cannot be split into {len(shares)} parts "
                        f"({', '.join(shares)}); give more preferences")  # fmt: skip
    drawn = list(groups.values())
    random.Random(seed).shuffle(drawn)
    parts: dict[str, list[int]] = {name: [] for name in shares}
    for rows in drawn:
        empty = [name for name, given in parts.items() if not given]
        most = empty[0] if empty else max(parts, key=lambda name: shares[name] * len(items) - len(parts[name]))
        parts[most] += rows
    return parts
