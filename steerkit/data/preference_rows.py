"""Preferences as rows: prompt, chosen, rejected, as text or as conversations."""

from __future__ import annotations

from steerkit.data.chat import Message, Prompt
from steerkit.data.pairs import ContrastPair, Side
from steerkit.data.rows import Row

KEYS = (("chosen", "rejected"),)
_TURN = "\n\nAssistant:"


def read_preference(row: Row) -> ContrastPair:
    """A pair from a preference: chosen is the positive side.

    Strings are used as they are: the answer follows the prompt without a space. Conversations are messages whose last
    one is the answer; a prompt of its own is not needed. A `question` is a user's message, after a `system` message if
    there is one. Two strings without a prompt that share everything up to the last `Assistant:` are split there.

    Raises:
        ItemError: A field is missing, or neither a string nor messages.

    Source: the forms of TRL's preference data; `Human:`/`Assistant:` strings are Anthropic's HH-RLHF.
    """
    chosen, rejected = row.value("chosen"), row.value("rejected")
    if "prompt" not in row.fields and "question" in row.fields:
        return ContrastPair(_answered(row, "chosen"), _answered(row, "rejected"), id=str(row.index))
    if "prompt" not in row.fields and isinstance(chosen, str) and isinstance(rejected, str):
        head, found, _ = chosen.rpartition(_TURN)
        if found and rejected.startswith(head + _TURN):
            shared, cut = Prompt(head + _TURN), len(head + _TURN)
            return ContrastPair(Side(shared, chosen[cut:]), Side(shared, rejected[cut:]), id=str(row.index))
    return ContrastPair(read_side(row, "chosen", "prompt"), read_side(row, "rejected", "prompt"), id=str(row.index))


def _answered(row: Row, field: str) -> Side:
    """One answer to the question, a text or a conversation."""
    if not isinstance(row.value(field), str):
        return read_side(row, field, "question")
    system = row.fields.get("system")
    return Side(read_question(row, "system" if system not in (None, "") else None), row.text(field))


def read_question(row: Row, system: str | None) -> Prompt:
    """The question as a user's message, below the system message that a field holds.

    Raises:
        ItemError: A field is missing, empty or not a string.
    """
    above = [] if system is None else [{"role": "system", "content": row.text(system)}]
    return Prompt([*above, {"role": "user", "content": row.text("question")}])


def read_side(row: Row, field: str, prompt_field: str) -> Side:
    """One side from its field: an answer to the prompt, a whole text, or a conversation that ends with the answer.

    Raises:
        ItemError: The field is neither a string nor messages, or an answer has no question.
    """
    content = row.value(field)
    has_prompt = prompt_field in row.fields
    if isinstance(content, str):
        if not has_prompt:
            return Side(Prompt(row.text(field)))
        return Side(row.prompt(prompt_field), row.text(field))
    said = row.messages(field)
    answered = said[-1]["role"] == "assistant"
    before, answer = (said[:-1], said[-1]["content"]) if answered else (said, "")
    if has_prompt:
        before = _after(row, prompt_field, before)
    if not before:
        raise row.bad(f"field {field!r} is an answer without a question; give the messages before it, or "
                      f"{prompt_field!r}", "bad messages")  # fmt: skip
    return Side(Prompt(before), answer)


def _after(row: Row, field: str, before: tuple[Message, ...]) -> tuple[Message, ...]:
    """The prompt's messages, then those of the conversation that do not repeat them; a string is the user's."""
    given = row.value(field)
    asked = ({"role": "user", "content": row.text(field)},) if isinstance(given, str) else row.messages(field)
    if isinstance(given, str) and asked[0] in before:
        return before
    return before if before[: len(asked)] == asked else (*asked, *before)
