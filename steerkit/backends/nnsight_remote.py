"""nnsight's remote execution: what is sent is a plan of tensors and names, and tensors come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor

from steerkit.backends import nnsight_steps
from steerkit.backends.base import Hook
from steerkit.backends.layouts import Parts, path_in
from steerkit.backends.nnsight_steps import visit
from steerkit.backends.passes import PassCounter
from steerkit.backends.provenance import SAMPLE, fingerprint_samples
from steerkit.backends.taps import Release, Tap, Taps
from steerkit.errors import ModelError
from steerkit.points import SITES, Point, Site
from steerkit.positions import Pass

INWARD: tuple[Site, ...] = ("resid_pre", "z")
UNSENT = (
    "{what} is Python that a server does not have: under remote execution activations are changed by operations known "
    "by name (add, ablate, clamp, with or without preserve_norm). Use one of them, or set remote=False"
)


class RemoteTaps(Taps):
    """Points read and written on another machine.

    A function that has a `spec` (the name of an operation and its tensors) is carried out there by that name, and told
    through `receive` what was done. Any other only reads: the activations come back, and it is called with them here.

    Args:
        nn: nnsight's model.
        parts: Where the points lie.
        passes: Knows what steerkit tells of its prompts.
    """

    def __init__(self, nn: Any, parts: Parts, passes: PassCounter) -> None:
        super().__init__(passes)
        self._nn = nn
        self._parts = parts
        self._sent: list[tuple[int, Point, Hook]] = []
        self.plan: dict[str, Any] = {"decoder": parts.layout.decoder, "told": None, "given": None, "real": None}
        self.log: dict[str, list[Any]] = {}

    @contextmanager
    def open(self, point: Point, fn: Hook) -> Iterator[None]:
        """See `Taps.open`.

        Raises:
            ModelError: An operation has no name that a server knows.
        """
        if hasattr(fn, "spec") and fn.spec is None:
            raise ModelError(UNSENT.format(what=repr(fn)))
        try:
            with super().open(point, fn):
                self._write_plan()
                yield
        finally:
            self._write_plan()

    def register(self, _point: Point, _tap: Tap, /) -> Iterable[Release]:
        """Nothing by point: the plan names all of them."""
        return ()

    def watch(self) -> Release:
        """Store an edit that carries out the plan, in traces of the user's own too."""
        from nnsight.intervention.interleaver import OutOfOrderError
        from nnsight.intervention.iterator import Iterations
        from nnsight.ndif import register

        register(nnsight_steps)
        model, plan, log = self._nn, self.plan, self.log
        stored = len(model._edits)
        with model.edit(inplace=True):  # noqa: SIM117 - only what is inside is stored
            with suppress(OutOfOrderError):
                for step in Iterations():
                    visit(model, plan, log, step)
        edit = model._edits[stored]
        return lambda: model._edits.remove(edit) if edit in model._edits else None

    @contextmanager
    def told(self) -> Iterator[dict[str, list[Any]]]:
        """Send what is known of the prompts along with a pass; what comes back goes into the log that is given."""
        told: dict[str, list[Any]] = {}
        self.plan.update(self.passes.announced)
        self.log.clear()
        try:
            yield told
        finally:
            self.plan.update(told=None, given=None, real=None)
        self._deliver(told)

    def _deliver(self, log: dict[str, list[Any]]) -> None:
        """Call everyone as if the passes ran here.

        Raises:
            ModelError: A function that was to read returned something.
        """
        for seen, done in zip(log.get("passes", ()), log.get("done", ()), strict=True):
            pass_ = Pass(seen["batch"], seen["length"], seen["ends"], seen["past"], seen["flat"], seen["position"],
                         False, seen["prompts"])  # fmt: skip
            for number, _, fn in self._sent:
                if number not in done:
                    continue
                receive: Callable[..., None] | None = getattr(fn, "receive", None)
                if hasattr(fn, "spec"):
                    if receive is not None:
                        receive(*done[number])
                elif isinstance(fn(done[number], pass_), Tensor):
                    raise ModelError(UNSENT.format(what=repr(fn)))

    def _write_plan(self) -> None:
        """The places in the order in which a pass comes by, with the tasks at each."""
        self._sent = []
        places = []
        for layer in sorted({point.layer for point in self._taps}):
            mid = self._taps.get(Point(layer, "resid_mid"))
            for site in SITES:
                tap = self._taps.get(Point(layer, site))
                over = mid is not None and site in ("resid_pre", "attn_out")
                if site == "resid_mid" or (tap is None and not over):
                    continue
                places.append({
                    "site": site,
                    "path": self._path(layer, site),
                    "inward": site in INWARD,
                    "tasks": self._tasks(Point(layer, site), tap),
                    "mid": self._tasks(Point(layer, "resid_mid"), mid) if site == "attn_out" else [],
                })  # fmt: skip
        self.plan["places"] = places

    def _tasks(self, point: Point, tap: Tap | None) -> list[dict[str, Any]]:
        tasks = []
        for fn in [] if tap is None else tap.functions:
            number = len(self._sent)
            self._sent.append((number, point, fn))
            tasks.append({**getattr(fn, "spec", {"operation": "read"}), "id": number})
        return tasks

    def _path(self, layer: int, site: Site) -> str:
        layout = self._parts.layout
        inside = {"attn_out": layout.attn, "mlp_out": layout.mlp, "z": layout.heads}.get(site)
        own = path_in(self._parts.blocks[layer], inside)
        return ".".join(part for part in (layout.decoder, layout.blocks, str(layer), own) if part)


def remote_fingerprint(nn: Any, remote: bool | str) -> str:
    """The fingerprint of weights that only the server has.

    Args:
        nn: nnsight's model, which may hold no weights.
        remote: As nnsight's own.
    """
    import torch
    from nnsight.ndif import register

    register(nnsight_steps)
    look, count = nnsight_steps.sample, SAMPLE
    with nn.trace(torch.zeros(1, 1, dtype=torch.long), remote=remote) as tracer:
        samples = look(nn._module, count).save()
        tracer.stop()
    return fingerprint_samples((name, shape, values if len(values) else None)
                               for name, (shape, values) in samples.items())  # fmt: skip
