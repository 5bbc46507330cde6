"""Recording: contrast pairs through a model, into a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Literal

from steerkit.backends.base import Model
from steerkit.data.pairs import ContrastPair, Pairs
from steerkit.errors import InputError
from steerkit.points import Layers, Site
from steerkit.recording.job import Job, prepare
from steerkit.recording.progress import Progress, progress_bar
from steerkit.recording.reads import Read
from steerkit.recording.runner import ShardRunner
from steerkit.store.activations import ActivationStore
from steerkit.store.crew import Crew
from steerkit.store.statistics import Kept
from steerkit.store.storage import open_folder
from steerkit.store.workers import Span, Worker
from steerkit.store.writer import StoreWriter


def record(  # noqa: PLR0913 - each is a plain choice of the user
    model: Model,
    pairs: Pairs | Sequence[ContrastPair],
    *,
    layers: Layers = "all",
    site: Site = "resid_post",
    read: Read | None = None,
    path: str | Path | None = None,
    dtype: str | None = None,
    max_tokens: int | None = None,
    statistics: Kept | None = None,
    keep: Literal["rows", "statistics"] = "rows",
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    shard_pairs: int | None = None,
    worker: Worker | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ActivationStore:
    """Run both sides of every pair through a model and keep the activations of the tokens read.

    What the two sides share is computed once, tokens after the last one read not at all, and neither are the blocks
    after the last layer asked for, nor logits. Every pair is checked before anything is computed. A store on disk
    grows shard by shard; the same call goes on where an interrupted one stopped and ends with the same bytes, and one
    that differs in model, data or settings is refused. Memory does not grow with the number of pairs.

    Args:
        model: A model.
        pairs: The pairs.
        layers: `"all"` (that have the site), one layer or several, counted from 0.
        site: Where in each block: a word of `Site`. At `"z"` a row holds the outputs of all heads side by side.
        read: `"letter"` (the token with the multiple-choice letter, or the first one that differs), `"last"`, `"mean"`
            (over the answer's tokens), `"each"` (every token of the answer by itself; of the text, where neither side
            has an answer), or an index into the whole sequence, such as -2. Without it `"letter"` where every pair is
            a multiple choice, else `"last"`.
        path: A folder for the store, or an address such as `s3://bucket/store`; without it the store is in memory.
        dtype: What is stored: `"float32"` (default), or `"float16"` or `"bfloat16"` for half the size. Stores are read
            as float32 in any case.
        max_tokens: With `read="each"`, the most tokens kept of a side, from the first; those after are not computed.
        statistics: Also sum up each layer while recording: `"mean"`, or `"covariance"` (three matrices of hidden x
            hidden numbers in float64 for each layer, in memory and on disk). `extract` then reads no rows.
        keep: `"statistics"` stores no rows at all.
        batch_tokens: The most tokens in one forward pass, padding counted, at least 1; 4096 on a CPU and 16384
            elsewhere without it. It is halved when memory runs out, and that is said.
        batch_size: The most pairs in one forward pass, at least 1; no limit without it.
        shard_pairs: Pairs in one file, at least 1: what a crash can cost. Without it as many as fit into 64 MB, at most
            1000.
        worker: Which part of the shards this process records, where several fill one store at `path`; the call returns
            when all of them are there. Without it `Worker.here()`: what torchrun says, else all.
        overwrite: Throw away a store that lies at `path`.
        progress: Show a progress bar, if there is a terminal.

    Returns:
        The store: `store[13].positive` is `[pair, hidden]`; with `read="each"` it holds each pair's tokens.

    Raises:
        InputError: An option is not valid.
        LayerError: A layer does not exist or lacks the site.
        DataError: A pair is longer than the model's context, or the rule finds no token in it.
        MismatchError: The store at `path` was made with something else.
        ModelError: The model gives NaN or infinite activations (they are counted), or a pair does not fit in memory.
        StoreError: The store cannot be written, or somebody else is writing it.

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
    job = prepare(
        model, pairs, layers=layers, site=site, read=read, dtype=dtype, max_tokens=max_tokens, statistics=statistics,
        keep=keep, batch_tokens=batch_tokens, batch_size=batch_size, shard_pairs=shard_pairs,
    )  # fmt: skip
    chosen = _find_worker(worker, path, overwrite)
    tally = job.tally()
    with StoreWriter(path, job.manifest, overwrite=overwrite, worker=chosen, follower=tally) as writer:
        crew = Crew(writer)
        crew.await_begin()
        if tally is not None and writer.stored is not None:
            tally.begin(writer.folder, writer.stored, writer.worker)
        todo = writer.missing
        if todo or tally is not None or writer.needs_index:
            job.begin(writer)
        crew.announce()
        show = progress and chosen.rank == 0
        with progress_bar(sum(end - first for first, end in todo) // 2, show=show) as report:
            if writer.taken_over:
                report.say(writer.taken_over)
            with closing(crew.rest(report.say)) as rest:
                _fill(job, writer, chain(todo, rest), report)
        return writer.finish()


def _find_worker(worker: Worker | None, path: str | Path | None, overwrite: bool) -> Worker:
    if path is None:
        if worker is not None and worker.world > 1:
            raise InputError(f"worker={worker!r} shares a store with others; give a path that all of them reach")
        return Worker()  # in memory each process has its own store, with all pairs
    found = Worker.here() if worker is None else worker
    if found.world > 1 and overwrite and open_folder(path).local is None:
        raise InputError(f"overwrite=True is not valid for {found.world} workers at {path}: beyond this machine they "
                         "cannot tell the old store from the new one. Delete that first")  # fmt: skip
    return found


def _fill(job: Job, writer: StoreWriter, todo: Iterable[Span], report: Progress) -> None:
    packed = (writer.stored or writer.manifest).get("path") == "packed"
    runner = ShardRunner(job.reader, packed, job.tokens, job.most, job.manifest["dtype"], report)
    ragged = job.manifest["kind"] == "each"
    for first, end in todo:
        rows, offsets = runner.shard(job.planner.between(first // 2, end // 2))
        writer.put((first, end), rows, offsets if ragged else None)
        if writer.worker.world > 1:
            writer.settle()  # so that a worker that is killed costs one shard; alone, writing goes on behind the next
    if runner.halvings:
        report.say(f"memory ran out {runner.halvings} times; batch_tokens={runner.tokens} was enough in the end")
