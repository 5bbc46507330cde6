"""Both sides of a pair as tokens: where they part, and which token holds the multiple-choice letter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steerkit.data.encoding import Encoded, encode, shared_prefix
from steerkit.data.pairs import ContrastPair, Side, letter_index
from steerkit.errors import DataError


@dataclass(frozen=True)
class EncodedPair:
    """The two sides of a pair as tokens.

    Args:
        positive: Tokens of the positive side.
        negative: Tokens of the negative side.
        shared: How many tokens both share from the start; the next one differs (or one side ends there).
        letter_positive: Index of the token that holds the positive answer's letter; `None` without letters.
        letter_negative: The same for the negative answer.
    """

    positive: Encoded
    negative: Encoded
    shared: int
    letter_positive: int | None
    letter_negative: int | None


def encode_pair(pair: ContrastPair, tokenizer: Any, *, template: str | None = None) -> EncodedPair:
    """Both sides of a pair as tokens, with the letter's token found by its character in the text.

    Where the prompts are the same, the letter is checked against the first token that differs: it cannot lie before it.
    Slow tokenizers have no offsets; there the first token that differs is taken for the letter.

    Args:
        pair: The two sides.
        tokenizer: A transformers tokenizer.
        template: A template by name instead of the tokenizer's own.

    Raises:
        DataError: Both sides become the same tokens, or the letter's token cannot be found.

    Source: Rimsky et al. 2024 read index -2, which is the letter with Llama 2's tokenizer alone. We differ: the letter
    is found in any tokenizer's text, also where it is merged with the bracket.
    """
    sides = (pair.positive, pair.negative)
    positive, negative = (encode(side.prompt, tokenizer, answer=side.answer, template=template) for side in sides)
    shared = shared_prefix(positive.ids, negative.ids)
    if positive.ids == negative.ids:
        raise DataError(f"pair {pair.id!r}: both sides become the same {len(positive.ids)} tokens "
                        f"(from {positive.text[-80:]!r} and {negative.text[-80:]!r}); the tokenizer or its template "
                        "drops what they differ in, so leave the pair out or write it otherwise")  # fmt: skip
    if not pair.is_choice:
        return EncodedPair(positive, negative, shared, None, None)
    if not positive.starts:
        at = shared if pair.positive.prompt == pair.negative.prompt else None
        return EncodedPair(positive, negative, shared, at, at)
    letters = [_letter_token(side, encoded, pair.id) for side, encoded in zip(sides, (positive, negative), strict=True)]
    if pair.positive.prompt == pair.negative.prompt and min(letters) < shared:
        raise DataError(f"pair {pair.id!r}: by offsets the letters are tokens {letters}, but both sides share {shared} "
                        "tokens; the tokenizer's offsets cannot be trusted")  # fmt: skip
    return EncodedPair(positive, negative, shared, letters[0], letters[1])


def _letter_token(side: Side, encoded: Encoded, pair_id: str) -> int:
    """The token of the letter, counted from the text's end: the answer is the last thing written."""
    index = letter_index(side.answer)
    after = len(side.answer.rstrip()) - (index or 0)
    character = len(encoded.text.rstrip()) - after
    if index is None or encoded.text[character] != side.answer[index]:
        raise DataError(f"pair {pair_id!r}: the text ends {encoded.text[-40:]!r}, not with the answer {side.answer!r}; "
                        "the chat template changes it")  # fmt: skip
    return encoded.token_at(character)
