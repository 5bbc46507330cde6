from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from steerkit.errors import VectorError
from steerkit.steering import Edit
from steerkit.vectors import SteeringVector

VALUES = torch.tensor([[3.0, 4.0, 0.0, 5.0, 1.0, 0.0], [6.0, 8.0, 2.0, 0.0, 0.0, 7.0]])
META = {
    "heads": 3,
    "method": "mean_difference",
    "data": {"name": "mood"},
    "residual_norm": {2: 20.0, 5: 10.0},
    "gap": {2: 1.0, 5: 1.0},
    "sigma": {2: [10.0, 2.0, 3.0], 5: [1.0, 4.0, 0.5]},
    "head_gap": {2: [5.0, -1.0, 2.0], 5: [10.0, 0.5, 0.25]},
}


def vector(**changes: object) -> SteeringVector:
    return SteeringVector(VALUES, layers=[2, 5], site="z", meta={**META, **changes})


def test_a_row_is_its_heads_side_by_side() -> None:
    v = vector()
    assert (v.num_heads, v.head_size) == (3, 2)
    assert v.head(2, 1).tolist() == [0.0, 5.0]
    assert v.head_norms.tolist() == [[5.0, 5.0, 1.0], [10.0, 2.0, 7.0]]
    assert v.chosen_heads == ()
    other = SteeringVector(VALUES, layers=[2, 5])
    assert (other.num_heads, other.head_size) == (0, 0)


def test_chosen_heads_are_kept_and_nothing_else() -> None:
    v = vector().heads([(5, 2), (5, 0)])
    assert v.layers == (5,)
    assert v.at(5).tolist() == [6.0, 8.0, 0.0, 0.0, 0.0, 7.0]
    assert v.chosen_heads == ((5, 0), (5, 2))
    assert v.meta["made_from"] == "heads (5, 0), (5, 2) of (mean_difference of mood)"
    assert (-2 * v).chosen_heads == v.chosen_heads
    both = vector().heads([(2, 1), (5, 0)])
    assert both.layers == (2, 5)
    assert both.select(5).chosen_heads == ((5, 0),)
    assert v.heads([(5, 0)]) == both.select(5)


def test_the_gap_follows_the_heads() -> None:
    """Along u = (v_0, v_2) / |v|, the mean difference is the heads' own gaps weighed by their lengths."""
    v = vector().heads([(5, 0), (5, 2)])
    assert v.meta["gap"][5] == pytest.approx((10.0 * 10 + 0.25 * 7) / (100 + 49) ** 0.5)
    assert (-v).heads([(5, 0)]).meta["gap"][5] == pytest.approx(-10.0)
    assert (
        "gap"
        not in SteeringVector(VALUES, layers=[2, 5], site="z", meta={"heads": 3, "gap": META["gap"]})
        .heads([(5, 0)])
        .meta
    )


def test_in_sigma_is_sigma_theta() -> None:
    v = vector().in_sigma()
    torch.testing.assert_close(v.head(2, 0), 10.0 * torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(v.head(2, 1), 2.0 * torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(v.head_norms, torch.tensor([[10.0, 2.0, 3.0], [1.0, 4.0, 0.5]]))
    torch.testing.assert_close((7 * vector()).in_sigma().values, v.values)
    torch.testing.assert_close((-vector()).in_sigma().values, -v.values)
    chosen = vector().heads([(2, 1)])
    torch.testing.assert_close(chosen.in_sigma().values, vector().in_sigma().heads([(2, 1)]).values)
    assert not chosen.in_sigma().head(2, 0).any()
    flat = SteeringVector(torch.tensor([[3.0, 4.0]]), layers=1, meta={"sigma": {1: 2.5}})
    torch.testing.assert_close(flat.in_sigma().at(1), torch.tensor([1.5, 2.0]))


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    v = vector().heads([(2, 1), (5, 0)])
    back = SteeringVector.load(v.save(tmp_path / "v.safetensors"))
    assert back == v
    assert back.meta == v.meta
    assert back.chosen_heads == v.chosen_heads
    assert back.in_sigma() == v.in_sigma()


def test_the_algebra_keeps_the_heads() -> None:
    assert (vector() + vector()).num_heads == 3
    assert (vector() - vector()).head_norms.sum() == 0
    assert "sigma" not in (vector() + vector()).meta
    assert vector().unit().heads([(2, 0)]).layers == (2,)


def test_its_table_stays_short() -> None:
    assert repr(vector().heads([(2, 1), (2, 0), (5, 2)])).splitlines() == [
        "SteeringVector: heads (2, 0), (2, 1), (5, 2) of (mean_difference of mood), z, 3 heads of 2",
        "layer   norm  norm / z norm  heads",
        "    2  7.071         0.3536  0, 1",
        "    5      7            0.7  2",
    ]
    many = SteeringVector(torch.ones(1, 64), layers=1, site="z", meta={"heads": 32})
    assert repr(many).splitlines()[-1].endswith("all")
    assert repr(many.heads([(1, i) for i in range(20)])).splitlines()[-1].endswith("20 of 32")


def test_chosen_heads_need_no_layer() -> None:
    assert Edit(vector().heads([(2, 1), (5, 0)])).layer == "all"
    assert Edit(vector().heads([(2, 1), (5, 0)]), layer=5).layer == 5


FLAT = SteeringVector(VALUES, layers=[2, 5])
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: FLAT.heads([(2, 0)]), "belongs to resid_post, where heads are already mixed"),
    (lambda: FLAT.head(2, 0), "belongs to resid_post"),
    (lambda: FLAT.head_norms, "belongs to resid_post"),
    (lambda: SteeringVector(VALUES, layers=[2, 5], site="z").heads([(2, 0)]), "does not know how many heads"),
    (lambda: vector(heads=4), "width 6 do not hold 4 heads"),
    (lambda: vector().heads([]), "give one or more .layer, head."),
    (lambda: vector().heads("2:1"), "give one or more .layer, head."),
    (lambda: vector().heads([2]), "2 is not a head"),
    (lambda: vector().heads([(2, 0, 1)]), "is not a head"),
    (lambda: vector().heads([(2, 0), (2, 0)]), "names a head twice"),
    (lambda: vector().heads([(3, 0)]), "no layer 3; it has layers 2, 5"),
    (lambda: vector().heads([(2, 3)]), "head 3 of layer 2 does not exist; heads are 0 to 2"),
    (lambda: vector().heads([(2, -1)]), "head -1 of layer 2 does not exist"),
    (lambda: vector().heads([(2, True)]), "head True of layer 2 does not exist"),
    (lambda: vector().head(2, 7), "head 7 of layer 2 does not exist"),
    (lambda: vector().heads([(2, 0)]).heads([(2, 1)]), "head 1 of layer 2 is zero"),
    (lambda: vector(sigma={2: [1.0, 1.0, 1.0]}).in_sigma(), r"lacks meta\['sigma'\], .* at layer 5"),
    ((0 * vector()).in_sigma, "layer 2 is zero"),
    (lambda: vector() + FLAT, "different sites: z and resid_post"),
]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(VectorError, match=message):
        make()


def test_another_shape_of_heads_does_not_fit() -> None:
    info = {"name": "tiny", "num_layers": 6, "hidden_size": 6, "heads": 3, "head_size": 2}
    vector().check_fits(info)
    for changes, said in (
        ({"heads": 2, "head_size": 3}, "3 heads of 2 at z, tiny has 2 heads of 3"),
        ({"head_size": 4}, "3 heads of 2 at z, tiny has 3 heads of 4"),
        ({"heads": 0}, "tiny has no attention heads"),
        ({"lacks": {"z": [0, 5]}}, "block 5 of tiny has no site 'z'"),
    ):
        with pytest.raises(VectorError, match=said):
            vector().check_fits({**info, **changes}, override=True)
    vector().select(2).check_fits({**info, "hidden_size": 99, "lacks": {"z": [0, 5]}})
