"""Collecting differences: preferences through a model, into a store that is sealed, resumable and verifiable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerkit import __version__
from steerkit.adapters import Attached, attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError
from steerkit.points import Site
from steerkit.recording.batches import check_count, resolve_budget
from steerkit.recording.progress import Progress, progress_bar
from steerkit.store.crew import Crew
from steerkit.store.index import Row
from steerkit.store.manifest import SCHEMA_VERSION
from steerkit.store.shards import DTYPES, pairs_per_shard
from steerkit.store.workers import Worker
from steerkit.store.writer import StoreWriter
from steerkit.training.differences.aligned import Responses, Span, default_responses
from steerkit.training.differences.contrasts import Start, find_contrast
from steerkit.training.differences.difference_table import check_signal
from steerkit.training.differences.layers import TargetLayers
from steerkit.training.differences.online_differences import (
    OnlineDifferences,
    Pool,
    check_pool,
    online_differences,
    pool_rows,
)
from steerkit.training.differences.stored_differences import Differences
from steerkit.training.teaching.instructions import Instructions

PROBED = 8
"""Responses, evenly spread, that are read before all others: whether there is a difference at all, and its noise."""


def collect_differences(  # noqa: PLR0913 - each is a plain choice of the user
    model: HuggingFaceModel,
    preferences: Sequence[Any],
    *,
    taught: Any = None,
    instructions: Instructions | None = None,
    start: Start = "taught",
    layers: TargetLayers | None = None,
    site: Site = "resid_post",
    responses: Responses | None = None,
    positions: Span = "response",
    max_tokens: int | None = None,
    pool: Pool = "token",
    keep_base: bool = True,
    dtype: str = "float32",
    path: str | Path | None = None,
    batch_tokens: int | None = None,
    shard_responses: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Differences:
    r"""Read every response under both readings, and keep $v_l = A_{p^+,l} - A_{p^-,l}$ and the base state $h_l$.

    Both are read in evaluation mode and subtracted in float32; passes stop after the last layer. Only the response's
    tokens are kept: none of the prompt, its template or its special tokens (but see `positions`). A store on disk grows
    shard by shard; the same call goes on where an interrupted one stopped, and one that differs in model, data or
    settings is refused.

    Args:
        model: The model.
        preferences: With `prompt`, `chosen`, `rejected` and `id`.
        taught: What `teach` gave; without it one untaught model is read under two instructions (LORRA).
        instructions: The pair of instructions; left out, that of `taught`, or the default one.
        start: What the student will begin from, and so whose state is the base: `"taught"` as in RAHF, or `"base"`.
        layers: Blocks counted from 0, or RAHF's notation `"10,20,2"`, which counts `hidden_states`; left out, up to
            five between 30 and 60 percent of the depth.
        site: Where in each block.
        responses: `"random"` (one of each preference by a coin), `"both"`, `"chosen"` or `"rejected"`; left out,
            `"both"` for DUAL, else `"random"`.
        positions: `"response"` for its own tokens; `"generation"` for the last token of the prompt as well, on which
            the first of them is decided.
        max_tokens: The most tokens of a response; left out, 64 for DUAL, else all.
        pool: `"token"` keeps each token's own difference, `"example"` the mean of each response, `"global"` gives every
            token the mean of all.
        keep_base: Keep base states as well; else they are computed while training, which costs a pass a batch.
        dtype: What is stored: `"float32"`, `"float16"` or `"bfloat16"`.
        path: A folder for the store, or an address; without it the store is in memory.
        batch_tokens: The most tokens in one forward pass, padding counted.
        shard_responses: Responses in one file: what a crash can cost. Without it as many as fit into 64 MB.
        seed: Of the coin that draws responses.
        overwrite: Throw away a store that lies at `path`.
        progress: Show a progress bar, if there is a terminal.

    Raises:
        DataError: A preference cannot be read, or there is no difference above the noise; nothing is stored then.
        LayerError: A layer is not valid.
        InputError: An option is not valid, or a value is too large for the dtype.
        MismatchError: The store at `path` was made with something else (the fields are named).
        ModelError: A state is NaN or infinite.
        StoreError: The store cannot be written, or somebody else is writing it.

    Source: Liu et al. 2024 (RAHF), section 3.2, and `step2/RAHF.py`. We differ: tokens are those of the response alone
    (its code takes in a second BOS and the prompt's last space), both prompts are formatted alike, and truncation never
    reaches the prompt.

    Example:
        >>> import steerkit as sk
        >>> from steerkit.data.preference_loading import load_preferences
        >>> from steerkit.demo.preferences import BAD, GOOD
        >>> some = load_preferences("demo", split="train")[:8]
        >>> found = collect_differences(sk.load("demo"), some, instructions=Instructions(GOOD, BAD))
        >>> len(found), found.layers
        (8, (2, 3, 4))
    """
    _check(pool, dtype, keep_base)
    check_count("shard_responses", shard_responses)
    contrast = find_contrast(taught, instructions=instructions, start=start)
    online = online_differences(
        model, preferences, contrast, layers=layers, site=site, responses=responses, positions=positions,
        max_tokens=max_tokens, pool="token" if pool == "token" else "example", seed=seed,
    )  # fmt: skip
    kept = {**contrast.describe(), "pool": pool, "keep_base": keep_base, "seed": seed,
            "positions": positions, "responses": responses or default_responses(contrast.mode)}  # fmt: skip
    budget = resolve_budget(batch_tokens, None, device=model.info.device)
    manifest = _manifest(online, preferences, kept, dtype=dtype, budget=budget, shard=shard_responses)
    collector = _Collector(online, keep_base=keep_base, pooled=pool != "token", dtype=dtype, budget=budget)
    with attach(model, contrast.weights) as attached:
        manifest |= collector.probe(attached)
        store = collector.fill(attached, manifest, path, overwrite=overwrite, progress=progress)
    return Differences(store, weights=contrast.weights)


@dataclass
class _Collector:
    """Fills a store, shard by shard."""

    online: OnlineDifferences
    keep_base: bool
    pooled: bool
    dtype: str
    budget: int

    def probe(self, attached: Attached) -> dict[str, Any]:
        """The noise and the size of differences and states, for the manifest; refuses differences that are nothing."""
        online, count = self.online, len(self.online.samples)
        some = sorted({round(i * (count - 1) / max(PROBED - 1, 1)) for i in range(PROBED)})
        together = online.read(attached, some, layers=online.layers)
        alone = torch.cat([online.read(attached, [i], layers=online.layers, base=False).shift for i in some], dim=1)
        assert together.base is not None
        norms, noise, base = (
            torch.linalg.vector_norm(rows, dim=-1).mean(dim=1).cpu()
            for rows in (together.shift, together.shift - alone, together.base)
        )
        epsilon = torch.finfo(online.model.hf.dtype).eps
        check_signal(online.layers, norms, noise, base, epsilon=epsilon)
        return {
            name: {str(layer): float(one) for layer, one in zip(online.layers, values, strict=True)}
            for name, values in (("noise", noise), ("shift_norm", norms), ("residual_norm", base))
        }

    def fill(
        self, attached: Attached, manifest: dict[str, Any], path: str | Path | None, *, overwrite: bool, progress: bool
    ) -> Any:
        worker = Worker() if path is None else Worker.here()
        with StoreWriter(path, manifest, overwrite=overwrite, worker=worker) as writer:
            crew = Crew(writer)
            crew.await_begin()
            todo = writer.missing
            writer.begin(self.rows() if writer.needs_index else None, path_taken="plain")
            crew.announce()
            total = sum(end - first for first, end in todo) // 2
            bar = progress_bar(total, show=progress and worker.rank == 0, unit="responses")
            with bar as report, closing(crew.rest(report.say)) as rest:
                for span in chain(todo, rest):
                    writer.put(span, *self.shard(attached, range(span[0] // 2, span[1] // 2), report))
                    if worker.world > 1:
                        writer.settle()
            return writer.finish()

    def rows(self) -> Iterator[Row]:
        """What each row of the store is."""
        aligned, tokenizer = self.online.aligned, self.online.model.tokenizer
        for name, sample in zip(aligned.names, aligned.plain, strict=True):
            first, end = len(sample.ids) - sample.inside, len(sample.ids)
            text = hashlib.sha256(str(sample.ids).encode()).hexdigest()[:16]
            shared = {"pair": name, "token": str(tokenizer.decode([sample.ids[-1]])), "letter": None, "text": text}
            yield {**shared, "side": "shift", "position": end - 1 if self.pooled else [first, end - 1]}
            yield {**shared, "side": "base", "position": [first, end - 1] if self.keep_base else None,
                   "scope": [first, end], "prompt_length": sample.prompt_length, "ids": list(sample.ids)}  # fmt: skip

    def shard(self, attached: Attached, numbers: range, report: Progress) -> tuple[dict[int, Tensor], Tensor]:
        """The rows of some responses by layer, and where each begins."""
        found: dict[int, tuple[Tensor, Tensor | None]] = {}
        for batch in self.batches(numbers):
            rows = self.online.read(attached, batch, layers=self.online.layers, base=self.keep_base)
            counts = self.online.counts(batch)
            shift = pool_rows(rows.shift, counts) if self.pooled else rows.shift
            shifts = torch.split(shift.cpu(), [1] * len(batch) if self.pooled else counts, dim=1)
            bases = [None] * len(batch) if rows.base is None else torch.split(rows.base.cpu(), counts, dim=1)
            found |= {number: both for number, *both in zip(batch, shifts, bases, strict=True)}  # type: ignore[misc]
            report(len(batch))
        sides = [side for number in numbers for side in found[number]]
        counted = [0 if side is None else side.shape[1] for side in sides]
        together = torch.cat([side for side in sides if side is not None], dim=1)
        stored = together.to(DTYPES[self.dtype])
        if not bool(torch.isfinite(stored).all()):
            raise InputError(f"a value of {float(together.abs().max()):.3g} is too large for dtype={self.dtype!r}; use "
                             "'bfloat16' or 'float32'")  # fmt: skip
        rows_by_layer = {layer: stored[i].contiguous() for i, layer in enumerate(self.online.layers)}
        return rows_by_layer, torch.tensor([0, *counted]).cumsum(0)

    def batches(self, numbers: range) -> Iterator[list[int]]:
        """Responses of like length together, longest first; the same for the same responses."""
        order = sorted(numbers, key=lambda i: (-self.online.aligned.longest(i), i))
        while order:
            most = max(1, self.budget // self.online.aligned.longest(order[0]))
            yield order[:most]
            order = order[most:]


def _manifest(
    online: OnlineDifferences,
    preferences: Sequence[Any],
    contrast: dict[str, Any],
    *,
    dtype: str,
    budget: int,
    shard: int | None,
) -> dict[str, Any]:
    info, aligned = online.model.info, online.aligned
    prints = [f"{tone}:{samples.fingerprint}" for tone, samples in sorted(aligned.views.items(), key=str)]
    longest = max(sample.inside for sample in aligned.plain)
    width = info.width(online.site)
    fits = pairs_per_shard(layers=len(online.layers), hidden_size=width, dtype=dtype, tokens=longest)
    return {
        "schema_version": SCHEMA_VERSION,
        "steerkit_version": __version__,
        "kind": "each",
        "model": info.as_dict(),
        "hidden_size": width,
        "site": online.site,
        "layers": list(online.layers),
        "dtype": dtype,
        "read": "response",
        "max_tokens": longest,
        "template": getattr(preferences, "template", None),
        "statistics": None,
        "keep": "rows",
        "data": {"name": str(getattr(preferences, "name", "preferences")),
                 "fingerprint": hashlib.sha256(" ".join(prints).encode()).hexdigest()[:16]},
        "pairs": len(aligned),
        "rows_per_shard": 2 * (shard or fits),
        "batch_tokens": budget,
        "contrast": contrast,
    }  # fmt: skip


def _check(pool: Pool, dtype: str, keep_base: bool) -> None:
    check_pool(pool)
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r} is not valid; choose one of {', '.join(DTYPES)}")
    if not isinstance(keep_base, bool):
        raise InputError(f"keep_base={keep_base!r} is not valid; give True or False")
