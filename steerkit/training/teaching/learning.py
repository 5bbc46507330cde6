"""Training one set of weights on a base that stays as it is: an adapter, or all of the model's own parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from steerkit.adapters import Adapter, FullWeights, Lora, attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError
from steerkit.training.fitting.curves import Curve
from steerkit.training.fitting.fit import Fit
from steerkit.training.fitting.loop import Step, train
from steerkit.training.fitting.recompute import recomputed


@dataclass(frozen=True)
class Learner:
    """How weights are trained; the same for every set of weights of one teaching.

    Args:
        model: The base; afterwards it is itself, bit for bit.
        lora: The form of the adapter; `None` trains all of the model's own parameters.
        fit: The settings. Its seed alone decides new weights and the order of the data, so two sets of weights that
            learn from the same data are the same.
        path: A folder for checkpoints, one below it for each set of weights.
        identity: What else decides the result, as plain values.
        progress: Show a bar, where somebody is there to see it.
    """

    model: HuggingFaceModel
    lora: Lora | None
    fit: Fit
    path: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = True

    def learn(self, name: str, count: int, step: Step) -> tuple[Adapter | FullWeights, Curve]:
        """Train one set of weights, and take them off the base again.

        Args:
            name: What the weights are called.
            count: How many items there are.
            step: The loss of some items; see `steerkit.training.fitting.loop.train`.
        """
        return self._full(name, count, step) if self.lora is None else self._adapter(name, self.lora, count, step)

    def _adapter(self, name: str, lora: Lora, count: int, step: Step) -> tuple[Adapter, Curve]:
        config = lora.config(self.model)
        with _seeded(self.fit.seed), attach(self.model, {name: config}) as attached:
            with attached.only(name), attached.train(name):
                curve = self._train(attached.parameters(name), name, count, step)
            return attached.adapter(name, meta=self._meta(name)), curve

    def _full(self, name: str, count: int, step: Step) -> tuple[FullWeights, Curve]:
        check_trainable(self.model)
        own = dict(self.model.hf.named_parameters())
        copies = FullWeights({key: one.detach().clone() for key, one in own.items()})
        with attach(self.model, {name: copies}) as attached, attached.only(name):
            try:
                for one in own.values():
                    one.requires_grad_(True)
                curve = self._train(list(own.values()), name, count, step)
                tuned = {key: one.detach().cpu() for key, one in own.items()}
            finally:
                for one in own.values():
                    one.grad = None
        return FullWeights(tuned, self._meta(name)), curve

    def _train(self, parameters: Any, name: str, count: int, step: Step) -> Curve:
        path = None if self.path is None else self.path / name
        identity = {**self.identity, "weights": name}
        memory = recomputed(self.model.parts.blocks) if self.fit.recompute else nullcontext()
        with memory:
            return train(parameters, count, step, fit=self.fit, path=path, identity=identity, describe=_describe,
                         progress=self.progress)  # fmt: skip

    def _meta(self, name: str) -> dict[str, Any]:
        form = "full" if self.lora is None else asdict(self.lora)
        made = {**self.identity, "weights": name, "form": form, "fit": self.fit.as_dict()}
        return {"model": self.model.info.as_dict(), "made": made}


def check_trainable(model: HuggingFaceModel) -> None:
    """Refuse to tune all parameters of a model whose weights cannot be.

    Raises:
        InputError: Some are quantized, or accelerate keeps them elsewhere.
    """
    for name, one in model.hf.named_parameters():
        if not one.is_floating_point() or one.device.type == "meta":
            what = "quantized" if one.device.type != "meta" else "not in memory"
            raise InputError(f"full=True cannot tune {name}, which is {what}; load the model in float32 or bfloat16 "
                             "without offloading, or train an adapter")  # fmt: skip


def _describe(row: Mapping[str, float]) -> str:
    right = f", {row['accuracy']:.0%} told apart" if "accuracy" in row else ""
    return f"loss {row['loss']:.4g}{right}"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
