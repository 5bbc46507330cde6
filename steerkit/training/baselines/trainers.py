"""TRL's trainers, run on a lent model with steerkit's settings."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from steerkit import __version__
from steerkit.adapters import Adapter
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError, SteerkitError
from steerkit.training.baselines.lending import lent
from steerkit.training.fitting.fit import Fit

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}

Build = Callable[[Any, Any, dict[str, Any]], Any]
"""From the lent model, a copy of its tokenizer and the arguments that all of TRL's trainers share, to a trainer."""


def import_trl() -> Any:
    """TRL, which trains the baselines.

    Raises:
        SteerkitError: It is not installed.
    """
    try:
        import trl
    except ImportError as error:
        raise SteerkitError("the baselines are trained by TRL, which is not installed: pip install steerkit[align]") \
            from error  # fmt: skip
    return trl


def run_trainer(model: HuggingFaceModel, build: Build, *, fit: Fit, progress: bool = False) -> Trained:
    """Build a trainer on the lent model, run it, and take its adapter out.

    Args:
        model: The base; afterwards it is itself, also after an exception.
        build: Makes the trainer.
        fit: The settings.
        progress: Show TRL's progress bar.

    Raises:
        InputError: The batch cannot be taken in equal pieces.
    """
    if fit.batch % fit.accumulate:
        raise InputError(f"batch={fit.batch} cannot be taken in accumulate={fit.accumulate} equal pieces, which TRL "
                         "needs; choose a divisor")  # fmt: skip
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, lent(model) as hf, _known_warnings():
        arguments = shared_arguments(model, fit, scratch, progress=progress)
        trainer = build(hf, _tokenizer(model), arguments)
        _quiet(trainer)
        trainer.train()
        return Trained.of(trainer, time.perf_counter() - started)


class Trained:
    """What a trainer leaves: a LoRA adapter's configuration and weights, other trained tensors, and its losses."""

    def __init__(self, config: Any, weights: Mapping[str, Any], losses: list[float], seconds: float) -> None:
        self.config = config
        self.weights = {name: one for name, one in weights.items() if ".lora_" in name}
        self.others = {name: one for name, one in weights.items() if ".lora_" not in name}
        self.losses = losses
        self.seconds = seconds

    @classmethod
    def of(cls, trainer: Any, seconds: float) -> Trained:
        """Copy the weights out of a trainer's model."""
        from peft import get_peft_model_state_dict

        peft_model = trainer.accelerator.unwrap_model(trainer.model)
        found = get_peft_model_state_dict(peft_model, adapter_name="default", save_embedding_layers=False)
        weights = {name: one.detach().to("cpu", copy=True) for name, one in found.items()}
        losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
        return cls(deepcopy(peft_model.peft_config["default"]), weights, losses, seconds)

    def adapter(self, model: HuggingFaceModel, method: str, fit: Fit, **settings: Any) -> Adapter:
        """As steerkit's adapter, with where it comes from."""
        made = {"method": method, "by": "trl", "fit": fit.as_dict(), "losses": self.losses, "version": __version__}
        return Adapter(self.config, self.weights, {"model": model.info.as_dict(), **made, **settings})


def shared_arguments(model: HuggingFaceModel, fit: Fit, folder: str, *, progress: bool) -> dict[str, Any]:
    """The arguments that all of TRL's trainers share: nothing is reported, saved, downloaded or cast."""
    return {
        "output_dir": folder,
        "use_cpu": model.device.type == "cpu",
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": fit.recompute,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": not progress,
        "dataloader_pin_memory": False,
        "max_steps": fit.steps,
        "per_device_train_batch_size": fit.batch // fit.accumulate,
        "gradient_accumulation_steps": fit.accumulate,
        "learning_rate": fit.lr,
        "lr_scheduler_type": SCHEDULES[fit.schedule],
        "warmup_steps": round(fit.warmup * fit.steps),
        "weight_decay": fit.weight_decay,
        "max_grad_norm": fit.clip or 0.0,
        "seed": fit.seed,
    }


@contextmanager
def _known_warnings() -> Iterator[None]:
    """TRL and peft themselves use a name that transformers will drop."""
    with warnings.catch_warnings():
        message = r"`(is_)?gradient_checkpointing\w*` is deprecated"
        warnings.filterwarnings("ignore", message=message, category=FutureWarning)
        yield


def _tokenizer(model: HuggingFaceModel) -> Any:
    """A copy, since TRL gives a tokenizer without a padding token one."""
    tokenizer = deepcopy(model.tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = model.pad_id
    return tokenizer


def _quiet(trainer: Any) -> None:
    """Without a progress bar transformers prints every log to standard output."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
