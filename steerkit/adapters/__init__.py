"""Weights that can be switched on and off: LoRA adapters on one base model, kept apart from it."""

from steerkit.adapters.acting import Acting
from steerkit.adapters.adapted import Adapted
from steerkit.adapters.adapter import Adapter
from steerkit.adapters.attached import Attached, attach
from steerkit.adapters.full import FullWeights
from steerkit.adapters.lora import Lora
from steerkit.adapters.stacking import stack

__all__ = ["Acting", "Adapted", "Adapter", "Attached", "FullWeights", "Lora", "attach", "stack"]
