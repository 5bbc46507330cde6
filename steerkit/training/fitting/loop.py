"""The one loop that trains: seeded order, gradient accumulation, several processes, checkpoints."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.errors import InputError, TrainingError
from steerkit.training.fitting.checkpoints import Checkpoint
from steerkit.training.fitting.curves import Curve
from steerkit.training.fitting.fit import Fit
from steerkit.training.fitting.live import Describe, Row, shown
from steerkit.training.fitting.ranks import Ranks

Step = Callable[[list[int], list[int]], tuple[Tensor, dict[str, float]]]
"""Called with the numbers of the items of a piece and of the whole batch it is from.

It returns the piece's share of the batch's loss, and further numbers. Both are added up over pieces and processes, so
each term is divided by its own count over the whole batch. The backward pass comes after it.
"""


def train(
    parameters: Sequence[nn.Parameter],
    count: int,
    step: Step,
    *,
    fit: Fit,
    path: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    describe: Describe | None = None,
    progress: bool = True,
) -> Curve:
    """Train parameters in place by AdamW.

    The items come in a random order without replacement, drawn anew each time all have come; it depends on the seed
    alone. So do the random numbers within a step (on the process too), and the caller's random state is left as it was.
    The result does not depend on how often it was interrupted, bit for bit, nor, but for rounding, on `fit.accumulate`
    and on the number of processes that torchrun started.

    Args:
        parameters: What is trained.
        count: How many items there are.
        step: The loss of some items.
        fit: The settings.
        path: A folder for checkpoints and `curve.jsonl`; the same call goes on where an earlier one stopped. Processes
            share it.
        identity: What else decides the result, as plain values; a folder with another training is refused.
        describe: A step's numbers in a few words, for the bar.
        progress: Show a bar, where somebody is there to see it.

    Raises:
        InputError: Nothing to train, or nothing to train on.
        MismatchError: The folder holds another training.
        TrainingError: A loss or gradient is not finite (the step is named, and not made), or no parameter takes part.
    """
    parameters = list(parameters)
    if not parameters or count < 1:
        raise InputError(f"{len(parameters)} parameters and {count} items; give at least one of each")
    ranks = Ranks.join()
    optimizer = torch.optim.AdamW(parameters, lr=fit.lr, weight_decay=fit.weight_decay, fused=True)
    kept = Checkpoint(path, {**(identity or {}), "fit": fit.decisive, "items": count, "processes": ranks.size})
    rows = kept.restore(parameters, optimizer)
    ranks.agree(len(rows), on="the steps that were done before")
    ranks.copy_first(parameters)
    folder = None if path is None or not ranks.first else Path(path)
    live = shown(rows, fit.steps, show=progress and ranks.first, folder=folder, describe=describe or _loss)
    with _own_randomness(), live as show:
        for number in range(len(rows), fit.steps):
            row = _advance(parameters, optimizer, step, number, count=count, fit=fit, ranks=ranks)
            rows.append(row)
            show(row)
            last = number + 1 == fit.steps
            if ranks.first and (last or (fit.checkpoint_every and (number + 1) % fit.checkpoint_every == 0)):
                kept.keep(parameters, optimizer, rows)
    ranks.wait()
    return Curve(tuple(rows))


def batch_at(step: int, *, count: int, batch: int, seed: int) -> list[int]:
    """The items of a step: those of one epoch after the other, each in a random order of its own.

    Example:
        >>> sorted(batch_at(0, count=4, batch=2, seed=0) + batch_at(1, count=4, batch=2, seed=0))
        [0, 1, 2, 3]
    """
    places = range(step * batch, (step + 1) * batch)
    return [_order(count, seed, place // count)[place % count] for place in places]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(_seed(seed, "order", epoch))
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order


def _advance(
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step: Step,
    number: int,
    *,
    count: int,
    fit: Fit,
    ranks: Ranks,
) -> dict[str, float]:
    started, lr = time.perf_counter(), fit.lr_at(number)
    torch.manual_seed(_seed(fit.seed, "step", number, ranks.rank))
    optimizer.zero_grad(set_to_none=True)
    batch = batch_at(number, count=count, batch=fit.batch, seed=fit.seed)
    found: dict[str, float] = {}
    for piece in ranks.share(batch, fit.accumulate):
        loss, numbers = step(piece, batch)
        if not loss.requires_grad:
            raise TrainingError(f"step {number}: the loss depends on no parameter that is trained")
        loss.backward()  # type: ignore[no-untyped-call]
        for name, value in {"loss": float(loss.detach()), **numbers}.items():
            found[name] = found.get(name, 0.0) + value
    ranks.add_gradients(parameters)
    found = ranks.add_numbers(found, parameters[0].device)
    norm = float(nn.utils.clip_grad_norm_(parameters, math.inf if fit.clip is None else fit.clip))
    if not (math.isfinite(found["loss"]) and math.isfinite(norm)):
        raise TrainingError(f"step {number}: the loss is {found['loss']:g} and the gradient has length {norm:g}; the "
                            f"step was not made. Lower lr ({fit.lr:g}), or look for NaN in the targets")  # fmt: skip
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return {"step": number, **found, "lr": lr, "grad_norm": norm, "seconds": time.perf_counter() - started}


@contextmanager
def _own_randomness() -> Iterator[None]:
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


def _seed(*parts: object) -> int:
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _loss(row: Row) -> str:
    return f"loss {row['loss']:.4g}"
