"""One base model with several named adapters, of which any may act."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.adapters.adapter import Adapter
from steerkit.adapters.full import FullWeights
from steerkit.adapters.injected import Injected
from steerkit.backends.huggingface import HuggingFaceModel, check_plain
from steerkit.errors import InputError, SteeringError

Weights = Any
"""An `Adapter`, a `FullWeights`, or peft's `LoraConfig` for a new adapter that changes nothing yet."""


class Attached:
    """Adapters on a model; none acts until `only` is entered.

    Args:
        model: The base.
        injected: The LoRA layers in it.
        full: Parameters to swap in, by name.
    """

    def __init__(self, model: HuggingFaceModel, injected: Injected, full: Mapping[str, FullWeights]) -> None:
        self.model = model
        self._injected = injected
        self._own = dict(model.hf.named_parameters())  # by the names they have before adapters are put in
        self._full = {name: _placed(self._own, one.tensors) for name, one in full.items()}
        self._active: tuple[str, ...] = ()
        self._held = False

    @property
    def names(self) -> tuple[str, ...]:
        """What is attached."""
        return (*self._injected.names, *self._full)

    @property
    def active(self) -> tuple[str, ...]:
        """What acts at this moment."""
        return self._active

    @contextmanager
    def only(self, *names: str) -> Iterator[None]:
        """Exactly these act; without a name, the base.

        Raises:
            SteeringError: Switching is forbidden at this moment (see `hold`), or two full sets of weights are named.
            InputError: Nothing is attached by a name.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise InputError(f"nothing is attached as {unknown[0]!r}; there are {', '.join(map(repr, self.names))}")
        before = self._active
        self._switch(names)
        try:
            yield
        finally:
            self._switch(before)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Forbid switching: between a forward pass with gradients and its backward pass.

        With gradient checkpointing the backward pass runs the blocks again, with whatever acts by then; a switch in
        between gives wrong gradients without an error, in either way of checkpointing.
        """
        if self._held:
            raise SteeringError("the adapters are held already")
        self._held = True
        try:
            yield
        finally:
            self._held = False

    @contextmanager
    def train(self, name: str) -> Iterator[None]:
        """The adapter's dropout is active; the base stays as in evaluation."""
        modules = self._injected.dropouts(name)
        for module in modules:
            module.train()
        try:
            yield
        finally:
            for module in modules:
                module.eval()

    def parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of an adapter, to be trained; from now on they, and no others, require gradients.

        Raises:
            InputError: No adapter has this name.
        """
        if name not in self._injected.names:
            raise InputError(f"{name!r} is no adapter; there are {', '.join(map(repr, self._injected.names))}")
        return self._injected.trainable(name)

    def adapter(self, name: str, *, meta: Mapping[str, Any] | None = None) -> Adapter:
        """A copy of an adapter's weights, on the CPU."""
        weights = {key: one.detach().to("cpu", copy=True) for key, one in self._injected.state(name).items()}
        return Adapter(deepcopy(self._injected.config(name)), weights, dict(meta or {}))

    def rescale(self, name: str, factor: float) -> None:
        """Multiply what an adapter adds.

        Raises:
            InputError: The name is that of full weights, which have no scale.
        """
        if name in self._full:
            if factor != 1:
                raise InputError(f"scale={factor:g} is not valid for full weights; they have no scale but 1")
            return
        self._injected.rescale(name, factor)

    def _switch(self, names: tuple[str, ...]) -> None:
        if self._held:
            raise SteeringError("the adapters cannot be switched between a forward pass with gradients and its "
                                "backward pass: the gradients would be wrong. Compute every target before")  # fmt: skip
        swapped = [name for name in names if name in self._full]
        if len(swapped) > 1:
            raise SteeringError(f"{' and '.join(swapped)} each replace the model's weights; only one can act at a time")
        for name in self._active:
            if name in self._full and name not in swapped:
                _swap(self._own, self._full[name])
        for name in swapped:
            if name not in self._active:
                _swap(self._own, self._full[name])
        self._injected.activate([name for name in names if name in self._injected.names])
        self._active = tuple(names)


@contextmanager
def attach(model: HuggingFaceModel, weights: Mapping[str, Weights]) -> Iterator[Attached]:
    """Put adapters on a model while the context is open; one base, whatever their number.

    None of them acts at first. Afterwards the model has its own modules again, and what required gradients before does
    so again.

    Args:
        model: The base.
        weights: By name: an `Adapter`, a `FullWeights`, or a `LoraConfig` for a new adapter.

    Raises:
        SteeringError: The model carries adapters already.
        InputError: Something given is none of these, or does not fit the model.
    """
    full = {name: one for name, one in weights.items() if isinstance(one, FullWeights)}
    loras = {name: one for name, one in weights.items() if name not in full}
    _check(model, full, loras)
    needed = [(one, one.requires_grad) for one in model.hf.parameters()]
    injected = Injected(model.hf)
    attached = Attached(model, injected, full)
    try:
        for parameter, _ in needed:
            parameter.requires_grad_(False)
        for name, one in loras.items():
            injected.add(name, one.config if isinstance(one, Adapter) else one,
                         one.weights if isinstance(one, Adapter) else None)  # fmt: skip
        injected.activate([])
        yield attached
    finally:
        attached._held = False
        attached._switch(())
        injected.remove()
        for parameter, needs in needed:
            parameter.requires_grad_(needs)


def _check(model: HuggingFaceModel, full: Mapping[str, FullWeights], loras: Mapping[str, Any]) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    check_plain(model, "adapters work")
    if any(isinstance(module, BaseTunerLayer) for module in model.hf.modules()):
        raise SteeringError("the model carries adapters already; leave them first, or stack([a, b]) to have both act")
    for name, one in loras.items():
        if not isinstance(one, Adapter | LoraConfig):
            raise InputError(f"{name!r} is a {type(one).__name__}; give an Adapter, a FullWeights or a LoraConfig")
        if not name.isidentifier():
            raise InputError(f"{name!r} is no name for an adapter; give a plain word")
    own = dict(model.hf.named_parameters())
    for name, one in full.items():
        for key, tensor in one.tensors.items():
            if key not in own or own[key].shape != tensor.shape:
                raise InputError(f"{name!r} holds {key} {list(tensor.shape)}, which is no parameter of the model")


def _placed(own: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the model's devices and in its precision."""
    return {key: one.to(own[key].device, own[key].dtype) for key, one in tensors.items()}


@torch.no_grad()
def _swap(own: Mapping[str, nn.Parameter], tensors: dict[str, Tensor]) -> None:
    """Exchange the model's tensors with these; the second time puts them back."""
    for key, tensor in tensors.items():
        own[key].data, tensors[key] = tensor, own[key].data
