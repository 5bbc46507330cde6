"""Lend a model to a foreign trainer, and have it back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from steerkit.backends.huggingface import HuggingFaceModel, check_plain
from steerkit.errors import ModelError, SteeringError


@contextmanager
def lent(model: HuggingFaceModel) -> Iterator[Any]:
    """The transformers model, for a trainer that may wrap, patch and reconfigure it while the context is open.

    Afterwards it is itself again, also after an exception: the same modules with the same attributes and hooks, the
    same parameters, its configuration, and the random states of Python, NumPy and torch. No copy of the weights is
    made. The base's own dropout is off meanwhile.

    Raises:
        InputError: `model` is no plain Hugging Face model.
        SteeringError: The model carries adapters already.
        ModelError: The trainer wrote into the base's weights.
    """
    hf = _plain(model)
    modules = [(module, _Kept(module.__dict__)) for module in hf.modules()]
    tensors = [(one, one.data_ptr(), one._version) for one in (*hf.parameters(), *hf.buffers())]
    needed = [(one, one.requires_grad, one.grad) for one in hf.parameters()]
    configs = [(one, deepcopy(one.__dict__)) for one in (hf.config, hf.generation_config) if one is not None]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    accelerated = _accelerate_runs()
    try:
        for parameter, _, _ in needed:
            parameter.requires_grad_(False)
        for module, _ in modules:
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        yield hf
    finally:
        for module, kept in modules:
            kept.put_back(module.__dict__)
        for parameter, needs, gradient in needed:
            parameter.requires_grad_(needs)
            parameter.grad = gradient
        for config, before in configs:
            config.__dict__.clear()
            config.__dict__.update(before)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if gpu:
            torch.cuda.set_rng_state_all(gpu)
        if not accelerated:
            _forget_accelerate()
    if any(one.data_ptr() != where or one._version != version for one, where, version in tensors):
        raise ModelError("the trainer wrote into the weights of the base model; load the model again")


class _Kept:
    """The attributes of one module; of containers also what they hold, since hooks are known by their container."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self._values = dict(attributes)
        self._inside = {k: v.copy() for k, v in attributes.items() if isinstance(v, dict | list | set)}

    def put_back(self, attributes: dict[str, Any]) -> None:
        """Make them what they were."""
        attributes.clear()
        attributes.update(self._values)
        for key, inside in self._inside.items():
            container = self._values[key]
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(inside)


def _plain(model: object) -> Any:
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = check_plain(model, "the baselines are trained")
    if any(isinstance(module, BaseTunerLayer) for module in plain.hf.modules()):
        raise SteeringError("the model carries adapters already; leave them before training a baseline")
    return plain.hf


def _accelerate_runs() -> bool:
    from accelerate.state import PartialState

    return bool(PartialState._shared_state)


def _forget_accelerate() -> None:
    """What the trainer told accelerate of the device would hold for every later trainer of the process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
