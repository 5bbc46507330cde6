"""What cannot be used is refused before anything is computed or written."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from difference_cases import TOLD, adapter, dual, lorra, online, preferences, scit, twice
from tiny import tiny

from steerkit.adapters import attach
from steerkit.data.chat import Prompt
from steerkit.data.preference_items import Preference
from steerkit.errors import DataError, InputError, LayerError, MismatchError, ModelError
from steerkit.training.differences.aligned import align
from steerkit.training.differences.collecting import collect_differences
from steerkit.training.differences.contrasts import Contrast, Reading, find_contrast, hash_weights
from steerkit.training.differences.difference_table import check_signal
from steerkit.training.differences.layers import default_layers, hidden_state_indices, rahf_layers, resolve_targets
from steerkit.training.teaching.instructions import Instructions
from steerkit.training.teaching.taught import Taught

pytestmark = pytest.mark.usefixtures("as_user")
ASKED = Prompt([{"role": "user", "content": "Hm?"}])


def collect(given: Any = None, **changes: Any) -> Any:
    model = changes.pop("model", None) or tiny()
    options = {"instructions": TOLD, "layers": [1, 2], "progress": False, **changes}
    return collect_differences(model, given or preferences(), **options)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"layers": [4]}, LayerError, "4 blocks"),
        ({"layers": [-1]}, LayerError, "-1"),
        ({"layers": []}, LayerError, "empty"),
        ({"layers": [1, 1]}, LayerError, "twice"),
        ({"layers": "1,4"}, LayerError, "first,last,step"),
        ({"site": "middle"}, LayerError, "resid_post"),
        ({"site": "z", "model": tiny("jamba")}, LayerError, "block 2 of jamba has no site 'z'"),
        ({"pool": "mean"}, InputError, "'example'"),
        ({"dtype": "int8"}, InputError, "bfloat16"),
        ({"keep_base": "yes"}, InputError, "True or False"),
        ({"responses": "best"}, InputError, "chosen"),
        ({"positions": "all"}, InputError, "'response', 'generation'"),
        ({"max_tokens": 0}, InputError, "max_tokens"),
        ({"max_tokens": 2.5}, InputError, "max_tokens"),
        ({"batch_tokens": 0}, InputError, "batch_tokens"),
        ({"shard_responses": 0}, InputError, "shard_responses"),
        ({"start": "good"}, InputError, "'taught'"),
    ],
)
def test_an_option_that_is_not_valid(
    changes: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        collect(path=tmp_path / "d", **changes)
    assert not (tmp_path / "d").exists()


def test_no_preferences() -> None:
    with pytest.raises(DataError, match="at least one"):
        align([], lorra(), tiny())


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("Yes</s>no", "belongs to the template"),
        ("x" * 600, "context is 512"),
    ],
)
def test_a_response_that_cannot_be_read(chosen: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as raised:
        collect([Preference(ASKED, chosen, "No.", id="q7")], responses="chosen", path=tmp_path / "d")
    assert "'q7'" in str(raised.value)
    assert not (tmp_path / "d").exists()


def test_an_instruction_that_leaves_no_room_is_told_before(tmp_path: Path) -> None:
    long = Instructions("Be glad. " * 80, "Be grim. " * 80)
    with pytest.raises(DataError, match="context is 512"):
        collect(instructions=long, path=tmp_path / "d")


def test_readings_that_are_the_same_are_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="opposites"):
        Instructions("Be glad.", "Be  glad.")
    model = tiny()
    idle = Taught("scit", TOLD, {"taught": adapter(model, 1)})
    late = Contrast("dual", Reading(("good",)), Reading(("bad",)), weights={
        "good": adapter(model, 1, blocks=[3]), "bad": adapter(model, 2, blocks=[3])})  # fmt: skip
    with attach(model, late.weights) as attached:
        source = online(late, model=model)
        assert not source.take(attached, [0, 1]).shift.any()
    taught = Taught("dual", None, dict(late.weights))
    with pytest.raises(DataError, match=r"exactly 0 at layer 1 \(2 of 2 layers\)"):
        collect(model=model, taught=taught, instructions=None, path=tmp_path / "d")
    assert not (tmp_path / "d").exists()
    assert idle.mode == "scit"


def test_dual_with_good_as_bad_is_refused() -> None:
    model = tiny()
    one = adapter(model, 1)
    found = dual(model)
    object.__setattr__(found, "weights", {"good": one, "bad": adapter(model, 1)})
    with pytest.raises(DataError, match="same"):
        find_contrast(found)
    assert hash_weights(one) != hash_weights(adapter(model, 2))


def test_twice_the_same_reading_is_refused_by_the_probe() -> None:
    source = online(twice())
    zero, base = torch.zeros(2), torch.ones(2)
    with attach(source.model, {}) as attached:
        norms = source.take(attached, [0, 1]).shift.norm(dim=-1).mean(1)
    with pytest.raises(DataError, match="exactly 0"):
        check_signal([1, 2], norms, zero, base, epsilon=1e-7)


@pytest.mark.parametrize(
    ("norm", "noise", "epsilon", "passes"),
    [(1.0, 0.3, 1e-7, True), (1.0, 0.34, 1e-7, False), (0.0021, 0.0, 2**-7, True), (0.0019, 0.0, 2**-7, False)],
)
def test_the_noise_floor(norm: float, noise: float, epsilon: float, passes: bool) -> None:
    """Three times the measured noise, and a quarter of the dtype's step of a state that is 1 long."""
    given = (torch.tensor([9.0, norm]), torch.tensor([0.0, noise]), torch.ones(2))
    if passes:
        check_signal([1, 2], *given, epsilon=epsilon)
        return
    with pytest.raises(DataError, match=r"at layer 2 \(1 of 2 layers\)"):
        check_signal([1, 2], *given, epsilon=epsilon)


def test_a_difference_of_nan_is_no_difference() -> None:
    with pytest.raises(DataError, match="noise floor"):
        check_signal([1], torch.tensor([torch.nan]), torch.zeros(1), torch.ones(1), epsilon=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_states_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        model.parts.blocks[2].mlp.down_proj.weight[0, 0] = value
    with pytest.raises(ModelError, match="layer 2 are NaN or infinite"):
        collect(model=model, path=tmp_path / "d")
    assert not (tmp_path / "d").exists()
    assert len(collect(model=model, layers=[0, 1])) == 6


def test_values_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        model.parts.blocks[2].mlp.down_proj.weight[0] *= 1e6
    with pytest.raises(InputError, match="too large for dtype='float16'"):
        collect(model=model, dtype="float16", path=tmp_path / "d")
    assert len(collect(model=model, dtype="bfloat16")) == 6


def test_instructions_that_do_not_go_with_what_was_taught() -> None:
    model = tiny()
    with pytest.raises(MismatchError, match="taught with"):
        collect(model=model, taught=scit(model), instructions=Instructions("Be kind.", "Be rude."))
    with pytest.raises(InputError, match="two models"):
        collect(model=model, taught=dual(model), instructions=TOLD)


def test_a_mean_over_all_cannot_be_computed_anew() -> None:
    with pytest.raises(InputError, match="collect"):
        online(pool="global")


def test_a_contrast_names_only_what_it_has() -> None:
    with pytest.raises(InputError, match="'taught' acts"):
        Contrast("scit", Reading(("taught",), "good"), Reading((), "bad"), instructions=TOLD)
    with pytest.raises(DataError, match="no instructions"):
        Contrast("none", Reading((), "good"), Reading((), "bad"))


@pytest.mark.parametrize(
    ("notation", "mode", "blocks"),
    [
        ("10,20,2", "scit", [9, 11, 13, 15, 17]),
        ("10,20,2", "none", [9, 11, 13, 15, 17]),
        ("10,20,2", "dual", [9, 11, 13, 15, 17, 19]),
        ("1, 2, 1", "scit", [0]),
        ("31,32,1", "scit", [30]),
    ],
)
def test_the_notation_of_rahf_counts_hidden_states(notation: str, mode: str, blocks: list[int]) -> None:
    assert rahf_layers(notation, mode=mode, num_layers=32) == blocks
    assert resolve_targets(notation, mode=mode, num_layers=32) == blocks
    assert hidden_state_indices(blocks)[0] == blocks[0] + 1


def test_the_layers_are_said_in_both_ways() -> None:
    found = collect(layers="2,4,1")
    assert found.layers == (1, 2)
    rows = found.table().rows
    assert [row[:2] for row in rows] == [[1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("notation", "said"),
    [
        ("10", "first,last,step"),
        ("10,20", "first,last,step"),
        ("10,20,0", "first,last,step"),
        ("-1,20,2", "first,last,step"),
        ("a,b,c", "first,last,step"),
        ("20,10,2", "no layer"),
        ("0,10,2", "embeddings"),
        ("30,33,1", "after the final norm"),
        ("30,50,2", "32 blocks"),
    ],
)
def test_a_notation_that_is_not_valid(notation: str, said: str) -> None:
    with pytest.raises(LayerError, match=said):
        rahf_layers(notation, mode="scit", num_layers=32)


@pytest.mark.parametrize("blocks", range(1, 100))
def test_default_layers_exist_and_lie_in_the_middle(blocks: int) -> None:
    found = default_layers(blocks)
    assert 1 <= len(found) <= 5
    assert found == sorted(set(found))
    assert found[-1] < blocks
    assert found[-1] <= max(0.6 * blocks, found[0])
    assert len({b - a for a, b in pairwise(found)}) <= 1
