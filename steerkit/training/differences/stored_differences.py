"""Differences in a store: what two readings of the same responses came to, and the base states beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit import __version__
from steerkit.adapters import Attached
from steerkit.errors import LayerError, MismatchError, StoreError
from steerkit.points import Site
from steerkit.store import ActivationStore, RaggedPaired
from steerkit.store.describe import check_model, name_layers
from steerkit.tables import Table, Tabular
from steerkit.training.differences.contrasts import hash_weights
from steerkit.training.differences.online_differences import Rows, spread
from steerkit.training.differences.states import read_states
from steerkit.training.distilling.samples import Sample, Samples
from steerkit.vectors import SteeringVector

if TYPE_CHECKING:
    from steerkit.store.verification import Verification
    from steerkit.training.differences.difference_table import DifferenceSummary

BATCH = 64
"""Responses that are read from the store at once where all of them are wanted."""


class Differences(Tabular):
    r"""Differences $v_l = A_{p^+,l} - A_{p^-,l}$ of responses and their base states $h_l$, in an activation store.

    The two lie apart, never as their sum: any coefficient and any subset of layers can be trained on, and a small
    difference is not rounded away beside a large state. In print they are a table: how long the differences are, how
    much of the state, and how much they agree.

    Args:
        store: Row `2i` is the difference of response `i`, row `2i + 1` its base state, each with all its tokens.
        weights: What acted when they were read, by name; needed to train where the base is not the plain model.
        layers: Some of the store's layers; left out, all.

    Raises:
        StoreError: The store holds something else.
        LayerError: The store has no such layer.
        MismatchError: The weights are not those that the differences were read with.
    """

    def __init__(
        self,
        store: ActivationStore,
        *,
        weights: Mapping[str, Any] | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        if "contrast" not in store.manifest:
            raise StoreError("this store holds no differences; give the folder that collect_differences wrote, or "
                             "read a store of pairs with ActivationStore.open")  # fmt: skip
        self.store = store
        self.about: Mapping[str, Any] = store.manifest["contrast"]
        self.layers: tuple[int, ...] = check_layers(store.layers if layers is None else layers, store.layers)
        self._weights = dict(weights or {})
        for name, one in self._weights.items():
            wanted = self.about["weights"].get(name)
            if wanted is not None and hash_weights(one) != wanted:
                raise MismatchError(f"the differences were read with other weights {name!r}: there {wanted}, here "
                                    f"{hash_weights(one)}; give the result of teach that they were collected "
                                    "with")  # fmt: skip

    @classmethod
    def open(cls, path: str | Path, *, model: Any = None, taught: Any = None, override: bool = False) -> Differences:
        """The differences in a folder, or at an address.

        Args:
            path: What `collect_differences` wrote.
            model: The model that they are going to be used with.
            taught: What `teach` gave, where they were read from a taught model; needed to train on them.
            override: Open them although they were read from another model.

        Raises:
            StoreError: No such store lies there, it is damaged or incomplete.
            MismatchError: They were read from another model, tokenizer or template, or with other weights.
        """
        found = cls(ActivationStore.open(path), weights=None if taught is None else taught.weights)
        if model is not None and not override:
            found.check(model)
        return found

    def check(self, model: Any) -> None:
        """Refuse another model than they were read from.

        Raises:
            MismatchError: It, its tokenizer, its chat template or its dtype is another.
        """
        where = "the store of differences" if self.store.path is None else str(self.store.path)
        check_model(self.store.manifest, model, where=where)
        read, now = self.store.manifest["model"]["dtype"], model.info.dtype
        if read != now:
            raise MismatchError(f"{where} was read from the model in {read}, this one is in {now}; load it in {read}, "
                                "or collect again")  # fmt: skip

    def __len__(self) -> int:
        return len(self.store)

    @property
    def site(self) -> Site:
        """Where in the blocks."""
        return self.store.site

    @property
    def pool(self) -> str:
        """Whose difference a token is given: `"token"`, `"example"` or `"global"`."""
        return str(self.about["pool"])

    @property
    def keeps_base(self) -> bool:
        """Whether the base states lie in the store; else they are computed when they are needed."""
        return bool(self.about["keep_base"])

    @property
    def start(self) -> tuple[str, ...]:
        """The weights that stay on under the student."""
        return tuple(self.about["base"]["weights"])

    @property
    def adapters(self) -> Mapping[str, Any]:
        """The weights that the student begins with, by name.

        Raises:
            MismatchError: They are not given.
        """
        missing = [name for name in self.start if name not in self._weights]
        if missing:
            raise MismatchError(f"the student begins with the weights {missing[0]!r}, which are not in the store; give "
                                "what teach gave, as Differences.open(..., taught=...)")  # fmt: skip
        return {name: self._weights[name] for name in self.start}

    def rho(self, layer: int) -> float:
        r"""Relative size $\overline{\|v\|} / \overline{\|h\|}$ at a layer, of the responses probed at first."""
        m = self.store.manifest
        return float(m["shift_norm"][str(layer)]) / float(m["residual_norm"][str(layer)])

    @cached_property
    def samples(self) -> Samples:
        """The sequences that the student sees."""
        rows = (self.store.index[2 * int(number) + 1] for number in self.store.numbers)
        return Samples([_sample(row) for row in rows])

    def select(self, layers: int | Sequence[int]) -> Differences:
        """Some of the layers.

        Raises:
            LayerError: One is not there.
        """
        return Differences(self.store, weights=self._weights, layers=[layers] if isinstance(layers, int) else layers)

    def describe(self) -> dict[str, Any]:
        """All that the differences depend on, beside model and samples."""
        return dict(self.about)

    def take(
        self, attached: Attached, indices: Sequence[int], *, layers: Sequence[int] | None = None, base: bool = True
    ) -> Rows:
        """The differences of some responses, in their order, a row for each of their tokens.

        Args:
            attached: The model; base states that are not in the store are read from it.
            indices: Which responses.
            layers: Some of the layers.
            base: Also the base states.

        Raises:
            LayerError: A layer is not there.
            StoreError: A shard is damaged.
        """
        wanted = check_layers(self.layers if layers is None else layers, self.layers)
        device, counts = attached.model.device, [self.samples[i].inside for i in indices]
        found = {layer: self._rows(layer, indices) for layer in wanted}
        if self.pool == "token":
            shift = torch.stack([found[layer].positive.values for layer in wanted]).to(device)
        elif self.pool == "example":
            shift = spread(torch.stack([found[layer].positive.values for layer in wanted]).to(device), counts)
        else:
            rows = torch.stack([self.mean[self.layers.index(layer)] for layer in wanted])
            shift = rows[:, None].expand(-1, sum(counts), -1).to(device)
        if not base:
            return Rows(shift, None)
        if self.keeps_base:
            return Rows(shift, torch.stack([found[layer].negative.values for layer in wanted]).to(device))
        with attached.only(*self.start):
            batch = self.samples.batch(indices, pad_id=attached.model.pad_id)
            return Rows(shift, read_states(attached.model, batch, layers=wanted, site=self.site))

    def _rows(self, layer: int, indices: Sequence[int]) -> RaggedPaired:
        found = self.store.rows(layer, indices)
        assert isinstance(found, RaggedPaired)
        return found

    @cached_property
    def mean(self) -> Float[Tensor, "layer hidden"]:
        """The mean difference over all tokens at each layer, summed in float64."""
        total = torch.zeros(len(self.layers), self.store.hidden_size, dtype=torch.float64)
        for first in range(0, len(self), BATCH):
            some = range(first, min(first + BATCH, len(self)))
            weights = torch.tensor([self.samples[i].inside if self.pool != "token" else 1 for i in some])
            for number, layer in enumerate(self.layers):
                values = self._rows(layer, some).positive.values.double()
                total[number] += (values * weights[:, None]).sum(0) if self.pool != "token" else values.sum(0)
        return (total / self.samples.inside()).float()

    def vector(self) -> SteeringVector:
        """The mean difference as a steering vector: what every token shares."""
        m = self.store.manifest
        norms = {layer: float(m["residual_norm"][str(layer)]) for layer in self.layers}
        meta = {"model": m["model"], "method": f"mean difference of {self.about['mode']!r}", "data": m["data"],
                "read": m["read"], "pairs": len(self), "template": m["template"], "version": __version__,
                "residual_norm": norms}  # fmt: skip
        return SteeringVector(self.mean, layers=self.layers, site=self.site, meta=meta)

    @cached_property
    def summary(self) -> DifferenceSummary:
        """The numbers of the table, by layer; the store is read once for them."""
        from steerkit.training.differences.difference_table import summarize

        return summarize(self)

    def table(self) -> Table:
        """What is shown of it."""
        return self.summary.table()

    def plot(self) -> Any:
        """How long the differences are, by the token's place in its response, one line a layer."""
        return self.summary.plot()

    def verify(self) -> Verification:
        """Read every byte on disk and hold it against the checksums."""
        return self.store.verify()


def check_layers(wanted: Sequence[int], there: Sequence[int]) -> tuple[int, ...]:
    """Layers, ascending, once they are known to be there.

    Raises:
        LayerError: None is given, one twice, or one is not there.
    """
    named = list(wanted)
    if not named or len(set(named)) < len(named):
        raise LayerError(f"layers={named} is not valid; give each layer once, and at least one")
    missing = [layer for layer in named if layer not in there]
    if missing:
        raise LayerError(f"layer {missing[0]!r} is not among the differences; they are of {name_layers(sorted(there))}")
    return tuple(sorted(named))


def _sample(row: Mapping[str, Any]) -> Sample:
    first, end = row["scope"]
    ids = tuple(row["ids"])
    return Sample(ids, row["prompt_length"], tuple(first <= at < end for at in range(len(ids))))
