from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch
from questions_data import choice, letter_pairs, word_pairs
from tiny import EVERY, tiny, tiny_hf
from torch import Tensor

from steerkit.backends.base import pad
from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.errors import DataError, LayerError, MismatchError, ModelError, VectorError
from steerkit.evaluation import routes
from steerkit.evaluation.choices import score_choices
from steerkit.evaluation.packed_path import packed_logits
from steerkit.evaluation.questions import read_questions
from steerkit.evaluation.sweeps import _check_options, sweep
from steerkit.evaluation.variants import UNSTEERED, variants_of
from steerkit.packing import can_pack
from steerkit.points import Point
from steerkit.positions import Pass
from steerkit.steering import Steer
from steerkit.vectors import SteeringVector

COEFS = (-1, 0, 0.5, 1)


def vector(layers: int = 4, hidden: int = 32) -> SteeringVector:
    return SteeringVector(2 * torch.randn(layers, hidden), layers=range(layers))


def by_hand(model: object, pair: ContrastPair, layer: int, shift: Tensor) -> Tensor:
    """CAA's own way, written out: full text up to `(`, a hook that adds from the template's last token on."""
    question = read_questions([pair], model.tokenizer, model.info)[0]
    ids = torch.tensor([question.shared])

    def add(_module: object, _args: object, output: object) -> object:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[:, question.prompt_length - 1 :] += shift
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = model.parts.blocks[layer].register_forward_hook(add)
    with torch.no_grad():
        p = model.hf(ids).logits[0, -1].softmax(-1)
    handle.remove()
    both = p[[question.positive[0], question.negative[0]]]
    return torch.stack([both[0] / both.sum(), both.sum()])


@pytest.mark.parametrize("architecture", EVERY)
def test_every_path_gives_what_one_forward_pass_a_cell_gives(architecture: str) -> None:
    model, pairs, direction = tiny(architecture), letter_pairs()[:3], vector()
    cells = [[[by_hand(model, pair, at, c * direction.at(at)) for pair in pairs] for c in COEFS] for at in range(4)]
    truth = torch.stack([torch.stack([torch.stack(items) for items in row]) for row in cells])
    assert (truth[..., 0] - truth[:, 1:2, :, 0]).abs().max() > 0.02
    longest = max(len(one.shared) for one in read_questions(pairs, model.tokenizer, model.info))
    for path in ("packed", "cached", "naive") if can_pack(model.info, length=longest) else ("auto", "cached", "naive"):
        grid = sweep(model, direction, pairs, coefs=COEFS, path=path, batch_size=2)
        assert grid.path == path.replace("auto", "cached")
        assert (grid.items - truth[..., 0]).abs().max() < 1e-4
        assert (grid.item_mass - truth[..., 1]).abs().max() < 1e-4


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen3", "olmo2"])
def test_packed_logits_are_the_plain_ones_over_the_whole_vocabulary(architecture: str) -> None:
    model, direction = tiny(architecture), vector()
    questions = read_questions(letter_pairs(), model.tokenizer, model.info)
    assert len(questions[0].tail) > 1
    variants = variants_of(direction, direction.layers, COEFS)
    logits = packed_logits(model, questions, variants, site="resid_post")
    for row, question in enumerate(questions):
        alone = model.forward(pad([question.shared], [question.prompt_length], pad_id=0))[0, -1]
        assert (logits[row, 0] - alone).abs().max() < 1e-4 * alone.abs().max()


def test_auto_packs_and_says_how_well() -> None:
    grid = sweep(tiny(), vector(), letter_pairs())
    assert grid.path == "packed"
    assert grid.check_error is not None
    assert grid.check_error < 1e-4
    assert "packed equals plain" in grid.reason


def test_chunks_of_variants_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, direction = tiny(), vector()
    whole = sweep(model, direction, letter_pairs(), coefs=COEFS)
    monkeypatch.setattr(routes, "TAIL_COLUMNS", 9)
    monkeypatch.setattr(routes, "CACHED_TOKENS", 200)
    for path in ("packed", "cached"):
        chunked = sweep(model, direction, letter_pairs(), coefs=COEFS, path=path)
        assert torch.allclose(chunked.items, whole.items, atol=1e-5)


def test_a_window_shorter_than_the_text_takes_the_cached_path_and_is_right() -> None:
    model, direction = tiny("mistral", sliding_window=16), vector()
    grid = sweep(model, direction, letter_pairs(), coefs=COEFS)
    assert grid.path == "cached"
    assert "window of 16" in grid.reason
    naive = sweep(model, direction, letter_pairs(), coefs=COEFS, path="naive")
    assert (grid.items - naive.items).abs().max() < 1e-4
    assert (grid.items - sweep(tiny("mistral"), direction, letter_pairs(), coefs=COEFS).items).abs().max() > 1e-3
    with pytest.raises(ModelError, match="window of 16"):
        sweep(model, direction, letter_pairs(), path="packed")


def test_a_model_that_does_not_keep_to_the_mask_is_found_out() -> None:
    model, direction = tiny(), vector()
    right, plain = sweep(model, direction, letter_pairs()), model._packed_mask
    model._packed_mask = lambda mask: plain(torch.ones_like(mask).tril())
    grid = sweep(model, direction, letter_pairs())
    assert grid.path == "cached"
    assert grid.check_error is not None
    assert grid.check_error > 1e-4
    assert (grid.items - right.items).abs().max() < 1e-4
    with pytest.raises(ModelError, match="packed differs from plain"):
        sweep(model, direction, letter_pairs(), path="packed")


def test_a_model_that_refuses_the_mask_is_swept_by_its_cache() -> None:
    model = tiny()

    def refuse(mask: Tensor) -> Tensor:
        raise ValueError("4D masks are not supported")

    model._packed_mask = refuse
    grid = sweep(model, vector(), letter_pairs())
    assert grid.path == "cached"
    assert "4D masks are not supported" in grid.reason


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "attn_out", "mlp_out"])
def test_other_sites_are_swept_too(site: str) -> None:
    model, values = tiny(), torch.randn(4, 32)
    direction = SteeringVector(values, layers=range(4), site=site)
    packed, naive = (sweep(model, direction, letter_pairs(), path=path) for path in ("packed", "naive"))
    assert (packed.items - naive.items).abs().max() < 1e-4


def test_coefficient_zero_is_the_unsteered_model_bit_for_bit() -> None:
    model, direction = tiny(), vector()
    grid = sweep(model, direction, letter_pairs(), coefs=COEFS)
    assert torch.equal(grid.items[:, 1], grid.unsteered.items.p_matching.expand(4, -1))
    questions = read_questions(letter_pairs(), model.tokenizer, model.info)[:1]
    still = packed_logits(model, questions, [UNSTEERED] * 4, site="resid_post")
    steered = packed_logits(
        model, questions, [UNSTEERED, *variants_of(direction, [1], [-1, 0.5, 1])[1:]], site="resid_post"
    )
    assert torch.equal(still[:, 0], steered[:, 0])
    assert not torch.equal(still[:, 1], steered[:, 1])


def test_a_cell_is_what_steer_and_score_choices_give() -> None:
    model, direction = tiny("qwen3"), vector()
    grid = sweep(model, direction, letter_pairs(), coefs=COEFS)
    for layer in grid.layers:
        for coef in (-1, 0.5, 1):
            with Steer(model) as steer:
                steer.add(direction, layer=layer, coef=coef)
                scores = score_choices(model, letter_pairs())
            cell = grid.at(layer=layer, coef=coef)
            assert (scores.items.p_matching - cell.items.p_matching).abs().max() < 1e-4
            assert (scores.items.mass - cell.items.mass).abs().max() < 1e-4
            assert cell.items.id == scores.items.id
            assert cell.items.letter == scores.items.letter == ("B", "A", "B", "A", "B")


def test_edits_of_an_open_steer_act_in_every_cell() -> None:
    model, direction, other = tiny(), vector(), vector()
    with Steer(model) as steer:
        steer.add(other, layer=1, coef=1, positions="all").ablate(other, layer=2)
        grids = [sweep(model, direction, letter_pairs(), path=path) for path in ("packed", "cached", "naive")]
        scores = score_choices(model, letter_pairs())
    for grid in grids:
        assert (grid.items - grids[2].items).abs().max() < 1e-4
        assert (grid.unsteered.items.p_matching - scores.items.p_matching).abs().max() < 1e-4
    assert (grids[0].items - sweep(model, direction, letter_pairs()).items).abs().max() > 1e-3


def test_the_model_is_itself_afterwards() -> None:
    model = tiny()
    before = model.forward("Is the sea dry?")
    sweep(model, vector(), letter_pairs())
    assert torch.equal(model.forward("Is the sea dry?"), before)
    assert not model._taps._taps


def test_a_planted_vector_moves_the_odds_as_the_closed_form_says() -> None:
    r"""Without a final norm, $c (u_A - u_B)$ at the last block's output adds $c |u_A - u_B|^2$ to the log-odds."""
    model = tiny()
    model.hf.model.norm = torch.nn.Identity()
    a, b = (model.tokenizer.convert_tokens_to_ids(letter) for letter in "AB")
    difference = (model.hf.lm_head.weight[a] - model.hf.lm_head.weight[b]).detach()
    pairs = letter_pairs()
    grid = sweep(model, SteeringVector(difference, layers=3), pairs, coefs=(-0.5, 0, 0.5))
    odds = torch.logit(grid.items)
    step = 0.5 * float(difference @ difference)
    for item, pair in enumerate(pairs):
        sign = 1 if pair.positive_letter == "A" else -1
        assert float(odds[0, 2, item] - odds[0, 1, item]) == pytest.approx(sign * step, abs=1e-4)
        assert float(odds[0, 0, item] - odds[0, 1, item]) == pytest.approx(-sign * step, abs=1e-4)
    assert float(grid.effect.a_items[0]) > 0 > float(grid.effect.b_items[0])
    assert grid.letter_bias[0, 2] > grid.letter_bias[0, 1]


def test_a_string_prompt_of_one_token_has_no_prefix() -> None:
    model, direction = tiny(chat=False), vector()
    pair = ContrastPair(Side(Prompt("Q"), "A"), Side(Prompt("Q"), "B"), id="short")
    assert read_questions([pair], model.tokenizer, model.info)[0].prefix == ()
    grids = [sweep(model, direction, [pair], path=path) for path in ("packed", "cached", "naive")]
    assert all((grid.items - grids[2].items).abs().max() < 1e-4 for grid in grids)


def test_in_bfloat16_the_looser_tolerance_holds() -> None:
    model, direction = tiny("llama", seed=3), vector()
    half = type(model)(tiny_hf(seed=3).to(torch.bfloat16), model.tokenizer, name="half")
    packed, naive = (sweep(half, direction, letter_pairs(), path=path) for path in ("auto", "naive"))
    assert packed.path == "packed"
    assert packed.check_error is not None
    assert 0 < packed.check_error < 5e-2
    assert (packed.items - naive.items).abs().mean() < 0.05


LETTERS = letter_pairs()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pairs": []}, DataError, "no pairs given"),
        ({"coefs": ()}, DataError, "coefs is empty"),
        ({"coefs": (0, float("nan"))}, DataError, "not a finite number"),
        ({"coefs": (1, 1.0)}, DataError, "twice"),
        ({"layers": 4}, LayerError, "layer 4 does not exist"),
        ({"layers": [0, 0]}, LayerError, "twice"),
        ({"vector": vector(2), "layers": 3}, VectorError, "no row for layer 3"),
        ({"vector": vector(4, 16)}, VectorError, "hidden size 16"),
        ({"vector": vector(6)}, VectorError, "layers up to 5"),
        ({"batch_size": 0}, DataError, "batch_size=0"),
        ({"pairs": word_pairs()}, DataError, "'w0'.*8 and 2 tokens"),
        ({"pairs": [*LETTERS, choice("x" * 600, "(A)", "(B)", name="long")]}, DataError, "'long' has .*context is 512"),
        ({"pairs": [choice("Is it?", "(A)", "", name="half")]}, DataError, "'half' lacks an answer"),
        ({"pairs": [choice("Is it?", "(A)", "(A) or", name="part")]}, DataError, "'part'"),
        (
            {"pairs": [ContrastPair(Side(Prompt("a"), "A"), Side(Prompt("b"), "B"), id="two")]},
            DataError,
            "'two' has two different prompts",
        ),
    ],
)
def test_bad_input_is_refused_before_any_compute(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    model = tiny()
    given = {"vector": vector(), "pairs": LETTERS, "layers": "all", "coefs": (-1, 1), "batch_size": 8, **change}

    def forbidden(*_: object, **__: object) -> AbstractContextManager[None]:
        raise AssertionError("something was computed")

    model.forward = forbidden
    with pytest.raises(error, match=message):
        sweep(model, given.pop("vector"), given.pop("pairs"), **given)


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises(DataError, match="path='fast' is not known"):
        _check_options(8, "fast")


def test_a_vector_of_another_model_is_refused_with_the_way_out() -> None:
    other = {**tiny("llama", seed=5).info.as_dict(), "fingerprint": "0" * 16}
    strange = SteeringVector(torch.randn(4, 32), layers=range(4), meta={"model": other})
    with pytest.raises(MismatchError, match="leave its provenance behind"):
        sweep(tiny(), strange, LETTERS)


def test_the_hook_writes_out_of_place() -> None:
    model, seen = tiny(), []

    def keep(hidden: Tensor, _: Pass) -> None:
        seen.append((hidden, hidden.clone()))

    with model.hook(Point(1), keep):
        sweep(model, vector(), Pairs(LETTERS[:2]), coefs=(1,))
    assert all(torch.equal(now, then) for now, then in seen)
