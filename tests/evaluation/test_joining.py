"""Tails that join at their layer: the same numbers, for less work."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from questions_data import letter_pairs
from tiny import EVERY, tiny

from steerkit.backends import joining
from steerkit.backends.base import Joining, pad
from steerkit.errors import ModelError
from steerkit.evaluation.packed_path import packed_logits
from steerkit.evaluation.questions import read_questions
from steerkit.evaluation.routes import choose_route
from steerkit.evaluation.sweeps import sweep
from steerkit.evaluation.variants import variants_of
from steerkit.packing import can_pack
from steerkit.steering import Steer
from steerkit.vectors import SteeringVector

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def vector(site: str = "resid_post", layers: int = 4) -> SteeringVector:
    torch.manual_seed(0)
    return SteeringVector(2 * torch.randn(layers, 32), layers=range(layers), site=site)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("architecture", EVERY)
def test_joined_tails_predict_what_whole_ones_do(architecture: str) -> None:
    model = tiny(architecture)
    questions = read_questions(letter_pairs()[:3], model.tokenizer, model.info)
    if not can_pack(model.info, length=max(len(one.shared) for one in questions)):
        assert not model.info.packs or model.info.window is not None
        return
    for site in SITES:
        if len(model.info.layers_at(site)) < 4:
            continue
        variants = variants_of(vector(site), range(4), (-1, 0.5))
        whole = packed_logits(model, questions, variants, site=site)
        assert relative(packed_logits(model, questions, variants, site=site, joined=True), whole) < 1e-5
        later = packed_logits(model, questions, variants[3:], site=site, joined=True)
        assert relative(later, whole[:, 3:]) < 1e-5
        assert relative(whole[:, 1:], whole[:, :1].expand_as(whole[:, 1:])) > 1e-2


def test_a_block_computes_only_the_tails_of_the_layers_below_it() -> None:
    model, seen = tiny(), Counter()
    questions = read_questions(letter_pairs()[:1], model.tokenizer, model.info)
    prefix, tail = len(questions[0].prefix), len(questions[0].tail)
    handles = [
        block.register_forward_pre_hook(lambda _m, args, _k, i=i: seen.update({i: args[0].shape[1]}), with_kwargs=True)
        for i, block in enumerate(model.parts.blocks)
    ]
    variants = variants_of(vector(), range(4), (-1, 1))
    packed_logits(model, questions, variants, site="resid_post", joined=True)
    assert dict(seen) == {i: prefix + tail * (1 + 2 * i) for i in range(4)}
    seen.clear()
    packed_logits(model, questions, variants, site="mlp_out", joined=True)
    assert dict(seen) == {i: prefix + tail * (1 + 2 * (i + 1)) for i in range(4)}
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("site", SITES)
def test_edits_of_an_open_steer_act_on_tails_before_and_after_they_join(site: str) -> None:
    model, direction = tiny(), vector(site)
    with Steer(model) as steer:
        steer.clamp(vector(), layer=1, value=1.5, positions="all")
        steer.add(vector("resid_pre"), layer=2, coef=0.7, positions="generation")
        steer.add(vector("mlp_out"), layer=3, coef=-0.6, positions=slice(-3, None))
        packed = sweep(model, direction, letter_pairs()[:3], coefs=(-1, 1), path="packed")
        naive = sweep(model, direction, letter_pairs()[:3], coefs=(-1, 1), path="naive")
    plain = sweep(model, direction, letter_pairs()[:3], coefs=(-1, 1), path="naive")
    assert (packed.items - naive.items).abs().max() < 1e-5
    assert (packed.item_mass - naive.item_mass).abs().max() < 1e-5
    assert (plain.items - naive.items).abs().max() > 1e-2


def test_what_is_not_known_of_a_block_leaves_tails_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, direction = tiny(), vector()
    questions = read_questions(letter_pairs(), model.tokenizer, model.info)
    variants = variants_of(direction, range(4), (-1, 1))
    assert choose_route(model, questions, variants, path="auto", site="resid_post").joined
    monkeypatch.setattr(joining, "COLUMNS", {"attention_mask": (-2, -1)})
    route = choose_route(model, questions, variants, path="auto", site="resid_post")
    assert route.path == "packed"
    assert not route.joined
    assert route.check_error < 1e-5


def test_a_wrong_join_is_found_out_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model, direction = tiny(), vector()
    questions = read_questions(letter_pairs(), model.tokenizer, model.info)
    variants = variants_of(direction, range(4), (-1, 1))
    right = joining._grow

    def wrong(twins: torch.Tensor, *rest: object) -> object:
        return right(twins - 1, *rest)

    monkeypatch.setattr(joining, "_grow", wrong)
    route = choose_route(model, questions, variants, path="auto", site="resid_post")
    assert (route.path, route.joined) == ("packed", False)


def test_the_model_carries_no_hook_afterwards_nor_after_an_error() -> None:
    model = tiny()
    questions = read_questions(letter_pairs()[:1], model.tokenizer, model.info)
    variants = variants_of(vector(), range(4), (1,))
    packed_logits(model, questions, variants, site="resid_post", joined=True)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = model.parts.blocks[2].register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        packed_logits(model, questions, variants, site="resid_post", joined=True)
    handle.remove()
    for block in model.parts.blocks:
        assert not block._forward_hooks
        assert not block._forward_pre_hooks


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_other_backends_pack_without_joining(backend: str) -> None:
    from steerkit.backends.loading import load

    model = load(tiny().hf, tokenizer=tiny().tokenizer, backend=backend)
    assert not model.joins
    grid = sweep(model, vector(), letter_pairs()[:2], coefs=(1,))
    assert grid.path == "packed"
    assert (grid.items - sweep(tiny(), vector(), letter_pairs()[:2], coefs=(1,)).items).abs().max() < 1e-5
    batch = pad([[5, 6]], [2], pad_id=0)
    batch = type(batch)(
        batch.input_ids, batch.position, batch.prompt_length, None,
        Joining(torch.zeros(2, dtype=torch.long), torch.arange(2)),
    )  # fmt: skip
    with pytest.raises(ModelError, match="cannot join a pass"):
        model.forward(batch)
