"""An adapter as a folder that peft loads without steerkit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.adapters import Adapter, attach
from steerkit.adapters.provenance import check_base
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError
from steerkit.interchange.folders import check_folder, whole_folder
from steerkit.tables import Cell, Table, Tabular

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class AdaptedModule:
    """One layer that an adapter changes.

    Args:
        name: In the transformers model.
        rank: Of the change.
        delta: Length (Frobenius norm) of the change.
        bias: Length of the vector that is added beside it; 0 without one.
    """

    name: str
    rank: int
    delta: float
    bias: float


@dataclass(frozen=True, repr=False)
class PeftFolder(Tabular):
    """An adapter that was written.

    Args:
        folder: Where.
        base: What peft loads the adapter onto, as `adapter_config.json` names it.
        parameters: Number of parameters.
        modules: The layers it changes.
    """

    folder: Path
    base: str
    parameters: int
    modules: tuple[AdaptedModule, ...]

    def table(self) -> Table:
        """What is shown of it."""
        columns = ["module", "rank", "|change|", "|bias|"]
        rows: list[list[Cell]] = [[one.name, one.rank, one.delta, one.bias] for one in self.modules]
        note = f"PeftModel.from_pretrained(base, {str(self.folder)!r}) loads it, without steerkit"
        title = f"Adapter in {self.folder}, {self.parameters:,} parameters, for {self.base or 'an unnamed base'}"
        return Table(columns, rows, title, note)

    def to_frame(self) -> DataFrame:
        """One row a layer."""
        from pandas import DataFrame

        return DataFrame([asdict(one) for one in self.modules])

    def to_json(self) -> str:
        """The numbers."""
        return json.dumps({**asdict(self), "folder": str(self.folder)})


def save_peft(
    model: HuggingFaceModel,
    adapter: Adapter,
    folder: str | Path,
    *,
    override: bool = False,
    overwrite: bool = False,
) -> PeftFolder:
    """Write an adapter as a plain peft folder: `PeftModel.from_pretrained(base, folder)` gives the same logits.

    The tokenizer lies beside it, for servers that look for one there, and so does `provenance.json`.

    Args:
        model: The base; every weight of the adapter must have its place in it.
        adapter: What to write.
        folder: Where; new or empty, and no model's.
        override: Accept another base than the adapter was trained on.
        overwrite: Replace an adapter that lies in the folder.

    Raises:
        InputError: The adapter does not fit the model, or the folder cannot be used; nothing was written.
        MismatchError: The adapter was trained on another model.

    Example:
        >>> import tempfile, torch, steerkit as sk
        >>> from steerkit.interchange import bias_adapter
        >>> model = sk.load("demo")
        >>> adapter = bias_adapter(model, torch.ones(model.info.hidden_size), layer=3, coef=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_peft(model, adapter, folder).modules[0].rank
        1
    """
    if not isinstance(adapter, Adapter):
        raise InputError(f"a {type(adapter).__name__} is no peft adapter; save_merged writes whole models")
    check_base(adapter.meta, model, override=override)
    where = check_folder(folder, "adapter", model=model, overwrite=overwrite)
    with attach(model, {"adapter": adapter}):
        modules = tuple(_modules(model.hf))
    with whole_folder(where) as draft:
        adapter.save(draft)
        model.tokenizer.save_pretrained(draft)
    return PeftFolder(where, str(adapter.config.base_model_name_or_path or ""), adapter.size, modules)


def _modules(hf: Any) -> Iterable[AdaptedModule]:
    from peft.tuners.lora import LoraLayer

    for path, layer in hf.named_modules():
        if isinstance(layer, LoraLayer):
            bias = layer.lora_B["adapter"].bias if "adapter" in layer.lora_B else None
            size = 0.0 if bias is None else float(bias.detach().norm()) * layer.scaling["adapter"]
            delta = float(layer.get_delta_weight("adapter").detach().float().norm())
            yield AdaptedModule(path, layer.r["adapter"], delta, size)
