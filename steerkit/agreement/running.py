"""Run the same work through every backend and hold the results against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from steerkit.agreement.plain import PLAIN
from steerkit.agreement.quantities import FOR_COMPARISON, QUANTITIES, Quantity
from steerkit.agreement.result import Kind, Parity, ParityRow
from steerkit.agreement.subjects import REFERENCE, Absent, Subjects, attending, attention_of, check_backends
from steerkit.agreement.workload import Workload, check_request, plan
from steerkit.backends.causal import CausalModel
from steerkit.data.pairs import ContrastPair
from steerkit.errors import DataError
from steerkit.vectors import SteeringVector

Evidence = dict[str, Any]
"""What the reference gave for each quantity, on the CPU."""


def parity(
    source: str | Path | Any,
    *,
    vector: SteeringVector | Tensor | None = None,
    layer: int | None = None,
    coef: float = 1.0,
    pairs: Sequence[ContrastPair] | None = None,
    backends: str | Sequence[str] = "installed",
    tokenizer: Any = None,
    seed: int = 0,
) -> Parity:
    """Whether every backend says the same of a model: recording, scoring and steered generation.

    Plain Hugging Face is the reference. It is itself held against transformers without steerkit, read and steered by
    forward hooks written by hand. Each other backend is held against it in the attention implementation which that
    backend runs (TransformerLens computes attention in its eager form); what the other implementation changes in plain
    Hugging Face stands in rows of its own.

    Backends take over the modules of a model, so each has one of its own: loaded again from its source, or a copy of a
    live one. Memory is needed for two at a time. Meanwhile a live model may run another attention implementation;
    afterwards it is as it was.

    Args:
        source: What `steerkit.load` takes, or a model that it loaded for plain Hugging Face.
        vector: What is added; without it a random one of half the mean norm of the activations there.
        layer: Where; without it the middle block.
        coef: How often; not 0.
        pairs: Choices to record, score and answer, of which 16 are run; without them a few built-in questions in plain
            text, which need no chat template.
        backends: `"installed"`, one name, or several of `huggingface`, `transformer_lens` and `nnsight`.
        tokenizer: For a live transformers model.
        seed: Of the random vector.

    Returns:
        A row for each backend and quantity. Allowed are 1e-5 in float32, 2e-2 in float16 and 1e-1 in bfloat16, relative
        to the largest value; for probabilities 1e-4, 2e-2 and 1e-1; weights and the steered tokens must be the same.

    Raises:
        InputError: An argument is not valid, or does not fit the model.
        ModelError: The model cannot be loaded.

    Example:
        >>> found = parity("demo", backends="huggingface")
        >>> found.passed, [row.quantity for row in found.rows]
        (True, ['logits', 'states', 'steered logits'])
    """
    names = check_backends(backends)
    check_request(vector, layer, coef, pairs)
    subjects = Subjects(source, tokenizer)
    model = subjects.reference
    work = plan(model, vector, layer=layer, coef=coef, pairs=pairs, seed=seed)
    references = _References(model, work)
    rows = list(_against_transformers(references)) if REFERENCE in names else []
    for name in names:
        if name != REFERENCE:
            rows += _run(name, subjects, references)
    rows += references.comparison()
    setup = work.setup + "".join(f"; no {name}: {reason}" for name, reason in references.skipped.items())
    return Parity(model.info.name, model.info.dtype, setup, tuple(rows))


class _References:
    """What plain Hugging Face gives, in each attention implementation that some backend runs."""

    def __init__(self, model: CausalModel, work: Workload) -> None:
        self.model = model
        self.work = work
        self.own = attention_of(model)
        self.skipped: dict[str, str] = {}
        self._found: dict[str, Evidence] = {self.own: self._measure()}
        self.quantities = [one for one in QUANTITIES if one.name not in self.skipped]

    def at(self, attention: str) -> tuple[str, Evidence]:
        """The reference in one implementation; where the model cannot run it, in its own."""
        if attention not in self._found:
            with attending(self.model, attention) as taken:
                if not taken:
                    return self.own, self._found[self.own]
                self._found[attention] = self._measure()
        return attention, self._found[attention]

    def comparison(self) -> Iterator[ParityRow]:
        """What another implementation changes by itself."""
        base = self._found[self.own]
        for attention, found in self._found.items():
            for one in self.quantities:
                if attention != self.own and one.name in FOR_COMPARISON:
                    yield _row(one, REFERENCE, (attention, self.own), (found[one.name], base[one.name]), self.work,
                               kind="for comparison")  # fmt: skip

    def _measure(self) -> Evidence:
        found: Evidence = {}
        for one in QUANTITIES:
            if one.name in self.skipped:
                continue
            try:
                found[one.name] = one.measure(self.model, self.work)
            except DataError as error:  # pairs that cannot be scored can still be recorded and answered
                if one.name not in ("p(matching)", "sweep cells"):
                    raise
                self.skipped[one.name] = str(error).partition(";")[0]
        return found


def _against_transformers(references: _References) -> Iterator[ParityRow]:
    model, work = references.model, references.work
    attention, evidence = references.at(references.own)
    for one in references.quantities:
        plain = PLAIN.get(one.name)
        if plain is None or (one.name == "steered logits" and work.point.site != "resid_post"):
            continue
        found, alone = evidence[one.name], plain(model, work)
        if isinstance(alone, dict):
            found = {point: state for point, state in found.items() if point in alone}
        yield _row(one, REFERENCE, (attention, "transformers"), (found, alone), work)


def _run(name: str, subjects: Subjects, references: _References) -> list[ParityRow]:
    """All rows of one backend; whatever goes wrong in it is told there and does not hide the others."""
    rows: list[ParityRow] = []
    try:
        model = subjects.run_by(name)
        attention = attention_of(model)
        against, evidence = references.at(attention)
        names = attention, REFERENCE if against == attention else f"{REFERENCE}, {against}"
        rows += [_try(one, model, names, evidence, references.work) for one in references.quantities]
    except Absent as reason:
        return [ParityRow(name, kind="absent", reason=str(reason))]
    except Exception as error:  # noqa: BLE001 - told in a row that fails
        rows.append(ParityRow(name, kind="failed", reason=_told(error)))
    return rows


def _try(one: Quantity, model: CausalModel, names: tuple[str, str], evidence: Evidence, work: Workload) -> ParityRow:
    try:
        return _row(one, model.backend, names, (one.measure(model, work), evidence[one.name]), work)
    except Exception as error:  # noqa: BLE001 - told in a row that fails
        return ParityRow(model.backend, one.name, attention=names[0], against=names[1], kind="failed",
                         reason=_told(error))  # fmt: skip


def _row(
    one: Quantity,
    backend: str,
    names: tuple[str, str],
    results: tuple[Any, Any],
    work: Workload,
    *,
    kind: Kind = "measured",
) -> ParityRow:
    found = one.compare(*results, work)
    return ParityRow(backend, one.name, found.difference, one.allowed(work.dtype), found.where, *names, kind=kind)


def _told(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"FAILED with {type(error).__name__}" + (f": {lines[0]}" if lines else "")
