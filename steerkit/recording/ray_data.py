"""Recording on a cluster with Ray Data: a pool of actors with a model each, over the shards of one store."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from steerkit.backends.base import Model
from steerkit.data.pairs import ContrastPair, Pairs
from steerkit.errors import InputError, MismatchError, SteerkitError
from steerkit.points import Layers, Site
from steerkit.recording.job import Job, prepare
from steerkit.recording.progress import Progress, progress_bar
from steerkit.recording.reads import Read
from steerkit.recording.runner import ShardRunner
from steerkit.store.activations import ActivationStore
from steerkit.store.locks import WriterLock
from steerkit.store.manifest import read_manifest
from steerkit.store.shards import find_shards, read_shard, spans, write_shard
from steerkit.store.statistics import Kept
from steerkit.store.storage import Folder, open_folder
from steerkit.store.workers import Span, Worker
from steerkit.store.writer import StoreWriter

Source = str | Path | Callable[[], Model]
Batch = Mapping[str, Any]


def record_with_ray(  # noqa: PLR0913 - the choices of `record`, one by one
    source: Source,
    pairs: Pairs | Sequence[ContrastPair],
    *,
    path: str | Path,
    workers: int = 2,
    num_gpus: float = 0,
    layers: Layers = "all",
    site: Site = "resid_post",
    read: Read | None = None,
    dtype: str | None = None,
    max_tokens: int | None = None,
    statistics: Kept | None = None,
    keep: Literal["rows", "statistics"] = "rows",
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    shard_pairs: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ActivationStore:
    """`record` by several actors of a Ray cluster; the store has the same bytes, and either call goes on with it.

    Each actor loads the model once and takes shard by shard; it writes them itself, and only a line about each comes
    back. An actor that dies is started again and costs the shard it was computing. Before them one task checks every
    pair and begins the store. The cluster is the one that Ray is connected to (`ray.init`, `RAY_ADDRESS`), else one on
    this machine for the time of the call.

    Args:
        source: What `sk.load` takes as text: `"demo"`, a folder that all machines reach, or a hub id. Or a function
            without arguments that returns a model, for other ways of loading.
        pairs: The pairs; those of a shard are sent with it.
        path: A folder that all machines reach, or an address such as `s3://bucket/store`.
        workers: How many actors, at least 1.
        num_gpus: GPUs for each, such as 1; with a text as source the model is then loaded onto `"cuda"`.
        layers: As in `record`, and so are all that follow.
        site: Where in each block.
        read: What is read of each side.
        dtype: What is stored.
        max_tokens: With `read="each"`, the most tokens kept of a side.
        statistics: What is summed up. Each actor writes its sums to the disk after each shard.
        keep: Whether rows are stored.
        batch_tokens: The most tokens in one forward pass.
        batch_size: The most pairs in one forward pass.
        shard_pairs: Pairs in one file.
        overwrite: Throw away a store that lies at `path`.
        progress: Show a progress bar, if there is a terminal.

    Raises:
        InputError: An option is not valid, or Ray is not installed.
        DataError: A pair is longer than the model's context, or the rule finds no token in it.
        MismatchError: The store at `path` was made with something else.
        ModelError: The model cannot be loaded, or gives NaN or infinite activations.
        StoreError: The store cannot be written, or somebody else is writing it.

    Example:
        ```python
        store = record_with_ray("demo", pairs, path="acts/mood", workers=2)
        ```
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers={workers!r} is not valid; give an integer of at least 1")
    if isinstance(num_gpus, bool) or not isinstance(num_gpus, int | float) or num_gpus < 0:
        raise InputError(f"num_gpus={num_gpus!r} is not valid; give a number of at least 0")
    options = {
        "layers": layers, "site": site, "read": read, "dtype": dtype, "max_tokens": max_tokens,
        "statistics": statistics, "keep": keep, "batch_tokens": batch_tokens, "batch_size": batch_size,
        "shard_pairs": shard_pairs,
    }  # fmt: skip
    given = pairs if isinstance(pairs, Pairs) else Pairs(list(pairs))
    ray, folder = _import_ray(), open_folder(path)
    with _cluster(ray), _lock(path):
        needs = {"num_gpus": num_gpus, "num_cpus": _cpus(ray, workers)}
        about = {
            "source": source, "path": str(path), "options": options, "gpu": num_gpus > 0, "place": str(Path.cwd()),
        }  # fmt: skip
        todo = _ask(ray, ray.remote(_begin).options(**needs, max_retries=0).remote(about, given, overwrite))
        items = ({"first": a, "end": b, "pairs": pickle.dumps(given[a // 2 : b // 2])} for a, b in todo)
        longest = given[slice(*_longest(folder))]
        with _quiet(ray), progress_bar(sum(b - a for a, b in todo) // 2, show=progress) as report:
            _run(ray, list(items), {**about, "longest": longest}, workers, needs, report)
    return ActivationStore.open(folder.local or folder.path)


def _import_ray() -> Any:
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray.data
    except ImportError as error:
        raise InputError(f"Ray is not installed ({error}); pip install 'steerkit[ray]'") from error
    return ray


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """The cluster that Ray is connected to, else one for now."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def _lock(path: str | Path) -> AbstractContextManager[object]:
    """For the whole time this process keeps other writers out, in place of its actors."""
    folder = open_folder(path).local
    return nullcontext() if folder is None else WriterLock(folder, Worker())


def _cpus(ray: Any, workers: int) -> float:
    """CPUs for each actor, so that one is left for Ray's own tasks: without it a pipeline waits forever."""
    return float(min(1.0, max(0.0, ray.cluster_resources().get("CPU", 1.0) - 1) / workers))


def _ask(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SteerkitError):
            raise error.cause from None
        raise


def _run(
    ray: Any, items: Sequence[Batch], about: Batch, workers: int, needs: Mapping[str, float], report: Progress
) -> None:
    """Send the shards through the actors.

    Raises:
        SteerkitError: What went wrong with one of them.
    """
    if not items:
        return
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ShardActor, fn_constructor_kwargs={"about": about}, batch_size=1, batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))), **needs,
    )  # fmt: skip
    for row in rows.iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        report((row["end"] - row["first"]) // 2)


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Without Ray Data's own bars and lines about its plans; there is one bar already."""
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


def _longest(folder: Folder) -> tuple[int, int]:
    number = int(read_manifest(folder)["longest"]["pair"])
    return number, number + 1


def _prepare(about: Mapping[str, Any], pairs: Pairs, **more: Any) -> Job:
    """What `record` would do, in another process: its model loaded, and its choices checked."""
    import torch

    from steerkit.backends.loading import load

    with suppress(OSError):
        os.chdir(about["place"])  # relative paths are those of the caller
    if not about["gpu"]:
        torch.set_num_threads(1)
    source = about["source"]
    model = source() if callable(source) else load(source, device="cuda" if about["gpu"] else None)
    return prepare(model, pairs, **{**about["options"], **more})


def _begin(about: Mapping[str, Any], pairs: Pairs, overwrite: bool) -> list[Span]:
    """Check every pair and begin the store, or go on with it; the shards that are missing."""
    job = _prepare(about, pairs)
    tally = job.tally()
    with StoreWriter(about["path"], job.manifest, overwrite=overwrite, follower=tally, locked=False) as writer:
        if writer.missing or tally is not None or writer.needs_index:
            job.begin(writer)
        return writer.missing


class ShardActor:
    """One of the pool: a model, and what is needed to compute any shard."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._stored = stored = read_manifest(open_folder(about["path"]))
        self._job = job = _prepare(about, about["longest"], read=stored["read"])
        self._folder = open_folder(about["path"])
        self._spans = spans(2 * stored["pairs"], stored["rows_per_shard"])
        self._tally = job.tally()
        self._begun = False
        job.planner.longest_side = stored["longest"]["side_tokens"]
        self._taken = job.choose_path()["path"]
        quiet = Progress(lambda _count: None, lambda _text: None)
        self._runner = ShardRunner(job.reader, self._taken == "packed", job.tokens, job.most, stored["dtype"], quiet)

    def __call__(self, batch: Batch) -> dict[str, list[Any]]:
        """Compute and write some shards; a line about each."""
        given = zip(batch["first"], batch["end"], batch["pairs"], strict=True)
        lines = [self._line((int(a), int(b)), pickle.loads(pairs)) for a, b, pairs in given]
        return {name: [line[name] for line in lines] for name in lines[0]}

    def _line(self, span: Span, pairs: Pairs) -> dict[str, Any]:
        start, error = time.perf_counter(), b""
        try:
            self._do(span, pairs)
        except SteerkitError as failed:  # as itself, which Ray would wrap, and retry
            error = pickle.dumps(failed)
        return {
            "first": span[0], "end": span[1], "seconds": time.perf_counter() - start, "error": error,
            "worker": f"{socket.gethostname()}:{os.getpid()}",
        }  # fmt: skip

    def _do(self, span: Span, pairs: Pairs) -> None:
        if self._taken != self._stored["path"]:
            raise MismatchError(f"the rows in {self._folder.path} are computed {self._stored['path']!r}, an actor on "
                                f"{socket.gethostname()} would compute them {self._taken!r}; take machines of one "
                                "kind")  # fmt: skip
        if self._is_counted(span) and self._stored["keep"] == "statistics":
            return
        if find_shards(self._folder, [span]):  # by one that died before it could say so
            rows, offsets = read_shard(self._folder, span, self._stored)
        else:
            rows, edges = self._runner.shard(replace(self._job.planner, pairs=pairs).between(0, len(pairs)))
            offsets = edges if self._stored["kind"] == "each" else None
            if self._stored["keep"] == "rows":
                write_shard(self._folder, span, rows, self._stored, offsets=offsets)
        if self._tally is not None:
            self._tally.put(span, rows, offsets)
            self._tally.finish()

    def _is_counted(self, span: Span) -> bool:
        if self._tally is None:
            return False
        if not self._begun:  # its file is named after the first shard it counts, which no other counts
            self._tally.begin(self._folder, self._stored, Worker(self._spans.index(span), len(self._spans)))
            self._begun = True
        self._tally.refresh()
        return self._tally.has(span)
