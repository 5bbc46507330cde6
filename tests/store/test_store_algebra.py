from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import about, fill, make

from steerkit.errors import InputError, LayerError, MismatchError, StoreError
from steerkit.store import ActivationStore, PairRow

Model = list[tuple[str, int]]
"""What a view must show: the id of each pair, and where its rows come from in the table of all."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ActivationStore], dict[str, torch.Tensor]]:
    """Stores on disk of several shards, with the rows of every pair by its name."""
    folder = tmp_path_factory.mktemp("algebra")
    made = [ActivationStore.open(make(21, seed=i, rows_per_shard=8).save(folder / str(i)).path or "") for i in (0, 1)]
    named = [store.concat([store], names=[name]) for store, name in zip(made, "ab", strict=True)]
    return named, {
        name: torch.stack([store.paired(3).positive[i], store.paired(3).negative[i]])
        for store in named
        for i, name in enumerate(store.ids)
    }


def check(store: ActivationStore, names: list[str], rows: dict[str, torch.Tensor]) -> None:
    assert store.ids == names
    assert len(store) == len(names)
    found = store.paired(3)
    assert torch.equal(found.positive, torch.stack([rows[name][0] for name in names]))
    assert torch.equal(found.negative, torch.stack([rows[name][1] for name in names]))


@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_any_views_of_views_show_what_lists_would(
    base: tuple[list[ActivationStore], dict[str, torch.Tensor]], data: st.DataObject
) -> None:
    """Against plain lists of names, through any chain of operations."""
    stores, rows = base
    view, names = stores[0], stores[0].ids
    for _ in range(data.draw(st.integers(1, 5))):
        step = data.draw(st.sampled_from(["filter", "split", "concat", "select"]))
        if step == "filter":
            kept = data.draw(st.sets(st.sampled_from(names), min_size=1))
            view, names = view.filter(lambda row, kept=kept: row.id in kept), [n for n in names if n in kept]
        elif step == "split" and len(names) > 1:
            count = data.draw(st.integers(1, len(names) - 1))
            parts = view.split(test=count, seed=data.draw(st.integers(0, 3)))
            assert sorted(parts[0].ids + parts[1].ids) == sorted(names)
            assert len(parts[1]) == count
            view = data.draw(st.sampled_from(parts))
            names = [name for name in names if name in set(view.ids)]
        elif step == "concat" and not set(names) & set(stores[1].ids):
            other = stores[1].filter(lambda row: int(row.id[2:]) % 2 == 0)
            view, names = ActivationStore.concat([view, other]), names + other.ids
        elif step == "select":
            view = view.select(view.layers)
    check(view, names, rows)
    asked = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=8))
    picked: Any = view.rows(3, asked)
    assert torch.equal(picked.positive, view.paired(3).positive[asked])
    assert torch.equal(picked.negative, view.paired(3).negative[asked])
    batch = data.draw(st.integers(1, 30))
    batches: list[Any] = [one[3] for one in view.iterate(batch=batch, layers=3)]
    assert [len(one) for one in batches[:-1]] == [batch] * (len(batches) - 1)
    assert torch.equal(torch.cat([one.positive for one in batches]), view.paired(3).positive)


def test_a_joined_view_is_saved_as_what_it_shows(
    base: tuple[list[ActivationStore], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    stores, rows = base
    both = ActivationStore.concat(stores)
    odd = both.filter(lambda row: row.number % 2 == 1)
    saved = odd.save(tmp_path / "s")
    check(saved, odd.ids, rows)
    assert saved.verify().ok
    assert saved.manifest["data"]["name"] == "made + made"
    assert both.verify().files == 2 * (2 + 6)


def test_shuffled_batches_are_a_seeded_order_of_all() -> None:
    store = make(pairs=50)

    def order(**more: Any) -> list[torch.Tensor]:
        return [one[1].positive for one in store.iterate(batch=7, **more)]  # type: ignore[misc, union-attr]

    once, again, other = (torch.cat(order(shuffle=True, seed=seed)) for seed in (3, 3, 4))
    plain = store.paired(1).positive
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once, plain)
    assert sorted(map(tuple, once.tolist())) == sorted(map(tuple, plain.tolist()))
    assert list(next(iter(store.iterate()))) == [1, 3]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("work", "error", "says"),
    [
        (lambda s: s.iterate(batch=0), InputError, "batch=0 is not valid"),
        (lambda s: s.iterate(layers=[9]), LayerError, r"layers=\[9\] is not valid; this store holds layers 1, 3"),
        (lambda s: s.rows(1, [0, -1]), InputError, "pair -1 does not exist; this store has the pairs 0 to 11"),
        (lambda s: s.rows(1, [12]), InputError, "pair 12 does not exist"),
        (lambda s: s.rows(1, [0.5]), InputError, "give a list of the pairs' numbers"),
        (lambda s: s.rows(2, [0]), LayerError, "layer 2 is not in this store"),
        (lambda s: s.filter(lambda row: False), InputError, "none of the 12 pairs is kept"),
        (lambda s: s.to_torch(2), LayerError, "layer 2"),
        (lambda s: s.statistics(2), LayerError, "layer 2"),
        (lambda s: ActivationStore.concat([]), InputError, "give one or more stores"),
        (lambda s: ActivationStore.concat([s], names=["a", "b"]), InputError, "a name for each"),
        (lambda s: ActivationStore.concat([s, s]), InputError, "12 pair ids are in more than one .* such as '0'"),
    ],
)
def test_what_cannot_be_asked(work: Callable[[ActivationStore], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        work(make())


@pytest.mark.parametrize(
    ("change", "line", "fixable"),
    [
        ({"read": "last"}, "read: the first has 'letter', number 1 has 'last'", True),
        ({"template": "plain"}, "template: the first has None, number 1 has 'plain'", True),
        ({"dtype": "float16"}, "dtype: the first has 'float32', number 1 has 'float16'", False),
        ({"model": {"name": "x", "fingerprint": "beef"}}, "model.fingerprint: the first has 'f00d'", True),
    ],
)
def test_stores_that_do_not_belong_together(change: dict[str, Any], line: str, fixable: bool) -> None:
    stores = [make(), make(**change)]
    with pytest.raises(MismatchError, match=line) as caught:
        ActivationStore.concat(stores, names=["a", "b"])
    assert ("override=True" in str(caught.value)) is fixable
    if fixable:
        assert len(ActivationStore.concat(stores, override=True)) == 24
    else:
        with pytest.raises(MismatchError):
            ActivationStore.concat(stores, override=True)


def test_other_layers_do_not_belong_together_but_the_common_ones_do() -> None:
    wide, narrow = make(layers=(1, 3)), make(layers=(3,), seed=1)
    with pytest.raises(MismatchError, match=r"layers: the first has \[1, 3\], number 1 has \[3\]"):
        ActivationStore.concat([wide, narrow], names=["a", "b"])
    joined = ActivationStore.concat([wide.select(3), narrow], names=["a", "b"])
    assert torch.equal(joined.paired(3).positive[12:], narrow.paired(3).positive)


def test_a_filter_is_asked_what_a_pair_is(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", about(9))
    seen: list[PairRow] = []
    store.filter(lambda row: bool(seen.append(row)) or row.number == 4)
    assert [row.id for row in seen] == [f"p{i}" for i in range(9)]
    assert seen[3] == PairRow(3, "p3", "B", ((3, 4), (3, 4)), ("é\u2028", "é\u2028"), ("3positive", "3negative"))
    assert store.split(test=2)[1].row(1).number == 1


def test_a_store_is_not_saved_over_itself(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", about(9))
    with pytest.raises(StoreError, match="is where this store lies"):
        store.filter(lambda row: row.number > 3).save(tmp_path / "." / "s", overwrite=True)
    assert store.verify().ok


def test_torch_reads_batches(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    store = fill(tmp_path / "s", about(9))
    loader = DataLoader(store.to_torch(2), batch_size=4)
    found = [torch.cat(sides) for sides in zip(*loader, strict=True)]
    assert torch.equal(found[0], store.paired(2).positive)
    assert torch.equal(found[1], store.paired(2).negative)
    assert torch.equal(store.to_torch(2)[-1][0], store.paired(2).positive[8])
    workers = DataLoader(store.to_torch(2), batch_size=4, num_workers=1, multiprocessing_context="fork")
    assert torch.equal(torch.cat([sides[0] for sides in workers]), found[0])


@pytest.mark.parametrize("kind", ["pooled", "each"])
def test_datasets_holds_the_same(tmp_path: Path, kind: str) -> None:
    store = fill(tmp_path / "s", about(9, kind=kind, max_tokens=3))
    table = store.filter(lambda row: row.number != 2).to_datasets(2, cache_dir=tmp_path / "cache")
    assert table.column_names == ["pair", "letter", "positive.2", "negative.2"]
    assert table["pair"][:3] == ["p0", "p1", "p3"]
    assert table["letter"][:3] == ["A", "B", "B"]
    wanted = store[2]
    for i, number in enumerate([0, 1, 3, 4, 5, 6, 7, 8]):
        side: Any = wanted.negative[number]
        np.testing.assert_array_equal(np.array(table[i]["negative.2"], dtype=np.float32), side.numpy())
    assert len(store.to_datasets(cache_dir=tmp_path / "cache")) == 9, "another view, another table"
