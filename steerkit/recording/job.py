"""What is to be recorded: the options checked, before anything is computed or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit import __version__
from steerkit.backends.base import Model
from steerkit.data.pairs import ContrastPair, Pairs
from steerkit.errors import InputError, LayerError
from steerkit.points import SITES, Layers, Site
from steerkit.recording.batches import check_count, resolve_budget
from steerkit.recording.planner import Planner
from steerkit.recording.reader import Reader
from steerkit.recording.reads import Read, resolve_read
from steerkit.store.index import Row
from steerkit.store.manifest import SCHEMA_VERSION
from steerkit.store.shards import DTYPES, pairs_per_shard
from steerkit.store.tally import Tally
from steerkit.store.writer import StoreWriter

LONG = 1024
"""Tokens that a side is taken to have when shards are sized, where every token is kept and nothing sets a limit."""


@dataclass
class Job:
    """One recording.

    Args:
        manifest: Of the store.
        planner: Makes tokens of pairs.
        reader: Reads the model.
        tokens: The most tokens of a batch, padding counted.
        most: The most pairs of a batch.
    """

    manifest: dict[str, Any]
    planner: Planner
    reader: Reader
    tokens: int
    most: int | None

    def tally(self) -> Tally | None:
        """What sums up every shard, where statistics are asked for."""
        keep = self.manifest["statistics"]
        return None if keep is None else Tally(keep)

    def choose_path(self) -> dict[str, Any]:
        """How the rows are to be computed, for the manifest; the longest pair is computed in both ways."""
        number = self.planner.longest
        length = self.planner.longest_side
        taken, reason = self.reader.choose_path(self.planner.between(number, number + 1)[0], length=length)
        return {"path": taken, "path_reason": reason, "longest": {"pair": number, "side_tokens": length}}

    def begin(self, writer: StoreWriter) -> None:
        """Check every pair, then choose the path, then write what comes before the shards; or go on with a store."""
        stored = writer.stored
        if stored is None:
            writer.begin(self._rows(writer), path_taken="undecided")
            return
        self.planner.longest, self.planner.longest_side = stored["longest"]["pair"], stored["longest"]["side_tokens"]
        chosen = self.choose_path() if writer.missing else stored
        rows = self.planner.rows() if writer.needs_index else None
        writer.begin(rows, path_taken=chosen["path"], reason=chosen["path_reason"])

    def _rows(self, writer: StoreWriter) -> Iterator[Row]:
        """The index; the manifest is written after its last row, when the longest pair is known."""
        yield from self.planner.rows()
        writer.manifest |= self.choose_path()


def prepare(  # noqa: PLR0913 - the choices of `record`, one by one
    model: Model,
    pairs: Pairs | Sequence[ContrastPair],
    *,
    layers: Layers,
    site: Any,
    read: Read | None,
    dtype: str | None,
    max_tokens: int | None,
    statistics: str | None,
    keep: str,
    batch_tokens: int | None,
    batch_size: int | None,
    shard_pairs: int | None,
) -> Job:
    """A recording whose options are valid.

    Raises:
        InputError: One is not.
    """
    given = pairs if isinstance(pairs, Pairs) else Pairs(list(pairs))
    _check(site=site, dtype=dtype, statistics=statistics, keep=keep)
    tokens = resolve_budget(batch_tokens, batch_size, device=model.info.device)
    chosen = model.info.choose_layers(layers, site=site)
    rule = resolve_read(read, given)
    check_count("max_tokens", max_tokens)
    check_count("shard_pairs", shard_pairs)
    if rule != "each" and max_tokens is not None:
        raise InputError(f"max_tokens={max_tokens} limits the tokens kept of a side; it needs read='each'")
    if rule == "each" and statistics is not None:
        raise InputError(f"statistics={statistics!r} are of one row a side; with read='each' give none, or read 'mean'")
    manifest = {
        **_describe(model, given, site),
        "kind": "each" if rule == "each" else "pooled",
        "site": site,
        "layers": chosen,
        "dtype": dtype or "float32",
        "read": rule,
        "max_tokens": max_tokens,
        "statistics": statistics,
        "keep": keep,
        "batch_tokens": tokens,
        "batch_size": batch_size,
    }
    longest = (max_tokens or min(model.info.context or LONG, LONG)) if rule == "each" else 1
    manifest["rows_per_shard"] = 2 * (shard_pairs or _shard_pairs(manifest, tokens=longest))
    planner = Planner(given, model.tokenizer, rule, model.info.context, max_tokens)
    return Job(manifest, planner, Reader(model, chosen, site, average=rule == "mean"), tokens, batch_size)


def _describe(model: Model, pairs: Pairs, site: Site) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "steerkit_version": __version__,
        "model": model.info.as_dict(),
        "hidden_size": model.info.width(site),
        "template": pairs.prompt_template,
        "data": {"name": pairs.name, "fingerprint": pairs.fingerprint},
        "pairs": len(pairs),
    }


def _shard_pairs(manifest: dict[str, Any], *, tokens: int) -> int:
    layers, size = len(manifest["layers"]), manifest["hidden_size"]
    return pairs_per_shard(layers=layers, hidden_size=size, dtype=manifest["dtype"], tokens=tokens)


def _check(*, site: str, dtype: str | None, statistics: str | None, keep: str) -> None:
    if site not in SITES:
        raise LayerError(f"site={site!r} is not valid; choose one of {', '.join(SITES)}")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r} is not valid; choose one of {', '.join(DTYPES)}")
    if statistics not in (None, "mean", "covariance"):
        raise InputError(f"statistics={statistics!r} is not valid; choose 'mean' or 'covariance', or leave it out")
    if keep not in ("rows", "statistics"):
        raise InputError(f"keep={keep!r} is not valid; choose 'rows' or 'statistics'")
    if keep == "statistics" and statistics is None:
        raise InputError("keep='statistics' stores no rows; say which statistics with statistics='mean' or "
                         "'covariance'")  # fmt: skip
