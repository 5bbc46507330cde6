"""nnsight: a `TransformersModel`, read and written inside its traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from steerkit.backends.causal import CausalModel
from steerkit.backends.layouts import Parts, path_in
from steerkit.backends.nnsight_remote import RemoteTaps, remote_fingerprint
from steerkit.backends.passes import PassCounter
from steerkit.backends.taps import MidTap, Release, Tap, Taps
from steerkit.errors import ModelError
from steerkit.points import SITES, Point, Site


class NNsightModel(CausalModel):
    """A `TransformersModel` (or `LanguageModel`) of nnsight 0.8.

    Every pass is a trace. Hooks are one stored edit, replayed in each step of a trace, so that they also act in traces
    and generations that the user opens.

    Args:
        nn: nnsight's model.
        tokenizer: Its tokenizer; without it the model's own.
        name: Where it came from.
        revision: Of the hub.
        remote: Where passes run: `False` here, `True` on nnsight's server, the address of another, or `"local"`, which
            rehearses the sending here. Then a plan of tensors and operations' names travels, and tensors come back.

    Raises:
        ModelError: The object is no `TransformersModel`, has no tokenizer, or was never loaded (`dispatch=True` loads
            it; under `remote` it need not be).
    """

    backend: ClassVar[str] = "nnsight"

    def __init__(
        self, nn: Any, tokenizer: Any = None, *, name: str = "", revision: str = "", remote: bool | str = False
    ) -> None:
        _check(nn, tokenizer, remote)
        self.nn = nn
        self._remote = remote
        fingerprint = "" if nn.dispatched else remote_fingerprint(nn, remote)
        super().__init__(nn._module, tokenizer or nn.tokenizer, name=name, revision=revision, fingerprint=fingerprint)

    @classmethod
    def wrap(cls, hf: Any, tokenizer: Any, *, name: str = "", revision: str = "") -> NNsightModel:
        """Put nnsight around a transformers model."""
        from nnsight.modeling.transformers import TransformersModel

        return cls(TransformersModel(hf, tokenizer=tokenizer, task="text-generation"), tokenizer, name=name,
                   revision=revision)  # fmt: skip

    @staticmethod
    def claims(source: Any) -> bool:
        """Whether an object is nnsight's."""
        return any(cls.__module__.startswith("nnsight.") for cls in type(source).__mro__)

    @property
    def remote(self) -> bool | str:
        """Where passes run; see the class. It may be set while nothing is hooked.

        Raises:
            ModelError: Something is hooked, or the model holds no weights to run here.
        """
        return self._remote

    @remote.setter
    def remote(self, remote: bool | str) -> None:
        if self._taps.in_use:
            raise ModelError("something is hooked at this moment; leave its block before you change where passes run")
        _check(self.nn, self.tokenizer, remote)
        self._remote = remote
        self._taps = self._make_taps()

    @property
    def device(self) -> torch.device:
        """Where tokens are fed."""
        return super().device if self.nn.dispatched else torch.device("cpu")

    def _make_taps(self) -> Taps:
        kind = RemoteTaps if self._remote else TraceTaps
        return kind(self.nn, self.parts, self._passes)

    def _run(self, arguments: dict[str, Any]) -> Tensor:
        model, kind = self.nn, self.parts.layout.cache
        cache = arguments.get(kind)
        with self._told() as told:
            log, remote = cast(Any, self._log), self._remote
            with model.trace(remote=remote, **arguments):
                logits = model.output.logits.save()
                record = log.save()
                kept = model.output.get(kind).save()
            told.update(record)
        if remote and cache is not None and kept is not cache:
            vars(cache).update(vars(kept))
        return cast(Tensor, logits)

    def _run_until(self, arguments: dict[str, Any], layer: int) -> None:
        model, layout = self.nn, self.parts.layout
        block = model.get(layout.decoder).get(layout.blocks)[layer]
        with self._told() as told:
            log, remote = cast(Any, self._log), self._remote
            with model.trace(remote=remote, **arguments) as tracer:
                block.output  # noqa: B018 - waits for it
                record = log.save()
                tracer.stop()
            told.update(record)

    def _sequences(self, arguments: dict[str, Any]) -> Tensor:
        model = self.nn
        with self._told() as told:
            log, remote = cast(Any, self._log), self._remote
            with model.generate(remote=remote, **arguments) as tracer:
                ids = tracer.result.save()
                record = log.save()
            told.update(record)
        return ids if isinstance(ids, Tensor) else cast(Tensor, ids.sequences)

    def _told(self) -> AbstractContextManager[dict[str, list[Any]]]:
        return self._taps.told() if isinstance(self._taps, RemoteTaps) else nullcontext({})

    @property
    def _log(self) -> dict[str, list[Any]]:
        return self._taps.log if isinstance(self._taps, RemoteTaps) else {}


def _check(nn: Any, tokenizer: Any, remote: bool | str) -> None:
    from nnsight.modeling.transformers import TransformersModel

    if not isinstance(nn, TransformersModel):
        raise ModelError(f"{type(nn).__name__} does not say what its model is; wrap it as "
                         "nnsight.TransformersModel(hf_model, tokenizer=tok, task='text-generation')")  # fmt: skip
    if tokenizer is None and nn.tokenizer is None:
        raise ModelError("this nnsight model has no tokenizer; give one: sk.load(nn_model, tokenizer=tok)")
    if not nn.dispatched and not remote:
        raise ModelError("this nnsight model holds no weights yet; load it with dispatch=True, or call .dispatch(). "
                         "Only NNsightModel(model, remote=True) runs without")  # fmt: skip


class TraceTaps(Taps):
    """Points read and written by one stored edit of an nnsight model."""

    def __init__(self, nn: Any, parts: Parts, passes: PassCounter) -> None:
        super().__init__(passes)
        self._nn = nn
        self._parts = parts
        self._decoder = nn.get(parts.layout.decoder)
        self._blocks = self._decoder.get(parts.layout.blocks)

    def register(self, _point: Point, _tap: Tap, /) -> Iterator[Release]:
        """Nothing by point: the edit goes through all of them in each pass."""
        return iter(())

    def watch(self) -> Release:
        """Store the edit while any point is in use."""
        from nnsight.intervention.interleaver import OutOfOrderError

        model, visit, detach = self._nn, self._visit, self.passes.attach(hooked=False)
        stored = len(model._edits)
        with model.edit(inplace=True) as tracer:
            steps = tracer.iter[:]
            with suppress(OutOfOrderError):
                for _ in steps:
                    visit()
        edit = model._edits[stored]

        def release() -> None:
            if edit in model._edits:  # the user may have cleared them
                model._edits.remove(edit)
            detach()

        return release

    def _visit(self) -> None:
        """Go through one pass in the order in which the model computes it."""
        self.passes.before(None, *self._decoder.inputs)
        for layer in sorted({point.layer for point in self._taps}):
            mid = self._taps.get(Point(layer, "resid_mid"))
            if isinstance(mid, MidTap):
                mid.entering = self._edit(layer, "resid_pre", [self._taps.get(Point(layer, "resid_pre"))])
            for site in SITES:
                taps = [self._taps.get(Point(layer, site))]
                if site == "attn_out":
                    taps.append(mid)
                if site != "resid_mid" and not (mid and site == "resid_pre") and any(taps):
                    self._edit(layer, site, taps)

    def _edit(self, layer: int, site: Site, taps: list[Tap | None]) -> Tensor:
        """Run taps on what a module is given or returns, and put the result in its place."""
        at = self._at(layer, site)
        inward = site in ("resid_pre", "z")
        given = at.input if inward else at.output
        hidden = first = given[0] if isinstance(given, tuple) else given
        for tap in taps:
            hidden = hidden if tap is None else tap.run(hidden)
        if hidden is not first:
            if inward:
                at.input = hidden
            else:
                at.output = (hidden, *given[1:]) if isinstance(given, tuple) else hidden
        return cast(Tensor, hidden)

    def _at(self, layer: int, site: Site) -> Any:
        layout = self._parts.layout
        paths = {"attn_out": layout.attn, "mlp_out": layout.mlp, "z": layout.heads}.get(site)
        path = path_in(self._parts.blocks[layer], paths)
        return self._blocks[layer] if path is None else self._blocks[layer].get(path)
