"""Do the weights what the edit did: the shift they make against the one that was wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Model
from steerkit.data.chat import PromptLike
from steerkit.diagnostics import figures
from steerkit.diagnostics.comparing import (
    Comparison,
    Steered,
    aims_of,
    base_of,
    check_one_model,
    check_sizes,
    edited_layers,
    scope_of,
)
from steerkit.diagnostics.divergence import Divergence
from steerkit.diagnostics.passages import Passages, read_passages, with_answers
from steerkit.errors import InputError
from steerkit.points import Layers, resolve_layers
from steerkit.positions import Positions
from steerkit.tables import Cell, Table, Tabular

COLUMNS = ("base", "wanted", "realized", "residual", "cosine", "prompt_leak", "later_leak", "neutral_leak")
DIVERGENCES = ("kl_base", "kl_steered", "kl_edit", "kl_prompt", "kl_neutral")


@dataclass(frozen=True, eq=False, repr=False)
class Fidelity(Tabular):
    """How nearly some weights do what an edit does; see `fidelity`.

    Lengths are in the units of the residual stream, means over the tokens in scope.

    Args:
        layers: Decoder blocks, counted from 0.
        targets: Those of them that the edit acts at; all where that is not known.
        texts: Sequences that were read.
        tokens: Tokens in scope.
        base: Mean length of the state without either.
        wanted: Mean length of the wanted shift.
        realized: Mean length of the realized shift.
        residual: How much of the wanted shift is missed; 0 is all of it there, 1 what an idle model has, above 1 worse.
        cosine: Mean cosine of the two shifts, in [-1, 1].
        prompt_leak: Shift beside the wanted one at prompt tokens out of scope, as a share of the wanted length.
        later_leak: The same at answer tokens out of scope.
        neutral_leak: The same at all tokens of neutral text.
        kl_base: Of the weights' predictions from the base's, in scope.
        kl_steered: Of the weights' from the edit's, in scope.
        kl_edit: Of the edit's from the base's, in scope: what steering itself costs.
        kl_prompt: Of the weights' from the base's, at prompt tokens out of scope.
        kl_neutral: Of the weights' from the base's, on neutral text.
        rounding: What the model's number format tells apart, relative to a number.
    """

    layers: tuple[int, ...]
    targets: tuple[int, ...]
    texts: int
    tokens: int
    base: Float[Tensor, " layer"]
    wanted: Float[Tensor, " layer"]
    realized: Float[Tensor, " layer"]
    residual: Float[Tensor, " layer"]
    cosine: Float[Tensor, " layer"]
    prompt_leak: Float[Tensor, " layer"]
    later_leak: Float[Tensor, " layer"]
    neutral_leak: Float[Tensor, " layer"]
    kl_base: Divergence
    kl_steered: Divergence
    kl_edit: Divergence
    kl_prompt: Divergence
    kl_neutral: Divergence
    rounding: float

    @property
    def norm_ratio(self) -> Float[Tensor, " layer"]:
        """Length of the realized shift over that of the wanted one; above 1 it goes too far."""
        return torch.where(self.wanted > 0, self.realized / self.wanted, math.nan)

    def at(self, layer: int) -> dict[str, float]:
        """All numbers of one layer by name.

        Raises:
            InputError: The layer is not among these.
        """
        if layer not in self.layers:
            raise InputError(f"layer {layer!r} was not measured; choose one of {list(self.layers)}")
        row = self.layers.index(layer)
        return {name: float(getattr(self, name)[row]) for name in (*COLUMNS, "norm_ratio")}

    def over(self, name: str) -> float:
        """Mean of a column over the layers that the edit acts at and something is wanted; NaN without any."""
        rows = [i for i, layer in enumerate(self.layers) if layer in self.targets and float(self.wanted[i]) > 0]
        return float(getattr(self, name)[rows].mean()) if rows else math.nan

    @property
    def summary(self) -> str:
        """What one sees, in a few words."""
        if math.isnan(self.over("residual")):
            return "nothing was to move"
        where = "layer " + str(self.targets[0]) if len(self.targets) == 1 else f"layers {_span(self.targets)}"
        return (f"{self.over('residual'):.3f} of the wanted shift is missed at {where}, "
                f"cosine {self.over('cosine'):.3f}")  # fmt: skip

    def table(self) -> Table:
        """What is shown of it."""
        columns = ["layer", "state", "wanted", "realized", "residual", "cosine", "prompt leak", "later", "neutral"]
        shown = [[_cell(value) for value in getattr(self, name).tolist()] for name in COLUMNS]
        rows: list[list[Cell]] = [[layer, *cells] for layer, *cells in zip(self.layers, *shown, strict=True)]
        title = f"Fidelity on {self.texts} texts, {self.tokens} tokens in scope: {self.summary}"
        return Table(columns, rows, title, note=repr(self.divergences))

    @property
    def divergences(self) -> Table:
        """The divergences as a table of their own."""
        names = ("weights from base", "weights from edit", "edit from base", "weights from base, prompt tokens",
                 "weights from base, neutral text")  # fmt: skip
        rows: list[list[Cell]] = [
            [name, *getattr(self, key).cells]
            for name, key in zip(names, DIVERGENCES, strict=True)
            if getattr(self, key).tokens
        ]
        return Table(["KL in nats a token", "mean", "rms", "p95", "tokens"], rows)

    def _repr_html_(self) -> str:
        table = self.table()
        return Table(table.columns, table.rows, table.title)._repr_html_() + self.divergences._repr_html_()

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row per layer."""
        import pandas as pd

        columns = {name: getattr(self, name).tolist() for name in (*COLUMNS, "norm_ratio")}
        return pd.DataFrame({"layer": list(self.layers), **columns})

    def to_json(self) -> str:
        """Everything as JSON."""
        columns = {name: getattr(self, name).tolist() for name in (*COLUMNS, "norm_ratio")}
        kl = {name: getattr(self, name).as_dict() for name in DIVERGENCES}
        head = {"texts": self.texts, "tokens": self.tokens, "targets": list(self.targets), "rounding": self.rounding}
        return figures.to_json({**head, "layer": list(self.layers), **columns, **kl})

    def plot(self) -> Any:
        """Residual and cosine (above), lengths and leaks (below), by layer."""
        from steerkit.diagnostics.imitation_figure import draw

        return draw(self)


def fidelity(
    steered: Steered | Model,
    distilled: Steered | Model,
    prompts: Passages,
    *,
    layers: Layers | None = None,
    positions: Positions | None = None,
    neutral: PromptLike | list[PromptLike] | None = None,
    max_new_tokens: int = 32,
    batch_size: int = 8,
) -> Fidelity:
    r"""How nearly some weights do what an edit does, on prompts that they were not trained on.

    With $h$ the state of the model as it is, $w$ the shift that the edit makes of it (the wanted one) and $s$ the
    shift that the weights make (the realized one), at each layer over the tokens $t$ in scope:

    - `residual` $= \sum_t \|s_t - w_t\| / \sum_t \|w_t\|$. Under the loss `l2` it is the loss over that of step 0.
    - `cosine`, the mean of $s_t \cdot w_t / (\|s_t\| \|w_t\|)$; 0 at a token that did not move.
    - `prompt_leak`, `later_leak`, `neutral_leak`: the mean of $\|s_t - w_t\|$ over tokens out of scope, and over those
      of neutral text, each over the mean of $\|w_t\|$ in scope. Where the edit does nothing, $w_t = 0$.
    - the Kullback-Leibler divergence of the predictions, $\mathrm{KL}(\text{weights} \| \text{base})$ and so on.

    Shifts are taken in float32 and summed in float64, a batch at a time; of the divergences one number a token is kept.

    Args:
        steered: What is wanted: a `Steer`, or anything with its `model`, `with`, `forward` and `generate`.
        distilled: What is asked about: the same, or a model such as the merged one.
        prompts: Held-out prompts, pairs (both sides are read), or sequences of tokens with a scope. A prompt without a
            prefill is continued by the greedy answer of `steered`.
        layers: Decoder blocks; all without it.
        positions: Which tokens are in scope; without it those of the `Steer`, else `"generation"`.
        neutral: Texts that have nothing to do with the edit, read as they are.
        max_new_tokens: Of those answers; 0 reads the prompts as they are.
        batch_size: The most sequences a forward pass; long ones go fewer at a time.

    Raises:
        InputError: Nothing given, something too long, or two models that are not alike.
        SteeringError: One of the two acts already, or has a coefficient for each row of a batch.

    Source: residual ratio and cosine are what RAHF and LORRA train (`compute_loss` in both codes); they report neither
    held out. The root mean square of the divergence is that of steer-heal-love. The rest is ours.

    Example:
        >>> import steerkit as sk
        >>> model = sk.load("demo")
        >>> steer = sk.Steer(model).add(torch.ones(model.info.hidden_size), layer=2)
        >>> same = fidelity(steer, steer, "Is the sea dry?", max_new_tokens=4)
        >>> same.at(2)["residual"], same.kl_steered.mean, same.kl_base.mean > 0
        (0.0, 0.0, True)
    """
    check_sizes(batch_size=batch_size, max_new_tokens=max_new_tokens)
    model = base_of(steered)
    check_one_model(model, base_of(distilled))
    measured = resolve_layers(layers, num_layers=model.info.num_layers)
    scope = scope_of(steered) if positions is None else positions
    quiet = [] if neutral is None else read_passages(neutral, model, positions=scope)
    answered = with_answers(prompts, steered, model, max_new_tokens=max_new_tokens, rows=batch_size)
    passages = read_passages(answered, model, positions=scope)
    comparison = Comparison(model, measured)
    comparison.read(aims_of(model, steered, passages, comparison.points, rows=batch_size), distilled)
    comparison.read_neutral(aims_of(model, steered, quiet, comparison.points, rows=batch_size), distilled)
    return summarize(comparison, targets=edited_layers(steered) or measured, texts=len(passages))


def summarize(comparison: Comparison, *, targets: Any, texts: int) -> Fidelity:
    """The sums of a comparison as a result."""
    sums, kl = comparison.sums, comparison.divergences
    lengths: dict[str, Any] = {name: sums.mean(name) for name in ("base", "wanted", "realized")}
    aimed = lengths["wanted"] > 0
    leaks: dict[str, Any] = {
        f"{name}_leak": torch.where(aimed, sums.mean(name, per=f"{name}_tokens") / lengths["wanted"], math.nan)
        for name in ("prompt", "later", "neutral")
    }
    divergences: dict[str, Any] = {name: Divergence.of(kl[name]) for name in DIVERGENCES}
    return Fidelity(
        layers=sums.layers,
        targets=tuple(layer for layer in sums.layers if layer in set(targets)),
        texts=texts,
        tokens=sums.tokens,
        residual=sums.ratio("missed"),
        cosine=sums.mean("cosine", per="cosines"),
        rounding=comparison.rounding,
        **lengths,
        **leaks,
        **divergences,
    )


def _span(layers: tuple[int, ...]) -> str:
    return ", ".join(map(str, layers)) if len(layers) < 5 else f"{layers[0]} to {layers[-1]}"


def _cell(value: float) -> Cell:
    return None if math.isnan(value) else round(value, 4)
