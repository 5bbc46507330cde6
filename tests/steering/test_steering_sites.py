"""Reading and writing at every site, held against hooks of plain PyTorch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from site_oracle import CASES, MODULES, WIDER, logits, states
from tiny import tiny
from torch import Tensor

import steerkit as sk
from steerkit.backends.base import pad
from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode
from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.errors import LayerError, VectorError
from steerkit.evaluation.sweeps import sweep
from steerkit.recording import record
from steerkit.steering import Edit, Steer
from steerkit.steering.strength import raw_coef
from steerkit.vectors import SteeringVector

TEXT = Prompt([{"role": "user", "content": "Is the sea dry?"}], prefill="I think")
HYBRIDS = ("jamba", "lfm2", "qwen3_next")


@cache
def model_of(architecture: str) -> Any:
    return tiny(architecture, **WIDER.get(architecture, {}))


def pairs() -> Pairs:
    texts = ("Is the sea dry? (A) Yes (B) No", "Do cows fly over the moon? (A) Yes (B) No")
    prompts = [Prompt([{"role": "user", "content": text}]) for text in texts]
    return Pairs([ContrastPair(Side(one, "(A)"), Side(one, "(B)"), id=str(i)) for i, one in enumerate(prompts)])


def close(found: Tensor, wanted: Tensor) -> None:
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.parametrize(("architecture", "site"), CASES)
def test_what_is_recorded_is_what_a_plain_hook_sees(architecture: str, site: Any) -> None:
    model = model_of(architecture)
    store = record(model, pairs(), site=site, read="last", progress=False)
    assert store.hidden_size == model.info.width(site)
    if site == "z" and architecture in WIDER:
        assert store.hidden_size == 64 != model.info.hidden_size
    for number, pair in enumerate(pairs()):
        for side, rows in ((pair.positive, "positive"), (pair.negative, "negative")):
            ids = torch.tensor([encode(side.prompt, model.tokenizer, answer=side.answer).ids])
            for layer in store.layers:
                seen = states(model.hf, architecture, ids, layer, site)
                close(getattr(store[layer], rows)[number], seen[0, -1])


SCOPED = [(*case, positions) for case in CASES for positions in ("generation", slice(2, 5))]
SCOPED += [(architecture, "z", positions) for architecture in MODULES for positions in ("all", "prompt")]


@pytest.mark.parametrize(("architecture", "site", "positions"), SCOPED)
def test_what_is_added_is_what_a_plain_hook_adds(architecture: str, site: Any, positions: Any) -> None:
    model = model_of(architecture)
    one = encode(TEXT, model.tokenizer)
    begin = one.prompt_length - 1
    where = {"all": slice(None), "prompt": slice(0, one.prompt_length), "generation": slice(begin, None)}
    vector = SteeringVector(torch.randn(4, model.info.width(site)), layers=range(4), site=site)
    steer = Steer(model).add(vector, layer=[1, 2], coef=0.5, positions=positions)
    batch = pad([one.ids], [one.prompt_length], pad_id=0)
    edits = [(layer, 0.5 * vector.at(layer)) for layer in (1, 2)]
    chosen = positions if isinstance(positions, slice) else where[positions]
    wanted = logits(model.hf, architecture, batch.input_ids, edits, site, chosen)
    close(steer.forward(batch), wanted)
    assert float((wanted - model.forward(batch)).abs().max()) > 1e-3


@pytest.mark.parametrize("architecture", MODULES)
@pytest.mark.parametrize("site", ["z", "attn_out", "mlp_out"])
def test_every_generated_token_is_steered(architecture: str, site: Any) -> None:
    model = model_of(architecture)
    vector = 3 * torch.randn(model.info.width(site))
    texts = [TEXT, Prompt("Hi.")]
    answers = Steer(model).add(vector, layer=1, site=site).generate(texts, max_new_tokens=5, do_sample=False)
    for text, answer in zip(texts, answers, strict=True):
        one = encode(text, model.tokenizer)
        ids = torch.tensor([one.ids])
        for _ in range(5):
            scope = slice(one.prompt_length - 1, None)
            found = logits(model.hf, architecture, ids, [(1, vector)], site, scope)[0, -1]
            ids = torch.cat([ids, found.argmax().view(1, 1)], dim=1)
            if int(ids[0, -1]) == model.tokenizer.eos_token_id:
                break
        assert answer == model.tokenizer.decode(ids[0, len(one.ids) :], skip_special_tokens=True)


@pytest.mark.parametrize(("architecture", "site"), CASES)
def test_the_paths_of_a_sweep_agree_at_every_site(architecture: str, site: Any) -> None:
    model = model_of(architecture)
    vector = SteeringVector(torch.randn(4, model.info.width(site)), layers=range(4), site=site)
    grids = [sweep(model, vector, pairs(), coefs=(-1, 1), path=path) for path in ("auto", "cached", "naive")]
    for grid in grids[:2]:
        assert (grid.log_positive - grids[2].log_positive).abs().max() < 1e-4
    assert grids[0].path == "packed"


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gpt_neox", "deepseek_v3"])
def test_heads_add_what_their_projection_makes_of_them(architecture: str) -> None:
    model = model_of(architecture)
    delta = torch.randn(model.info.width("z"))
    weight = model.parts.heads(1).weight.detach()
    through = delta @ weight if architecture == "gpt2" else weight @ delta
    by_heads = Steer(model).add(delta, layer=1, site="z", positions="all").forward(TEXT)
    close(by_heads, Steer(model).add(through, layer=1, site="attn_out", positions="all").forward(TEXT))


@pytest.mark.parametrize("architecture", ["gemma2", "olmo2"])
def test_behind_a_norm_attention_adds_something_else(architecture: str) -> None:
    """`attn_out` is what is added to the stream, after the norm; the projection's own output is not it."""
    model = model_of(architecture)
    delta = torch.randn(model.info.width("z"))
    through = model.parts.heads(1).weight.detach() @ delta
    by_heads = Steer(model).add(delta, layer=1, site="z", positions="all").forward(TEXT)
    by_attn = Steer(model).add(through, layer=1, site="attn_out", positions="all").forward(TEXT)
    assert float((by_heads - by_attn).norm() / by_heads.norm()) > 1e-3


def test_grouped_queries_keep_all_their_heads() -> None:
    model = model_of("llama")
    assert model.hf.config.num_key_value_heads == 2
    store = record(model, pairs(), site="z", progress=False)
    assert (store.num_heads, model.info.heads, model.info.head_size) == (4, 4, 8)
    parts = store[1].positive.view(len(store), 4, 8)
    assert len({tuple(part.tolist()) for part in parts[0]}) == 4


def test_chosen_heads_of_several_layers_act_at_once() -> None:
    model = model_of("qwen3")
    meta = {"heads": 4}
    vector = SteeringVector(torch.randn(4, 64), layers=range(4), site="z", meta=meta).heads([(1, 0), (3, 2), (3, 3)])
    steer = Steer(model).add(vector, coef=2, positions="all")
    assert [one.layer for one in steer.receipts] == [1, 3]
    batch = model.encode(TEXT)
    edits = [(layer, 2 * vector.at(layer)) for layer in (1, 3)]
    close(steer.forward(batch), logits(model.hf, "qwen3", batch.input_ids, edits, "z", slice(None)))
    assert not vector.at(1)[16:].any()


def test_rows_of_a_batch_have_their_own_heads() -> None:
    model = model_of("qwen3")
    vector = SteeringVector(torch.randn(4, 64), layers=range(4), site="z", meta={"heads": 4})
    rows = [[Edit(vector.heads([(1, 0)]), positions="all")], [], [Edit(vector.heads([(2, 3)]), positions="all")]]
    together = Steer(model).rows(rows).forward([TEXT] * 3)
    for row, edits in enumerate(rows):
        alone = Steer(model).rows([edits]).forward([TEXT]) if edits else model.forward([TEXT])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_all_layers_are_those_that_have_the_site(architecture: str) -> None:
    model = tiny(architecture)
    assert model.info.lacks["z"] == [0, 2]
    store = record(model, pairs(), site="z", progress=False)
    assert store.layers == (1, 3)
    vector = SteeringVector(torch.randn(2, 32), layers=[1, 3], site="z")
    grid = sweep(model, vector, pairs(), coefs=(-1, 1))
    assert grid.layers == (1, 3)
    assert (grid.items - sweep(model, vector, pairs(), coefs=(-1, 1), path="naive").items).abs().max() < 1e-4
    assert [one.layer for one in Steer(model).add(torch.ones(32), layer="all", site="z").receipts] == [1, 3]


def computed(model: Any, act: Any, error: type[Exception], message: str) -> None:
    """The call is refused with this message, and the model has not run."""
    runs: list[int] = []
    handle = model.parts.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    with pytest.raises(error, match=message):
        act()
    handle.remove()
    assert not runs


@pytest.mark.usefixtures("as_user")
def test_a_layer_without_the_site_is_refused_before_any_compute() -> None:
    model = tiny("jamba")
    said = "block 2 of jamba has no site 'z'; blocks 1, 3 have it"
    bare = SteeringVector(torch.randn(4, 32), layers=range(4), site="z")
    computed(model, lambda: record(model, pairs(), site="z", layers=[1, 2]), LayerError, said)
    computed(model, lambda: Steer(model).add(torch.ones(32), layer=2, site="z"), LayerError, said)
    computed(model, lambda: Steer(model).add(bare, layer=2), LayerError, said)
    computed(model, lambda: sweep(model, bare, pairs(), layers=[2]), LayerError, said)
    computed(model, lambda: sweep(model, bare, pairs()), VectorError, "block 0 of tiny-jamba has no site 'z'")
    computed(model, lambda: Steer(model).add(bare, layer="all"), VectorError, "block 0 of tiny-jamba has no site 'z'")
    none = tiny("mamba")
    computed(none, lambda: record(none, pairs(), site="z"), LayerError, "mamba has no site 'z' in any of its blocks")
    computed(none, lambda: Steer(none).add(bare, layer=1), LayerError, "mamba has no site 'z' in any of its blocks")
    with pytest.raises(VectorError, match="tiny-mamba has no attention heads"):
        bare.check_fits(none.info.as_dict())


@pytest.mark.usefixtures("as_user")
def test_what_does_not_fit_is_refused_before_any_compute() -> None:
    model = model_of("qwen3")
    wide = SteeringVector(torch.randn(2, 64), layers=[1, 2], site="z", meta={"heads": 8})
    flat = SteeringVector(torch.randn(2, 32), layers=[1, 2])
    for act, error, said in (
        (lambda: Steer(model).add(wide, layer=1), VectorError, "8 heads of 8 at z, tiny-qwen3 has 4 heads of 16"),
        (lambda: Steer(model).add(torch.ones(32), layer=1, site="z"), VectorError, r"width 32, .* 64 at z \(4 heads"),
        (lambda: Steer(model).add(torch.ones(64), layer=1), VectorError, "hidden size 64, tiny-qwen3 has 32"),
        (lambda: Steer(model).add(flat, layer=1, site="z"), VectorError, "belongs to site 'resid_post', not 'z'"),
        (lambda: Steer(model).add(flat), LayerError, "layer=None is not valid"),
        (lambda: Edit(torch.ones(64), site="z"), LayerError, "layer=None is not valid"),
        (lambda: Steer(model).add(flat, layer=1, site="head"), LayerError, "site='head' is not valid"),
        (lambda: record(model, pairs(), site="heads"), LayerError, "site='heads' is not valid"),
        (lambda: sweep(model, wide, pairs()), VectorError, "8 heads of 8 at z"),
        (lambda: sweep(model, SteeringVector(torch.ones(32), layers=1, site="z"), pairs()), VectorError, "width of 32"),
    ):
        computed(model, act, error, said)


def test_every_verb_takes_heads_that_are_wider_than_the_stream(tmp_path: Path) -> None:
    model = model_of("qwen3")
    several = Pairs([*pairs()] * 4)
    plan = sk.plan_recording(model, several, site="z", path=tmp_path / "s")
    store = sk.record(model, several, site="z", path=tmp_path / "s", progress=False)
    assert (
        abs(plan.bytes - sum(one.stat().st_size for one in (tmp_path / "s").rglob("*.safetensors"))) < 0.2 * plan.bytes
    )
    again = sk.ActivationStore.open(tmp_path / "s", model=model)
    assert (again.hidden_size, again.num_heads, again[2].positive.shape) == (64, 4, (8, 64))
    assert "z, 4 heads of 16" in repr(again)
    vector = sk.extract(again)
    assert sk.separation(store, vector).layers == sk.projection(store, vector).layers == (0, 1, 2, 3)
    assert sk.principal_components(store).layers == (0, 1, 2, 3)
    assert sk.layer_similarity(vector).values.shape == (4, 4)
    assert sk.match_norms({"a": vector, "b": 2 * vector})["a"].num_heads == 4
    assert len(sk.token_projection(model, TEXT, vector, layer=1).texts) == 1
    for made in (sk.separation(store, vector), sk.head_separation(store, vector), sk.layer_similarity(vector)):
        assert made.plot().data
    for unit in ("residual", "gap"):
        steer = Steer(model).add(vector, layer=2, coef=0.1, unit=unit)
        assert steer.generate(["Hi"], max_new_tokens=2)
        assert steer.receipts[0].tokens > 0
    Steer(model).ablate(vector, layer=2).clamp(vector, layer=3, value=1).forward(["Hi"])
    some = vector.heads([(2, 1)])
    size = Steer(model).add(some, coef=0.5, unit="gap").edits[0]
    assert raw_coef(size, layer=2, norm=float(some.norms[0])) == pytest.approx(
        0.5 * abs(some.meta["gap"][2]) / float(some.norms[0])
    )
