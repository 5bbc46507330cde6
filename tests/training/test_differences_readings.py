"""What is read: exact zeros, exact signs, the response's tokens alone, in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from difference_cases import TOLD, dual, lorra, online, preferences, scit, twice
from tiny import tiny

from steerkit.adapters import attach
from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode
from steerkit.data.preference_items import Preference
from steerkit.errors import DataError
from steerkit.training.differences.aligned import align
from steerkit.training.differences.contrasts import find_contrast
from steerkit.training.differences.online_differences import OnlineDifferences
from steerkit.training.differences.states import read_states
from steerkit.training.teaching.instructions import Instructions

EVERY = list(range(12))


def take(source: OnlineDifferences, indices: list[int] = EVERY, **options: Any) -> Any:
    with attach(source.model, source.adapters) as attached:
        return source.take(attached, indices, **options)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_one_reading_on_both_sides_gives_exactly_zero(architecture: str) -> None:
    found = take(online(twice(), model=tiny(architecture)))
    assert found.shift.shape[0] == 2
    assert not found.shift.any()
    assert found.base is not None
    assert found.base.any()


def test_swapped_sides_give_exactly_the_negative() -> None:
    model = tiny()
    for contrast in (lorra(), find_contrast(scit(model)), find_contrast(dual(model))):
        found, turned = take(online(contrast, model=model)), take(online(contrast.swapped, model=model))
        assert found.shift.any()
        assert torch.equal(turned.shift, -found.shift)
        assert torch.equal(turned.base, found.base)


def test_instructions_swapped_are_sides_swapped() -> None:
    found = take(online(lorra()))
    turned = take(online(find_contrast(instructions=TOLD.swapped)))
    assert torch.equal(turned.shift, -found.shift)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_states_are_those_of_a_whole_pass(architecture: str) -> None:
    source = online(model=tiny(architecture))
    batch = source.samples.batch([0, 3, 5], pad_id=0)
    found = read_states(source.model, batch, layers=[0, 2], site="resid_post")
    with torch.no_grad():
        whole = source.model.hf(
            input_ids=batch.batch.input_ids,
            attention_mask=batch.batch.real.long(),
            position_ids=batch.batch.position.clamp(min=0),
            output_hidden_states=True,
        ).hidden_states
    for row, layer in zip(found, [0, 2], strict=True):
        assert torch.equal(row, whole[layer + 1][batch.scope])


def test_a_difference_is_that_of_two_separate_passes() -> None:
    """Naive: each response alone, each prompt rendered by hand, whole passes."""
    source, tokenizer = online(), tiny().tokenizer
    found = take(source)
    at = 0
    for i in EVERY:
        one = preferences()[i // 2]
        said = one.chosen if i % 2 == 0 else one.rejected
        spoken = len(said) + 1  # the space after the template's tag is the answer's
        states = []
        for text in (TOLD.good, TOLD.bad, None):
            system = [] if text is None else [{"role": "system", "content": text}]
            asked = Prompt([*system, *one.prompt.content])
            encoded = encode(asked, tokenizer, answer=said)
            with torch.no_grad():
                out = source.model.hf(torch.tensor([encoded.ids]), output_hidden_states=True).hidden_states
            states.append(torch.stack([out[2][0, -spoken:], out[3][0, -spoken:]]))
        end = at + spoken
        torch.testing.assert_close(found.shift[:, at:end], states[0] - states[1], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(found.base[:, at:end], states[2], atol=2e-5, rtol=1e-4)
        at = end
    assert at == found.shift.shape[1]


@pytest.mark.parametrize("most", [None, 3])
def test_only_the_responses_own_tokens_are_in_scope(most: int | None) -> None:
    model, contrast = tiny(), lorra()
    asked = [Prompt("Plain text. "), Prompt([{"role": "user", "content": "Hm?"}], prefill="So: ")]
    given = [Preference(prompt, "Yes, yes.", "No", id=str(i)) for i, prompt in enumerate(asked)]
    aligned = align(given, contrast, model, responses="both", max_tokens=most)
    assert aligned.names == ("0/chosen", "0/rejected", "1/chosen", "1/rejected")
    for samples in aligned.views.values():
        for i, sample in enumerate(samples):
            chosen = [token for token, inside in zip(sample.ids, sample.scope, strict=True) if inside]
            assert not set(chosen) & set(model.tokenizer.all_special_ids)
            wanted = (" " * (i >= 2) + ("Yes, yes.", "No")[i % 2])[:most]
            assert model.tokenizer.decode(chosen).replace(" ", "") == wanted.replace(" ", "")
            assert sample.scope.index(True) >= sample.prompt_length
            assert all(sample.scope[sample.scope.index(True) :])


@pytest.mark.parametrize("most", [None, 3])
def test_generation_takes_in_the_token_on_which_the_response_is_decided(most: int | None) -> None:
    options: dict[str, Any] = {"responses": "both", "max_tokens": most}
    own, longer = (align(preferences(), lorra(), tiny(), positions=p, **options) for p in ("response", "generation"))
    for tone, samples in longer.views.items():
        for short, sample in zip(own.views[tone], samples, strict=True):
            assert sample.ids == short.ids
            assert sample.inside == short.inside + 1
            assert sample.scope.index(True) == short.scope.index(True) - 1 == sample.prompt_length - 1


def test_differences_at_generation_are_those_of_the_response_and_one_before() -> None:
    short, longer = online(), online(positions="generation")
    some, more = take(short), take(longer)
    counts = longer.counts(EVERY)
    kept = torch.cat([torch.arange(count) > 0 for count in counts])
    torch.testing.assert_close(more.shift[:, kept], some.shift)
    torch.testing.assert_close(more.base[:, kept], some.base)
    assert int((~kept).sum()) == len(EVERY)
    assert bool((more.shift[:, ~kept].norm(dim=-1) > 0).all())


def test_the_token_before_the_response_must_be_the_same_in_every_prompt() -> None:
    given = [Preference(Prompt(""), "Yes", "No", id="q")]
    with pytest.raises(DataError, match=r"'q'.*last token before the response.*positions='response'"):
        align(given, lorra(), tiny(), responses="chosen", positions="generation")


def test_the_same_response_follows_every_prompt() -> None:
    aligned = online().aligned
    assert set(aligned.views) == {None, "good", "bad"}
    for i in range(len(aligned)):
        said = {tuple(s[i].ids[-s[i].inside :]) for s in aligned.views.values()}
        assert len(said) == 1
        assert aligned.longest(i) > len(aligned.plain[i].ids)


def test_the_coin_is_seeded_and_takes_one_response_each() -> None:
    def names(seed: int) -> tuple[str, ...]:
        return align(preferences(), lorra(), tiny(), seed=seed).names

    assert names(3) == names(3)
    assert len(names(0)) == 6
    assert len({names(seed) for seed in range(8)}) > 1
    assert {name.split("/")[1] for name in names(3)} == {"chosen", "rejected"}
    assert len(align(preferences(), find_contrast(dual(tiny())), tiny())) == 12


def test_subtraction_is_in_float32_also_for_a_bfloat16_model() -> None:
    source = online(model=tiny(dtype=torch.bfloat16))
    source.model.hf.to(torch.bfloat16)
    sides = []
    for reading in (source.contrast.positive, source.contrast.negative):
        batch = source.batch(EVERY, reading)
        sides.append(read_states(source.model, batch, layers=[1, 2], site="resid_post"))
    found = take(source)
    assert found.shift.dtype == torch.float32
    assert torch.equal(found.shift, sides[0] - sides[1])
    rounded = (sides[0].bfloat16() - sides[1].bfloat16()).float()
    assert not torch.equal(found.shift, rounded)


def test_lorra_is_scit_with_nothing_taught() -> None:
    model = tiny()
    plain = take(online(lorra(), model=model))
    untaught = take(online(find_contrast(scit(model, zero=True)), model=model))
    assert torch.equal(plain.shift, untaught.shift)
    assert torch.equal(plain.base, untaught.base)
    taught = take(online(find_contrast(scit(model)), model=model))
    assert not torch.equal(plain.shift, taught.shift)


def test_dual_reads_two_models_without_instructions() -> None:
    model = tiny()
    taught = dual(model)
    source = online(find_contrast(taught), model=model)
    assert set(source.aligned.views) == {None}
    found = take(source)
    states = []
    for name in ("good", "bad"):
        with taught.on(model, name):
            batch = source.samples.batch(EVERY, pad_id=0)
            states.append(read_states(model, batch, layers=[1, 2], site="resid_post"))
    assert torch.equal(found.shift, states[0] - states[1])
    assert torch.equal(found.base, states[0])
    onto_base = take(online(find_contrast(taught, start="base"), model=model))
    assert torch.equal(onto_base.shift, found.shift)
    assert not torch.equal(onto_base.base, found.base)


def test_the_default_instructions_are_used_without_others() -> None:
    assert find_contrast().instructions == Instructions()
    assert find_contrast(scit(tiny())).instructions == TOLD


def test_a_pool_gives_every_token_the_mean_of_its_response() -> None:
    each, pooled = take(online()), take(online(pool="example"))
    at = 0
    for sample in online().samples:
        end = at + sample.inside
        wanted = each.shift[:, at:end].mean(dim=1, keepdim=True).expand(-1, sample.inside, -1)
        assert torch.equal(pooled.shift[:, at:end], wanted)
        at = end
    assert torch.equal(each.base, pooled.base)
