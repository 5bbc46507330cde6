"""A constant vector put into a bias: steering at every position, with no hook and no adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.adapters.provenance import write_meta
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import ModelError
from steerkit.interchange.constant import constants
from steerkit.interchange.down_projection import down_projection
from steerkit.interchange.folders import check_folder, whole_folder
from steerkit.interchange.model_files import (
    check_writable,
    config_of,
    expected_tensors,
    own_tensors,
    write_model,
)
from steerkit.steering.edits import LayerChoice, Unit
from steerkit.tables import Cell, Table, Tabular
from steerkit.vectors import SteeringVector

if TYPE_CHECKING:
    from pandas import DataFrame

SWITCH = "mlp_bias"
"""The field of a configuration that gives an architecture's MLP its biases (Llama and those made after it)."""


@dataclass(frozen=True)
class BakedBias:
    """One bias that was written.

    Args:
        layer: The block.
        parameter: Its name in the transformers model.
        norm: Length of the vector that was added, in the units of the residual stream.
        bias_norm: Length of the bias before; 0 where there was none.
        error: |bias as saved - what it should be| / |vector|: what the precision of the file costs.
    """

    layer: int
    parameter: str
    norm: float
    bias_norm: float
    error: float


@dataclass(frozen=True, repr=False)
class Baked(Tabular):
    """A model that was written with a vector in its biases.

    Args:
        folder: Where.
        dtype: Precision of the files.
        biases: What was written, by block.
        filled: Biases of zeros that had to be written beside them, since the architecture has all or none.
    """

    folder: Path
    dtype: str
    biases: tuple[BakedBias, ...]
    filled: int = 0

    @property
    def error(self) -> float:
        """The largest of the biases' errors."""
        return max(one.error for one in self.biases)

    def table(self) -> Table:
        """What is shown of it."""
        columns = ["layer", "parameter", "added", "bias before", "error"]
        rows: list[list[Cell]] = [[one.layer, one.parameter, one.norm, one.bias_norm, one.error] for one in self.biases]
        extra = f"; {SWITCH} is set, with {self.filled} biases of zeros beside" if self.filled else ""
        note = f"the same as Steer.add(..., positions='all'), with no hook{extra}"
        return Table(columns, rows, f"Baked into {self.folder}, {self.dtype}", note)

    def to_frame(self) -> DataFrame:
        """One row a bias."""
        from pandas import DataFrame

        return DataFrame([asdict(one) for one in self.biases])

    def to_json(self) -> str:
        """The numbers."""
        return json.dumps({**asdict(self), "folder": str(self.folder), "error": self.error})


def bake_bias(
    model: HuggingFaceModel,
    vector: SteeringVector | Tensor,
    folder: str | Path,
    *,
    layer: LayerChoice,
    coef: float = 1.0,
    unit: Unit = "raw",
    override: bool = False,
    overwrite: bool = False,
) -> Baked:
    r"""Write a model that steers itself: a vector at every position, exactly, in the bias of its blocks.

    A block ends with $h + W_\text{down} a + b$, so a constant vector at `resid_post` of block $l$ is an addition to the
    bias of that block's down projection: $b_l \leftarrow b_l + \text{coef} \cdot v_l$. The folder is a plain
    transformers model; the one in memory stays as it is.

    Where the architecture has this bias (GPT-2, GPT-NeoX), it is added to. Where its configuration can switch it on
    (Llama: `mlp_bias`), it is switched on, and the other biases that come with it are zeros. Others (Mistral, Qwen)
    have no place for it and are refused.

    Args:
        model: What `load` returns, in float32, float16 or bfloat16.
        vector: A concept at several layers, or one `[hidden]` tensor; of site `resid_post` or `mlp_out`.
        folder: Where to write; new or empty.
        layer: Decoder blocks, counted from 0: one, several, or `"all"` that the vector has.
        coef: How strongly, in the unit.
        unit: As in `Steer.add`.
        override: Accept a vector that was made with another model.
        overwrite: Replace a model that lies in the folder.

    Raises:
        InputError: The vector, the layer or the folder cannot be used; nothing was written.
        ModelError: The architecture has no such bias, or the model is quantized.

    Source: ITI's bias editing (Li et al. 2023, `edit_weight.py` of honest_llama). We differ: at the MLP instead of the
    attention, an existing bias is added to, not replaced, and what would be dropped at loading is refused.

    Example:
        >>> import tempfile, steerkit as sk
        >>> model = sk.load("demo")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     baked = bake_bias(model, torch.ones(model.info.hidden_size), folder, layer=3, coef=0.1)
        ...     sk.load(folder).hf.config.mlp_bias
        True
        >>> baked.biases[0].parameter
        'model.layers.3.mlp.down_proj.bias'
    """
    hf = check_writable(model).hf
    added = constants(model, vector, layer=layer, coef=coef, unit=unit, override=override)
    where = check_folder(folder, "model", model=model, overwrite=overwrite)
    config, blank = _room(model, list(added))
    own = own_tensors(hf)
    wanted = {f"{down_projection(model, at)[0]}.bias": (at, one) for at, one in added.items()}
    done: dict[str, BakedBias] = {}

    def make(name: str) -> Tensor:
        tensor = own[name] if name in own else torch.zeros(blank[name].shape, dtype=hf.dtype)
        if name not in wanted:
            return tensor
        at, one = wanted[name]
        written, done[name] = _bias(at, name, tensor, one)
        return written

    form = {name: torch.empty_like(one, device="meta") for name, one in own.items()}
    form |= {name: torch.empty(one.shape, dtype=hf.dtype, device="meta") for name, one in blank.items()}
    meta = {"model": model.info.as_dict(), "baked": _made(vector, added, coef, unit)}
    with whole_folder(where) as draft:
        write_model(model, draft, form=form, make=make, config=config)
        write_meta(draft, meta)
    biases = tuple(sorted(done.values(), key=lambda one: one.layer))
    return Baked(where, str(hf.dtype).removeprefix("torch."), biases, max(len(blank) - len(biases), 0))


def _room(model: HuggingFaceModel, layers: list[int]) -> tuple[Any, Mapping[str, Tensor]]:
    """A configuration with a bias at the blocks' down projections, and the tensors that come with it.

    Raises:
        ModelError: The architecture cannot have one.
    """
    hf = model.hf
    own = hf.state_dict()
    names = [f"{down_projection(model, at)[0]}.bias" for at in layers]
    if all(name in own for name in names):
        return config_of(hf, hf.dtype), {}
    config = config_of(hf, hf.dtype, **{SWITCH: True})
    made = expected_tensors(hf, config) if hasattr(hf.config, SWITCH) else {}
    missing = [name for name in names if name not in made]
    if missing:
        raise ModelError(
            f"{model.info.architecture} models have no {missing[0]} and no way to switch it on, so transformers would "
            "drop it at loading; use bias_adapter(...), which does the same as a peft adapter, or distill into LoRA"
        )
    return config, {name: one for name, one in made.items() if name not in own}


def _bias(layer: int, name: str, before: Tensor, vector: Tensor) -> tuple[Tensor, BakedBias]:
    start = before.detach().to("cpu", torch.float32)
    written = (start + vector).to(before.dtype)
    if not written.isfinite().all():
        raise ModelError(f"{name} overflows {before.dtype}; load the model in float32 or bfloat16, or lower coef")
    norm = float(vector.norm())
    error = float((written.float() - start - vector).norm()) / norm if norm else 0.0
    return written, BakedBias(layer, name, norm, float(start.norm()), error)


def _made(vector: SteeringVector | Tensor, added: Mapping[int, Tensor], coef: float, unit: str) -> dict[str, Any]:
    made = {key: value for key, value in getattr(vector, "meta", {}).items() if key != "model"}
    return {"layers": sorted(added), "coef": float(coef), "unit": unit, "vector": made}
