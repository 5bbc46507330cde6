from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, VARIANTS, tiny_hf, tiny_tokenizer
from torch import nn

from steerkit.backends.layouts import find_parts
from steerkit.backends.loading import load
from steerkit.backends.structure import find_structure
from steerkit.errors import ModelError
from steerkit.testing import check_backend

PARTS = {"attn_out": "attn", "mlp_out": "mlp", "z": "heads"}


def _difference(architecture: str) -> str:
    """Where the structure found and the row of the table part ways."""
    hf = tiny_hf(architecture)
    row, found = find_parts(hf), find_structure(hf)
    if found.decoder is not row.decoder or found.blocks != row.blocks:
        return f"{architecture}: blocks at {found.layout.decoder}.{found.layout.blocks}"
    for layer in range(len(row.blocks)):
        if found.sites(layer) != row.sites(layer):
            return f"{architecture}: block {layer} has {found.sites(layer)}, not {row.sites(layer)}"
        for site, part in PARTS.items():
            if row.has(layer, site) and getattr(found, part)(layer) is not getattr(row, part)(layer):  # type: ignore[arg-type]
                return f"{architecture}: block {layer} has another {part}"
    return ""


def test_the_structure_of_every_known_architecture_is_its_row() -> None:
    wrong = [name for name in [*ARCHITECTURES, *VARIANTS] if _difference(name)]
    total = len(ARCHITECTURES) + len(VARIANTS)
    assert not wrong, f"{total - len(wrong)} of {total} found; not {wrong}"


@pytest.mark.parametrize("architecture", ["gemma2", "falcon", "bloom", "mamba", "jamba", "qwen2_vl", "granite"])
def test_an_unknown_architecture_is_found_and_keeps_the_contract(architecture: str) -> None:
    hf = tiny_hf(architecture)
    hf.config.model_type = "unheard-of"
    hf.config.get_text_config().model_type = "unheard-of-text"
    model = load(hf, tokenizer=tiny_tokenizer())
    assert model.parts.layout.note == "found by structure"
    assert check_backend(model).passed


def test_scaled_parts_of_an_unknown_architecture_are_left_out() -> None:
    hf = tiny_hf("granite")
    assert find_structure(hf).sites(0) == ("resid_pre", "z", "resid_post")


class _Renamed(nn.Module):
    """A Llama block under names that say nothing."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.alpha, self.beta = block.input_layernorm, block.self_attn
        self.gamma, self.delta_ = block.post_attention_layernorm, block.mlp

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        hidden_states = hidden_states + self.beta(hidden_states=self.alpha(hidden_states), **kwargs)[0]
        return hidden_states + self.delta_(self.gamma(hidden_states))


def test_names_that_say_nothing_do_no_harm() -> None:
    hf = tiny_hf("llama")
    hf.config.model_type = "unheard-of"
    hf.model.layers = nn.ModuleList(_Renamed(block) for block in hf.model.layers)
    model = load(hf, tokenizer=tiny_tokenizer())
    layout = model.parts.layout
    assert (layout.attn, layout.mlp, layout.heads) == ("beta", "delta_", "beta.o_proj")
    assert check_backend(model).passed


def test_what_was_seen_is_told_where_nothing_can_be_found() -> None:
    hf = tiny_hf("llama")
    hf.config.model_type = "unheard-of"
    hf.config.num_hidden_layers = 5
    with pytest.raises(ModelError, match=r"0 lists of 5 blocks .* Seen: model\.layers \(4 x LlamaDecoderLayer\)\. Add"):
        find_parts(hf)


def test_two_stacks_beside_the_embeddings_are_not_guessed_at() -> None:
    hf = tiny_hf("llama")
    hf.config.model_type = "unheard-of"
    hf.model.others = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(4))
    with pytest.raises(ModelError, match=r"2 lists of 4 blocks .* model\.others \(4 x Sequential\)"):
        find_parts(hf)
