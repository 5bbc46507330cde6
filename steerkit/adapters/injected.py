"""peft's LoRA layers in a model: put in, switched and taken out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steerkit.errors import InputError

if TYPE_CHECKING:
    from peft import LoraConfig


PREFIX = "base_model.model."
"""What peft puts before the name of every weight in a file."""


class Injected:
    """The LoRA layers of one transformers model.

    Args:
        hf: The model.
    """

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        self._tuner: Any = None
        self._layers: list[Any] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that are there."""
        return () if self._tuner is None else tuple(self._tuner.peft_config)

    def config(self, name: str) -> LoraConfig:
        """An adapter's configuration."""
        return self._tuner.peft_config[name]

    def add(self, name: str, config: LoraConfig, weights: Mapping[str, Tensor] | None) -> None:
        """Put an adapter in; without weights it changes nothing yet.

        Raises:
            InputError: The weights do not fit the model.
        """
        from peft import LoraModel
        from peft.tuners.lora import LoraLayer

        config = deepcopy(config)
        config.inference_mode = False
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", message="`lora_bias=True` was passed"
                )  # of merging, said when merging
                if self._tuner is None:
                    self._tuner = LoraModel(self._hf, {name: config}, name)
                else:
                    self._tuner.peft_config[name] = config
                    self._tuner.inject_adapter(self._hf, name)
        except ValueError as error:
            raise InputError(f"the adapter does not fit {self._hf.config.model_type}: {error}") from error
        self._layers = [module for module in self._hf.modules() if isinstance(module, LoraLayer)]
        for module in self.dropouts(name):
            module.eval()
        for one in self._parameters(
            name
        ).values():  # peft puts them into the base's format, which may be half precision
            one.data = one.data.to(torch.promote_types(one.dtype, torch.float32))
        if weights is not None:
            self._fill(name, weights)

    @torch.no_grad()
    def _fill(self, name: str, weights: Mapping[str, Tensor]) -> None:
        own = self.state(name)
        extra = [key for key in weights if key not in own]
        other = [key for key in own if key in weights and own[key].shape != weights[key].shape]
        missing = [key for key in own if key not in weights]
        for what, keys in (("has no place for", extra), ("has another shape for", other), ("lacks", missing)):
            if keys:
                raise InputError(f"the adapter does not fit this model, which {what} {keys[0]} ({len(keys)} of "
                                 f"{len(weights)} tensors); use the model it was trained on")  # fmt: skip
        for key, tensor in weights.items():
            own[key].copy_(tensor)

    def dropouts(self, name: str) -> list[nn.Module]:
        """An adapter's dropout layers."""
        return [layer.lora_dropout[name] for layer in self._layers if name in layer.lora_dropout]

    def _parameters(self, name: str) -> dict[str, nn.Parameter]:
        """An adapter's parameters by the names they have in the model."""
        own = ((key, key.partition(".lora_")[2].split("."), one) for key, one in self._hf.named_parameters())
        return {key: one for key, parts, one in own if name in parts[1:]}

    def state(self, name: str) -> dict[str, Tensor]:
        """An adapter's weights by the names that peft writes into files: without the adapter's own."""
        found = self._parameters(name)
        return {PREFIX + k.replace(f".{name}.", ".").removesuffix(f".{name}"): one for k, one in found.items()}

    def trainable(self, name: str) -> list[nn.Parameter]:
        """An adapter's parameters; they alone require gradients."""
        for parameter in self._hf.parameters():
            parameter.requires_grad_(False)
        found = list(self._parameters(name).values())
        for parameter in found:
            parameter.requires_grad_(True)
        return found

    def rescale(self, name: str, factor: float) -> None:
        """Multiply what an adapter adds."""
        for layer in self._layers:
            if name in layer.scaling:
                layer.set_scale(name, factor)

    def activate(self, names: Sequence[str]) -> None:
        """Exactly these act; what requires gradients stays as it is (peft would change it)."""
        if self._tuner is None:
            return
        wanted, on = list(names), bool(names)
        for layer in self._layers:
            others, off = on and list(layer.active_adapters) != wanted, bool(layer.disable_adapters)
            if not others and off != on:
                continue
            needed = [(one, one.requires_grad) for one in layer.parameters()]
            if others:
                layer.set_adapter(wanted)
            if off == on:
                layer.enable_adapters(on)
            for parameter, needs in needed:
                parameter.requires_grad_(needs)

    @torch.no_grad()
    def remove(self) -> None:
        """Take every LoRA layer out again."""
        if self._tuner is not None:
            self._tuner.unload()
            self._tuner, self._layers = None, []
