"""TransformerLens and nnsight keep the contract, and give the same numbers as plain hooks on the same weights.

All in float32 and with eager attention, which TransformerLens cannot do without: within 1e-5 of the largest value.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from backend_cases import (
    DECODING,
    OTHERS,
    SCOPES,
    TOLERANCE,
    answers,
    distance,
    letter_pairs,
    measured,
    other,
    plain,
    site_logits,
)
from tiny import ARCHITECTURES, VARIANTS

from steerkit.backends.loading import load
from steerkit.backends.probe import check_layout
from steerkit.errors import LayerError, ModelError
from steerkit.points import SITES, Point
from steerkit.testing import ConformanceError, check_backend

EVERY = tuple({**ARCHITECTURES, **VARIANTS})
QUICK = ("bloom", "gemma2", "gpt2", "gpt_neo", "llama", "olmo2")
"""Of each kind of block one; all others are slow."""

NO_ADAPTER = ("dbrx", "helium", "internvl", "ministral", "persimmon", "phimoe", "qwen2_vl", "smolvlm")
NEEDS_TORCHVISION = ("qwen2_5_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe")
REASONS = {
    **dict.fromkeys(NO_ADAPTER, "cannot run .*Unsupported architecture"),
    "falcon": "split_with_sizes expects split_sizes to sum exactly",
    "zamba2": "is not its input plus attention plus MLP",
}
if find_spec("torchvision") is None:
    REASONS |= dict.fromkeys(NEEDS_TORCHVISION, "needs the optional torchvision library")
REFUSED = {("transformer_lens", name): reason for name, reason in REASONS.items()}
"""What a library itself cannot run, with its reason."""

LACKS = {("transformer_lens", "nemotron_h"): {"z"}}
"""Sites at which a library has no hook point."""

UNCHECKED = dict.fromkeys((("transformer_lens", "opt"), ("transformer_lens", "opt_post_norm")), "reads equal")
"""TransformerLens's own block of OPT makes transformers record every `hidden_states` twice."""


def _cross(names: tuple[str, ...], *, refused: bool = False) -> list[Any]:
    """Each backend with each architecture that it runs (or refuses, too), the less telling ones slow."""
    return [
        pytest.param(backend, name, marks=() if name in QUICK else pytest.mark.slow)
        for backend in OTHERS
        for name in names
        if refused or (backend, name) not in REFUSED
    ]


@pytest.mark.parametrize(("backend", "architecture"), _cross(EVERY, refused=True))
def test_every_backend_keeps_the_contract_on_every_architecture(backend: str, architecture: str) -> None:
    if (backend, architecture) in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[backend, architecture]):
            check_layout(other(backend, architecture))
        return
    model, base = other(backend, architecture), plain(architecture)
    check_layout(model)
    assert model.info.fingerprint == base.info.fingerprint
    apart = {"lacks": {}, "heads": 0, "head_size": 0} if (backend, architecture) in LACKS else {}
    assert {**model.info.as_dict(), **apart} == {**base.info.as_dict(), **apart}
    unchecked = UNCHECKED.get((backend, architecture))
    if unchecked is None:
        assert len(check_backend(model).checks) == len(check_backend(base).checks)
        return
    with pytest.raises(ConformanceError) as caught:
        check_backend(model)
    failed = [line for line in str(caught.value).splitlines() if line.endswith("FAILED")]
    assert [line.startswith(unchecked) for line in failed] == [True]


@pytest.mark.parametrize(("backend", "architecture"), _cross(EVERY))
def test_every_site_of_every_block_is_written_as_by_plain_hooks(backend: str, architecture: str) -> None:
    model, base = other(backend, architecture), plain(architecture)
    for layer in range(base.info.num_layers):
        lacking = LACKS.get((backend, architecture), set()) & set(base.parts.sites(layer))
        assert set(base.parts.sites(layer)) - set(model.parts.sites(layer)) == lacking
        for site in model.parts.sites(layer):
            point = Point(layer, site)
            assert distance(site_logits(model, point), site_logits(base, point)) <= TOLERANCE, point
        for site in set(SITES) - set(model.parts.sites(layer)):
            with pytest.raises(LayerError, match="has no site"):
                model.hook(Point(layer, site), lambda hidden, pass_: None)


@pytest.mark.parametrize("site", ["resid_post", "attn_out", "z"])
@pytest.mark.parametrize(("backend", "architecture"), _cross(("llama", "gpt2", "gemma2", "gpt_oss", "jamba")))
def test_a_whole_run_gives_the_same_numbers(backend: str, architecture: str, site: Any) -> None:
    base, model = plain(architecture), other(backend, architecture)
    pairs = letter_pairs()
    wanted, vector = measured(base, pairs, pairs, site=site)
    found, own = measured(model, pairs, pairs, site=site)
    assert {name: distance(found[name], wanted[name]) <= TOLERANCE for name in wanted} == dict.fromkeys(wanted, True)
    own.check_fits(base.info.as_dict())
    vector.check_fits(model.info.as_dict())


@pytest.mark.parametrize("positions", SCOPES, ids=str)
@pytest.mark.parametrize(("backend", "architecture"), _cross(("llama", "gpt2")))
def test_every_scope_steers_the_same_tokens(backend: str, architecture: str, positions: Any) -> None:
    base, model = plain(architecture), other(backend, architecture)
    vector = torch.randn(base.info.hidden_size, generator=torch.Generator().manual_seed(1))
    prompts = ["hello there", "hi", "what is it?"]
    wanted, found = (answers(one, vector, prompts, positions=positions) for one in (base, model))
    assert found[:2] == wanted[:2]
    assert distance(found[2], wanted[2]) <= TOLERANCE


@pytest.mark.parametrize("decoding", DECODING.values(), ids=list(DECODING))
@pytest.mark.parametrize(("backend", "architecture"), _cross(("llama", "gpt2", "jamba", "gemma2")))
def test_every_way_of_decoding_gives_the_same_answers(backend: str, architecture: str, decoding: Any) -> None:
    base, model = plain(architecture), other(backend, architecture)
    vector = torch.randn(base.info.hidden_size, generator=torch.Generator().manual_seed(1))
    prompts = ["hello there", "hi"]
    wanted, found = (answers(one, vector, prompts, positions="generation", **decoding) for one in (base, model))
    assert found[:2] == wanted[:2]
    assert answers(model, vector * 0, prompts, positions="all", **decoding)[0] != wanted[0]


@pytest.mark.parametrize("backend", OTHERS)
def test_the_embedded_model_runs_alike(backend: str) -> None:
    import steerkit as sk

    base, model = load("demo"), load("demo", backend=backend)
    assert base.info == model.info
    pairs = sk.load_pairs("demo:sycophancy", split="train")[:6]
    test = sk.load_pairs("demo:sycophancy", split="test")[:4]
    wanted, vector = measured(base, pairs, test)
    found, _ = measured(model, pairs, test)
    for name in wanted:
        assert distance(found[name], wanted[name]) <= TOLERANCE, name
    prompts = [pair.positive.prompt for pair in test]
    for coef in (-0.5, 0.5):
        texts = [sk.Steer(one).add(vector, layer=3, coef=coef).generate(prompts, max_new_tokens=12)
                 for one in (base, model)]  # fmt: skip
        assert texts[0] == texts[1]
