"""A model with an adapter merged into its weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.adapters import Adapter, Attached, FullWeights
from steerkit.adapters.provenance import check_base, write_meta
from steerkit.backends.base import Batch, pad
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import PromptLike
from steerkit.errors import InputError
from steerkit.interchange.changes import NAME, Change, acting, changes_of, rounded
from steerkit.interchange.folders import check_folder, whole_folder
from steerkit.interchange.model_files import check_writable, config_of, own_tensors, saved_dtype, write_model
from steerkit.interchange.rounding import Rounding, measure_rounding, together
from steerkit.tables import Cell, Table, Tabular

if TYPE_CHECKING:
    from pandas import DataFrame

LOSSY = 0.05
"""An error of the effective change above which the table says what to do instead."""

PROBE = 24
"""Tokens of the row on which the logits are compared, where no prompts are given."""


@dataclass(frozen=True, repr=False)
class Merged(Tabular):
    """A merged model that was written, and what its precision left of the adapter.

    Args:
        folder: Where.
        dtype: Precision of the files.
        weights: What rounding left of each weight's change.
        logit_error: The largest difference of a logit between merged weights and adapter, in the precision of the model
            in memory; against `logit_effect`.
        logit_effect: The largest change of a logit that the adapter makes.
    """

    folder: Path
    dtype: str
    weights: tuple[Rounding, ...]
    logit_error: float
    logit_effect: float

    @property
    def overall(self) -> Rounding:
        """All changed weights as one."""
        return together(self.weights)

    @property
    def error(self) -> float:
        """|effective change - wanted change| / |wanted change|, over all weights."""
        return self.overall.error

    @property
    def unchanged(self) -> float:
        """Share of the targeted weights' numbers that are saved as if there were no adapter."""
        return self.overall.unchanged

    def table(self) -> Table:
        """What is shown of it."""
        columns = ["weight", "rms", "rms of change", "error of change", "unchanged"]
        rows: list[list[Cell]] = [
            [one.name, one.weight, one.delta, one.error, one.unchanged] for one in (*self.weights, self.overall)
        ]
        note = (f"logits: merged and adapter differ by {self.logit_error:.2g} at most, the adapter changes them by "
                f"{self.logit_effect:.2g}")  # fmt: skip
        if self.error > LOSSY:
            note += (f"\n{self.dtype} loses {self.error:.0%} of the change: save with dtype='float32' or 'float16', or "
                     "ship the adapter (save_peft)")  # fmt: skip
        return Table(columns, rows, f"Merged into {self.folder}, {self.dtype}", note)

    def to_frame(self) -> DataFrame:
        """One row a weight."""
        from pandas import DataFrame

        return DataFrame([asdict(one) for one in self.weights])

    def to_json(self) -> str:
        """The numbers."""
        whole = asdict(self.overall)
        return json.dumps({**asdict(self), "folder": str(self.folder), "overall": whole})

    def plot(self) -> Any:
        """The error of the effective change by weight, a plotly figure."""
        from plotly import graph_objects

        names = [one.name for one in self.weights]
        figure = graph_objects.Figure()
        for label, values in (
            ("error of the change", [one.error for one in self.weights]),
            ("share unchanged", [one.unchanged for one in self.weights]),
        ):
            figure.add_bar(name=label, x=names, y=values)
        figure.update_layout(title=f"What {self.dtype} loses of the change", xaxis_title="weight", yaxis_title="share",
                             barmode="group", template="plotly_white")  # fmt: skip
        return figure


def save_merged(
    model: HuggingFaceModel,
    adapter: Adapter | FullWeights,
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    prompts: PromptLike | Sequence[PromptLike] | None = None,
    override: bool = False,
    overwrite: bool = False,
) -> Merged:
    r"""Write the model with an adapter in its weights, $W + \frac{\alpha}{r} B A$: a plain transformers model.

    The sum is made in float32, a weight at a time while the files are written, so that beside the base no more than one
    file of weights is in memory; the base itself is not touched. What the precision of the files leaves of the change
    is measured: bfloat16 keeps 8 bits, and a change that is small against its weight is lost in them.

    Args:
        model: The base.
        adapter: What to merge; `Adapter.scaled` merges a multiple of it.
        folder: Where to write; new or empty, and not the adapter's own.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`; without it the model's own.
        prompts: On which logits of merged weights and adapter are compared; without them on a row of tokens that are
            spread over the vocabulary.
        override: Accept another base than the adapter was trained on.
        overwrite: Replace a model that lies in the folder.

    Raises:
        InputError: Something given cannot be used; nothing was written.
        MismatchError: The adapter was trained on another model.
        ModelError: The base is quantized, a targeted weight is tied to another one, or a sum overflows the precision.

    Source: as peft's `merge_and_unload`. We differ: the base stays as it is, and the loss is stated.

    Example:
        >>> import tempfile, steerkit as sk
        >>> from steerkit.interchange import bias_adapter
        >>> model = sk.load("demo")
        >>> bias = bias_adapter(model, torch.ones(model.info.hidden_size), layer=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_merged(model, bias, folder)
        Traceback (most recent call last):
        steerkit.errors.ModelError: the adapter adds a bias to model.layers.3.mlp.down_proj, which has none, ...
    """
    if not isinstance(adapter, Adapter | FullWeights):
        raise InputError(f"a {type(adapter).__name__} cannot be merged; give an Adapter or FullWeights")
    hf = check_writable(model).hf
    precision = saved_dtype(dtype, model)
    where = check_folder(folder, "model", model=model, overwrite=overwrite)
    check_base(adapter.meta, model, override=override)
    batch = _probe(model) if prompts is None else model.encode(prompts)
    own = own_tensors(hf)
    lost: dict[str, Rounding] = {}
    with torch.no_grad(), changes_of(model, adapter) as (changes, attached):
        by_name = {change.name: change for change in changes}
        form = _form(own, by_name, precision)
        error, effect = _logits(attached, changes, batch, precision)

        def make(name: str) -> Tensor:
            if name not in by_name:
                return rounded(name, own[name], form[name].dtype)
            written = rounded(name, by_name[name].new(), precision).to("cpu")
            lost[name] = measure_rounding(by_name[name], written)
            return written

        with whole_folder(where) as draft:
            write_model(model, draft, form=form, make=make, config=config_of(hf, precision))
            write_meta(draft, {"model": model.info.as_dict(), "merged": dict(adapter.meta)})
    name = str(precision).removeprefix("torch.")
    return Merged(where, name, tuple(lost[change.name] for change in changes), error, effect)


def _form(own: Mapping[str, Tensor], changed: Collection[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Shapes and types of what is written.

    Raises:
        InputError: Nothing is changed, or a changed weight is not among them.
    """
    missing = sorted(set(changed) - set(own))
    if not changed:
        raise InputError("the adapter changes no weight of the model; there is nothing to merge")
    if missing:
        raise InputError(f"{missing[0]} is not among the weights that this architecture saves")
    return {
        name: torch.empty(one.shape, dtype=dtype if one.is_floating_point() else one.dtype, device="meta")
        for name, one in own.items()
    }


def _logits(attached: Attached, changes: Sequence[Change], batch: Batch, dtype: torch.dtype) -> tuple[float, float]:
    """How far the merged weights' logits are from the adapter's, and these from the base's."""
    model, real = attached.model, batch.real
    base = model.run(batch)
    with attached.only(NAME):
        adapted = model.run(batch)
    with acting(model.hf, changes, dtype):
        merged = model.run(batch)
    error, effect = ((a - b).float().cpu()[real].abs().max() for a, b in ((merged, adapted), (adapted, base)))
    return float(error), float(effect)


def _probe(model: HuggingFaceModel) -> Batch:
    """A row of tokens spread over the vocabulary."""
    size = model.hf.get_input_embeddings().weight.shape[0]
    length = min(PROBE, model.info.context or PROBE)
    return pad([torch.linspace(0, size - 1, length).long().tolist()], [length], pad_id=model.pad_id)
