"""What alignment by representations is compared with, on the same base, trained by TRL (the extra `align`)."""

from __future__ import annotations

from steerkit.training.baselines.dpo import train_dpo
from steerkit.training.baselines.hir import train_hir
from steerkit.training.baselines.preferred_sft import train_preferred_sft
from steerkit.training.baselines.reward import RewardModel, train_reward_model
from steerkit.training.baselines.rloo import train_rloo
from steerkit.training.baselines.task import Budget, Entry, Method, Task

__all__ = [
    "Budget",
    "Entry",
    "Method",
    "RewardModel",
    "Task",
    "train_dpo",
    "train_hir",
    "train_preferred_sft",
    "train_reward_model",
    "train_rloo",
]
