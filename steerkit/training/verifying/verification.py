"""Whether distilled weights really do what the edit did, on prompts they were not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from steerkit.backends.huggingface import check_plain
from steerkit.data.chat import Prompt, PromptLike, as_prompts
from steerkit.data.pairs import ContrastPair, Pairs
from steerkit.diagnostics import figures
from steerkit.diagnostics.comparing import base_of, check_one_model, check_sizes
from steerkit.diagnostics.imitation import Fidelity
from steerkit.diagnostics.passages import Passages
from steerkit.errors import InputError
from steerkit.tables import Table, Tabular
from steerkit.training.distilling.targets import Teacher
from steerkit.training.verifying.arms import BASE, HOOK, LORA, MERGED, Arms, score_arms
from steerkit.training.verifying.behavior_rules import BEHAVIOR_RULES
from steerkit.training.verifying.dose import SCALES, Dose, check_scales, measure_dose
from steerkit.training.verifying.measures import Measure, Merging, Trained, adapter_of, merge, trained
from steerkit.training.verifying.open_answers import OpenAnswers, answer_openly
from steerkit.training.verifying.shift_rules import SHIFT_RULES
from steerkit.training.verifying.verdict import Verdict, judge

Asked = Sequence[ContrastPair] | Mapping[str, Sequence[ContrastPair]]
"""A/B pairs, or several sets of them by name, such as the same ones under two templates; the first counts most."""


@dataclass(frozen=True, eq=False, repr=False)
class Verification(Tabular):
    """All that was measured of distilled weights; see `verify`.

    Args:
        fidelity: The shift they make against the wanted one.
        choices: p(matching) of base, hook, adapter and merged weights, by name of the pairs.
        dose: The adapter at several scales; `None` where it has none.
        answers: What base, hook and adapter say; `None` where no prompts were given.
        merging: What merging makes of it; `None` where it cannot be merged.
        training: What the training said; `None` for weights that come without it.
        left_out: What was not measured, and why.
    """

    fidelity: Fidelity
    choices: Mapping[str, Arms]
    dose: Dose | None
    answers: OpenAnswers | None
    merging: Merging | None
    training: Trained | None
    left_out: tuple[str, ...]

    @cached_property
    def verdict(self) -> Verdict:
        """What it comes to, in words."""
        return judge(self, (*SHIFT_RULES, *BEHAVIOR_RULES))

    @property
    def passed(self) -> bool:
        """Nothing grave was found."""
        return self.verdict.passed

    @property
    def summary(self) -> str:
        """The main numbers in one sentence or two."""
        text = f"On {self.fidelity.texts} held-out texts {self.fidelity.summary}."
        for arms in list(self.choices.values())[:1]:
            means = [f"{name} {one.p_matching:.3f}" for name, one in arms.scores.items()]
            text += f" p(matching): {', '.join(means)}."
        if self.dose is not None and self.dose.zero_is_base:
            text += " At scale 0 it is the base, bit for bit."
        return text

    @property
    def parts(self) -> list[Tabular]:
        """The tables, one after the other."""
        some = [self.fidelity, *self.choices.values(), self.dose, self.answers]
        return [self.verdict, *(one for one in some if one is not None)]

    def table(self) -> Table:
        """The verdict; `repr` and Jupyter show the other parts below it."""
        return self.verdict.table()

    def __repr__(self) -> str:
        said = [self.verdict.text, *map(repr, self.parts[1:]), *self._notes()]
        return "\n\n".join(said)

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{line}</p>" for line in self._notes())
        return "".join(part._repr_html_() for part in self.parts) + notes

    def _notes(self) -> list[str]:
        notes = [f"Not measured: {one}." for one in self.left_out]
        if self.merging is not None:
            notes.insert(0, f"Merged in {self.merging.dtype}: error of the change {self.merging.error:.2g}, KL to the "
                            f"adapter {self.merging.kl.mean:.2g} nats a token.")  # fmt: skip
        return notes

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row per set of pairs and model."""
        import pandas as pd

        return pd.DataFrame([{"pairs": label, "model": name, **cells} for label, arms in self.choices.items()
                             for name, cells in arms.as_dict().items()])  # fmt: skip

    def to_json(self) -> str:
        """Everything as JSON."""
        import json

        merging = None
        if self.merging is not None:
            merging = {"dtype": self.merging.dtype, "error": self.merging.error, "kl": self.merging.kl.as_dict()}
        return figures.to_json({
            "passed": self.passed, "verdict": self.verdict.text, "findings": list(self.verdict.names),
            "fidelity": json.loads(self.fidelity.to_json()),
            "choices": {label: arms.as_dict() for label, arms in self.choices.items()},
            "dose": None if self.dose is None else self.dose.as_dict(),
            "answers": None if self.answers is None else self.answers.as_dict(),
            "merging": merging, "training": None if self.training is None else vars(self.training),
            "left_out": list(self.left_out),
        })  # fmt: skip

    def plot(self) -> Any:
        """Residual and cosine by layer, p(matching) of every model, and the dose curve."""
        from steerkit.training.verifying.verification_figure import draw

        return draw(self)


def verify(  # noqa: PLR0913 - each is a thing to measure
    distilled: Any,
    *,
    prompts: Passages | None = None,
    pairs: Asked | None = None,
    neutral: PromptLike | Sequence[PromptLike] | None = None,
    scales: Sequence[float] = SCALES,
    steered: Any = None,
    merged_dtype: torch.dtype | None = None,
    max_new_tokens: int = 32,
    batch_size: int = 8,
) -> Verification:
    """Measure whether weights do what an edit did, and say so in words.

    Args:
        distilled: What `distill` returns, or a model with an adapter (`adapter.on(model)`).
        prompts: Held-out prompts; base, hook and weights answer them greedily, and shifts are read on the hook's
            answers. Also pairs or preferences (both sides are read).
        pairs: A/B pairs to score, or several sets of them by name.
        neutral: Texts that have nothing to do with the edit.
        scales: Of the dose curve; with 0, where the adapter must be the base bit for bit.
        steered: What is wanted: a `Steer`, or a teacher made of held-out preferences. Left out, the edits that
            `distilled` remembers.
        merged_dtype: Of the merged weights; the model's own without it.
        max_new_tokens: Of the answers.
        batch_size: The most sequences a forward pass.

    Raises:
        InputError: It is not known what is wanted, there is nothing to measure it on, or something given is not valid.

    Source: the checks that the reports of RAHF, LORRA and their successors lack; the dose curve is that of peft's
    `rescale_adapter_scale`.

    Example:
        >>> import steerkit as sk
        >>> from steerkit.interchange import bias_adapter
        >>> model = sk.load("demo")
        >>> v = torch.ones(model.info.hidden_size)
        >>> adapted = bias_adapter(model, v, layer=3).on(model)
        >>> steer = sk.Steer(model).add(v, layer=3, positions="all")
        >>> found = verify(adapted, steered=steer, prompts=["Is the sea dry?"], max_new_tokens=4)
        >>> found.passed, found.dose.zero_is_base
        (True, True)
    """
    model = check_plain(base_of(distilled), "weights are verified")
    adapter, scales = adapter_of(distilled), check_scales(scales)
    check_sizes(batch_size=batch_size, max_new_tokens=max_new_tokens)
    wanted = steered if steered is not None else getattr(distilled, "steer", None)
    if wanted is None:
        raise InputError("it is not known what the weights are to do: give steered=, a Steer or a teacher")
    by_teacher = isinstance(wanted, Teacher)
    if not by_teacher:
        check_one_model(base_of(wanted), model)
    if prompts is None and not by_teacher:
        raise InputError("no prompts given; give held-out prompts to read the shift on")
    sets = _sets(pairs)
    left_out: list[str] = []
    merged, error = merge(model, adapter, merged_dtype, left_out)
    models: dict[str, Any] = {BASE: model, **({} if by_teacher else {HOOK: wanted}), LORA: distilled}
    answers, given = _answers(models, prompts, model, max_new_tokens, batch_size)
    measure = Measure(model, wanted, given, batch_size)
    found = measure.fidelity(distilled, neutral)
    arms = models if merged is None else {**models, MERGED: merged}
    choices = {name: score_arms(arms, one, label=name) for name, one in sets.items()}
    dose = None
    if adapter is None:
        left_out.append("the dose curve, since these weights have no scale")
    else:
        dose = measure_dose(model, adapter, measure.aims(measure.layers), layers=measure.layers,
                            pairs=next(iter(sets.values()), None), scales=scales)  # fmt: skip
    merging = None
    if merged is not None:
        name = str(merged_dtype or model.info.dtype).removeprefix("torch.")
        merging = Merging(name, error, measure.divergence(merged, distilled))
    return Verification(found, choices, dose, answers, merging, trained(distilled), tuple(left_out))


def _sets(pairs: Asked | None) -> dict[str, Any]:
    if pairs is None:
        return {}
    if isinstance(pairs, Mapping):
        return dict(pairs)
    return {(pairs.name if isinstance(pairs, Pairs) else "") or "pairs": pairs}


def _answers(
    models: Mapping[str, Any], prompts: Any, model: Any, max_new_tokens: int, rows: int
) -> tuple[OpenAnswers | None, Any]:
    """What each model answers, and the prompts with the hook's answers (the adapter's where there is no hook)."""
    several = prompts if isinstance(prompts, Sequence) and not isinstance(prompts, str) else [prompts]
    plain = prompts is not None and all(isinstance(one, str | Prompt | Sequence | Mapping) for one in several)
    if not plain or max_new_tokens == 0:
        return None, prompts
    asked = as_prompts(prompts)
    said = answer_openly(models, asked, model, max_new_tokens=max_new_tokens, rows=rows)
    by = said.texts[HOOK if HOOK in models else LORA]
    return said, [one.with_prefill(one.prefill + text) for one, text in zip(asked, by, strict=True)]
