from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny import tiny, tiny_hf, tiny_tokenizer

from steerkit.backends.layouts import LAYOUTS, WRAPPERS, Layout
from steerkit.backends.loading import load
from steerkit.backends.probe import check_layout
from steerkit.errors import ModelError


@pytest.mark.parametrize(
    ("architecture", "changes", "says"),
    [
        ("llama", {"attn": "mlp", "mlp": "self_attn"}, "block 0 runs before its attention.*wrong way round"),
        ("gpt_neox", {"attn": "mlp", "mlp": "attention"}, "wrong way round"),
        ("gemma2", {"attn": "self_attn"}, "block 0 is not its input plus attention plus MLP .off by"),
        ("gemma2", {"mlp": "mlp"}, "block 0 is not its input plus"),
        ("olmo2", {"attn": "self_attn", "mlp": "mlp"}, "off by"),
        ("glm4", {"attn": "post_attention_layernorm"}, "off by"),
        ("bloom", {"attn": "self_attention", "mlp": "mlp"}, "off by"),
        ("granite", {"attn": "self_attn", "mlp": "mlp"}, "off by"),
        ("llama", {"mlp": None}, "off by"),
        ("mamba", {"attn": "norm"}, "off by"),
        ("llama", {"heads": "mlp.down_proj"}, "given 64 values, not those of 3 heads|wrong"),
        ("llama", {"decoder": "model.nowhere"}, "does not fit this model"),
    ],
)
def test_a_wrong_row_is_refused(
    architecture: str, changes: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAYOUTS, architecture, replace(LAYOUTS[architecture], **{"when": (), **changes}))
    if "heads" in changes:  # more heads than divide its width
        monkeypatch.setattr("steerkit.backends.provenance._heads", lambda *_: (3, 21))
    with pytest.raises(ModelError, match=says):
        load(tiny_hf(architecture), tokenizer=tiny_tokenizer())


def test_the_vision_tower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    named = tiny_hf("llava").named_modules()
    tower = next(path for path, module in named if path.endswith("encoder") and hasattr(module, "layers"))
    monkeypatch.setitem(WRAPPERS, "llava", tower)
    monkeypatch.setitem(LAYOUTS, "llama", Layout(tower, "layers", "self_attn", "mlp"))
    with pytest.raises(ModelError, match="block 0 of 6 did not run; the layout of 'llava' is wrong"):
        load(tiny_hf("llava"), tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("architecture", ["falcon", "mamba", "opt_post_norm", "llama4_text", "gemma3"])
def test_a_right_row_is_accepted_in_one_pass(architecture: str) -> None:
    model = tiny(architecture)
    passes: list[int] = []
    handle = model.parts.decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    check_layout(model)
    handle.remove()
    assert len(passes) == 1
