"""Weights to take elsewhere: one file a format."""

from steerkit.interchange.bias import Baked, bake_bias
from steerkit.interchange.bias_adapter import bias_adapter
from steerkit.interchange.merged import Merged, save_merged
from steerkit.interchange.peft_folder import PeftFolder, save_peft

__all__ = ["Baked", "Merged", "PeftFolder", "bake_bias", "bias_adapter", "save_merged", "save_peft"]
