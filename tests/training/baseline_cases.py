"""What the tests of the baselines share: a few preferences, and whether a base is itself."""

from __future__ import annotations

from typing import Any

import torch

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.preference_items import Preference
from steerkit.data.preference_sets import Preferences

ANSWERS = (("No, not so.", "Yes."), ("Never!", "Sure, it is so."), ("It is wet", "dry"), ("b", "a a a a a"))


def preferences(count: int = 8) -> Preferences:
    """Answers of unequal lengths to different questions."""
    items = []
    for number in range(count):
        chosen, rejected = ANSWERS[number % len(ANSWERS)]
        asked = Prompt([{"role": "user", "content": f"Is it {number} or {'x' * (number % 5)}?"}])
        items.append(Preference(asked, chosen, rejected, id=str(number)))
    return Preferences(items, name="tiny")


class Itself:
    """A base as it is now, to be held against what it is later."""

    def __init__(self, model: HuggingFaceModel) -> None:
        self.model = model
        self.modules = self._modules()
        self.tensors = {name: one.clone() for name, one in model.hf.state_dict().items()}
        self.needs = [one.requires_grad for one in model.hf.parameters()]
        self.config = model.hf.config.to_dict()
        self.logits = model.forward("Is it so?")

    def _modules(self) -> dict[str, tuple[int, dict[str, Any]]]:
        kept = {}
        for name, module in self.model.hf.named_modules():
            plain = {key: id(value) for key, value in module.__dict__.items() if not isinstance(value, dict)}
            inside = {key: list(value) for key, value in module.__dict__.items() if isinstance(value, dict)}
            kept[name] = (id(module), {"plain": plain, "inside": inside})
        return kept

    def check(self) -> None:
        """It is the same, bit for bit and module for module."""
        assert self._modules() == self.modules
        assert [one.requires_grad for one in self.model.hf.parameters()] == self.needs
        assert all(one.grad is None for one in self.model.hf.parameters())
        assert self.model.hf.config.to_dict() == self.config
        for name, one in self.model.hf.state_dict().items():
            assert torch.equal(one, self.tensors[name]), name
        assert torch.equal(self.model.forward("Is it so?"), self.logits)
