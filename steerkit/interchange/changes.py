"""What an adapter comes to in each of the model's own weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.adapters import Adapter, Attached, FullWeights, attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError, ModelError

NAME = "merged"


@dataclass(frozen=True, eq=False)
class Change(ABC):
    """A weight of the base, and what it is to become; nothing is computed or kept until it is asked for.

    Args:
        name: Of the parameter, in the transformers model.
        parameter: The base's own.
    """

    name: str
    parameter: nn.Parameter

    @abstractmethod
    def delta(self) -> Tensor:
        """The wanted change, in float32."""

    def new(self) -> Tensor:
        """The wanted weight, in float32."""
        return self.parameter.detach().float() + self.delta()


@dataclass(frozen=True, eq=False)
class LoraWeight(Change):
    r"""A weight to which a LoRA layer adds $\frac{\alpha}{r} B A$."""

    layer: Any

    def delta(self) -> Tensor:
        """The wanted change, in float32."""
        found: Tensor = self.layer.get_delta_weight(NAME).detach().float()
        return found


@dataclass(frozen=True, eq=False)
class LoraBias(LoraWeight):
    """A bias to which a LoRA layer with a bias of its own adds that."""

    def delta(self) -> Tensor:
        """The wanted change, in float32."""
        found: Tensor = self.layer.lora_B[NAME].bias.detach().float() * self.layer.scaling[NAME]
        return found


@dataclass(frozen=True, eq=False)
class Tuned(Change):
    """A parameter that was tuned itself."""

    tuned: Tensor

    def delta(self) -> Tensor:
        """The wanted change, in float32."""
        return self.new() - self.parameter.detach().float()

    def new(self) -> Tensor:
        """The wanted weight, in float32."""
        return self.tuned.detach().to(self.parameter.device, torch.float32)


@contextmanager
def changes_of(model: HuggingFaceModel, weights: Adapter | FullWeights) -> Iterator[tuple[list[Change], Attached]]:
    """Every weight that an adapter changes; valid while the context is open, in which the adapter is attached, idle.

    Raises:
        InputError: The adapter does not fit the model, or cannot be merged.
        ModelError: A weight is tied to another one, which the adapter leaves as it is.
    """
    from peft.tuners.lora import LoraLayer

    shared = _shared(model.hf)
    with attach(model, {NAME: weights}) as attached:
        if isinstance(weights, FullWeights):
            own = dict(model.hf.named_parameters())
            yield [Tuned(name, own[name], one) for name, one in weights.tensors.items()], attached
            return
        found: list[Change] = []
        for path, layer in model.hf.named_modules():
            if isinstance(layer, LoraLayer):
                found += _lora_changes(path, layer, shared)
        yield found, attached


def _lora_changes(path: str, layer: Any, shared: set[int]) -> Iterator[Change]:
    base = layer.get_base_layer()
    if layer.lora_variant or not hasattr(layer, "get_delta_weight"):
        raise InputError(f"the adapter's change of {path} is not a sum of weights (a variant of LoRA such as DoRA); "
                         "merge it with peft")  # fmt: skip
    if id(base.weight) in shared:
        raise ModelError(f"{path} shares its weight with another layer, so a merged change would reach both (tied "
                         "weights); ship the adapter (save_peft), or train one without this target")  # fmt: skip
    yield LoraWeight(f"{path}.weight", base.weight, layer)
    if not layer.lora_bias.get(NAME):
        return
    if getattr(base, "bias", None) is None:
        raise ModelError(f"the adapter adds a bias to {path}, which has none, so it cannot be merged; write the vector "
                         "with bake_bias, or ship the adapter (save_peft)")  # fmt: skip
    yield LoraBias(f"{path}.bias", base.bias, layer)


def _shared(hf: Any) -> set[int]:
    """The parameters that have several names."""
    counts = Counter(id(one) for _, one in hf.named_parameters(remove_duplicate=False))
    return {one for one, count in counts.items() if count > 1}


def rounded(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight as it is saved.

    Raises:
        ModelError: A value overflows the precision.
    """
    found = weight.to(dtype)
    if found is not weight and not bool(torch.isfinite(found).all()):
        raise ModelError(f"{name} overflows {dtype}; save in float32 or bfloat16")
    return found


@contextmanager
def acting(hf: Any, changes: Sequence[Change], dtype: torch.dtype) -> Iterator[None]:
    """The model computes with the merged weights, each of which exists only while its module runs.

    They are rounded to `dtype` and brought to the model's own precision; afterwards, also after an exception, every
    parameter has its own tensor again.
    """
    by_parameter = {id(change.parameter): change for change in changes}
    originals = {id(change.parameter): change.parameter.data for change in changes}
    handles: list[Any] = []

    def put_in(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            if (change := by_parameter.get(id(parameter))) is not None:
                parameter.data = rounded(change.name, change.new(), dtype).to(parameter.dtype)

    def put_back(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            if id(parameter) in originals:
                parameter.data = originals[id(parameter)]

    try:
        for module in hf.modules():
            if any(id(one) in by_parameter for one in module.parameters(recurse=False)):
                handles.append(module.register_forward_pre_hook(put_in))
                handles.append(module.register_forward_hook(put_back, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for change in changes:
            change.parameter.data = originals[id(change.parameter)]
