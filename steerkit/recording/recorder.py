"""Recording: contrast pairs through a model, into a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerkit import __version__
from steerkit.backends.base import Model
from steerkit.data.pairs import ContrastPair, Pairs
from steerkit.errors import InputError, LayerError, ModelError
from steerkit.points import SITES, Layers, Site, resolve_layers
from steerkit.recording.progress import progress_bar
from steerkit.recording.reader import Reader
from steerkit.recording.reads import PlannedPair, Read, plan, resolve_read
from steerkit.store.activations import ActivationStore
from steerkit.store.manifest import SCHEMA_VERSION
from steerkit.store.shards import DTYPES, pairs_per_shard
from steerkit.store.writer import StoreWriter


def record(  # noqa: PLR0913 - each is a plain choice of the user
    model: Model,
    pairs: Pairs | Sequence[ContrastPair],
    *,
    layers: Layers = "all",
    site: Site = "resid_post",
    read: Read | None = None,
    path: str | Path | None = None,
    batch_size: int = 16,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ActivationStore:
    """Run both sides of every pair through a model and keep the activations of one token of each (or their mean).

    What the two sides share is computed once, tokens after the last one read not at all, and neither are the blocks
    after the last layer asked for, nor logits. A store on disk grows shard by shard; the same call goes on where an
    interrupted one stopped, and one that differs in model, data or settings is refused.

    Args:
        model: A model.
        pairs: The pairs.
        layers: `"all"`, one layer or several, counted from 0.
        site: Where in each block.
        read: `"letter"` (the token with the multiple-choice letter, or the first one that differs), `"last"`, `"mean"`
            (over the answer's tokens), or an index into the whole sequence, such as -2. Without it `"letter"` where
            every pair is a multiple choice, else `"last"`.
        path: A folder for the store; without it the store is in memory.
        batch_size: Pairs in one forward pass, at least 1.
        dtype: What is stored: `"float32"` (default), or `"float16"` or `"bfloat16"` for half the size. Stores are read
            as float32 in any case.
        overwrite: Throw away a store that lies at `path`.
        progress: Show a progress bar, if there is a terminal.

    Returns:
        The store: `store[13].positive` is `[pair, hidden]`.

    Raises:
        InputError: An option is not valid.
        DataError: A pair is longer than the model's context, or the rule finds no token in it.
        MismatchError: The store at `path` was made with something else.
        ModelError: The model gives NaN or infinite activations.
        StoreError: The store cannot be written.

    Source: Rimsky et al. 2024, section 3.1, who read the letter's token at index -2 of both sides. We differ: the
    letter is found by its place in the text, and the question is computed once for both sides.

    Example:
        >>> from steerkit.backends.loading import load
        >>> from steerkit.data.loading import load_pairs
        >>> pairs = load_pairs("demo:sycophancy", split="test")[:4]
        >>> store = record(load("demo"), pairs, layers=[1, 2])
        >>> len(store), store.layers
        (4, (1, 2))
    """
    given = pairs if isinstance(pairs, Pairs) else Pairs(list(pairs))
    stored_as = _check_options(site=site, dtype=dtype, batch_size=batch_size)
    chosen = resolve_layers(layers, num_layers=model.info.num_layers)
    rule = resolve_read(read, given)
    planned, index = plan(given, model.tokenizer, read=rule, context=model.info.context)
    manifest = _manifest(model, given, layers=chosen, site=site, read=rule, dtype=stored_as, batch_size=batch_size)
    writer = StoreWriter(path, manifest, overwrite=overwrite)
    if writer.missing:
        reader = Reader(model, chosen, site)
        taken, reason = reader.choose_path(planned)
        writer.begin(index, path_taken=taken, reason=reason)
        todo = sum(end - first for first, end in writer.missing) // 2
        with progress_bar(todo, show=progress) as advance:
            work = _Work(reader, taken == "packed", batch_size, stored_as, advance)
            for first, end in writer.missing:
                writer.put((first, end), work.shard(planned[first // 2 : end // 2]))
    return writer.finish()


def _check_options(*, site: str, dtype: str | None, batch_size: int) -> str:
    if site not in SITES:
        raise LayerError(f"site={site!r} is not valid; choose one of {', '.join(SITES)}")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r} is not valid; choose one of {', '.join(DTYPES)}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size={batch_size!r} is not valid; give an integer of at least 1")
    return dtype or "float32"


def _manifest(model: Model, pairs: Pairs, *, layers: list[int], dtype: str, **settings: Any) -> dict[str, Any]:
    size = model.info.hidden_size
    return {
        "schema_version": SCHEMA_VERSION,
        "steerkit_version": __version__,
        "kind": "pooled",
        "model": model.info.as_dict(),
        "layers": layers,
        "hidden_size": size,
        "dtype": dtype,
        "template": pairs.prompt_template,
        "data": {"name": pairs.name, "fingerprint": pairs.fingerprint},
        "pairs": len(pairs),
        "rows_per_shard": 2 * pairs_per_shard(layers=len(layers), hidden_size=size, dtype=dtype),
        **settings,
    }


@dataclass(frozen=True)
class _Work:
    """How shards are computed."""

    reader: Reader
    packed: bool
    batch_size: int
    dtype: str
    advance: Callable[[int], None]

    def shard(self, pairs: Sequence[PlannedPair]) -> dict[int, Tensor]:
        """The rows of some pairs, in their order; they run sorted by length, so that little is padding."""
        size = self.reader.model.info.hidden_size
        layers = self.reader.layers
        rows = torch.empty(len(layers), len(pairs), 2, size, dtype=DTYPES[self.dtype])
        order = sorted(range(len(pairs)), key=lambda i: pairs[i].length)
        for start in range(0, len(order), self.batch_size):
            numbers = order[start : start + self.batch_size]
            some = [pairs[i] for i in numbers]
            values = self.reader.read(some, packed=self.packed).reshape(len(layers), len(some), 2, size)
            rows[:, torch.tensor(numbers)] = self._convert(values, some)
            self.advance(len(some))
        return {layer: rows[i].reshape(-1, size) for i, layer in enumerate(layers)}

    def _convert(self, values: Tensor, pairs: Sequence[PlannedPair]) -> Tensor:
        stored = values.to(DTYPES[self.dtype])
        if bool(torch.isfinite(stored).all()):
            return stored
        k, i, side = [int(n) for n in (~torch.isfinite(stored)).any(-1).nonzero()[0]]
        where = f"layer {self.reader.layers[k]} of pair {pairs[i].id!r}, {('positive', 'negative')[side]} side"
        if bool(torch.isfinite(values[k, i, side]).all()):
            raise InputError(f"{where}: {float(values[k, i, side].abs().max()):.3g} is too large for dtype="
                             f"{self.dtype!r}; use 'bfloat16' or 'float32'")  # fmt: skip
        raise ModelError(f"{where}: the activations are NaN or infinite. Nothing of this shard is stored; load the "
                         "model in 'bfloat16' or 'float32', or leave the pair out")  # fmt: skip
