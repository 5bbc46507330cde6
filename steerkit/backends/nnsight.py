"""nnsight: a `TransformersModel`, read and written inside its traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar, cast

from torch import Tensor

from steerkit.backends.causal import CausalModel
from steerkit.backends.layouts import Parts, path_in
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

    Raises:
        ModelError: The model was never loaded (`dispatch=True` loads it).
    """

    backend: ClassVar[str] = "nnsight"

    def __init__(self, nn: Any, tokenizer: Any = None, *, name: str = "", revision: str = "") -> None:
        if not getattr(nn, "dispatched", True):
            raise ModelError("this nnsight model holds no weights yet; load it with dispatch=True or call .dispatch()")
        self.nn = nn
        super().__init__(nn._module, tokenizer or nn.tokenizer, name=name, revision=revision)

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

    def _make_taps(self) -> Taps:
        return TraceTaps(self.nn, self.parts, self._passes)

    def _run(self, arguments: dict[str, Any]) -> Tensor:
        model = self.nn
        with model.trace(**arguments):
            logits = model.output.logits.save()
        return cast(Tensor, logits)

    def _run_until(self, arguments: dict[str, Any], layer: int) -> None:
        model, layout = self.nn, self.parts.layout
        block = model.get(layout.decoder).get(layout.blocks)[layer]
        with model.trace(**arguments) as tracer:
            block.output  # noqa: B018 - waits for it
            tracer.stop()

    def _sequences(self, arguments: dict[str, Any]) -> Tensor:
        model = self.nn
        with model.generate(**arguments) as tracer:
            ids = tracer.result.save()
        return ids if isinstance(ids, Tensor) else cast(Tensor, ids.sequences)


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
