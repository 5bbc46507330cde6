"""The teacher that wants a state to move along its difference."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.adapters import Attached
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError, SteerkitWarning
from steerkit.points import Site
from steerkit.training.differences.online_differences import OnlineDifferences
from steerkit.training.differences.stored_differences import Differences, check_layers
from steerkit.training.distilling.samples import Samples
from steerkit.training.distilling.targets import Targets


class DifferenceTeacher:
    r"""Targets $h_l + \alpha v_l$ at the tokens of responses: an absolute state at each layer, not a sum over layers.

    Differences from a store and differences computed anew are the same numbers.

    Args:
        model: The model that is trained.
        source: Differences, from a store or computed anew.
        alpha: How far to go along the difference; negative turns it round, 0 asks for no change.
        layers: Some of the source's layers; left out, all.

    Raises:
        InputError: `alpha` is not finite, or the source is none.
        LayerError: The source lacks a layer.
        MismatchError: The source was read from another model, or needs weights that are not given.

    Warns:
        SteerkitWarning: The change is longer than the state itself at some layer ($\alpha \rho > 1$). It is then only a
            direction to go in, and training may break the model.

    Source: Liu et al. 2024 (RAHF), equation of the distillation; Zou et al. 2023 (LORRA), algorithm 1 with
    $\beta = 0$. They use $\alpha = 5$.
    """

    def __init__(
        self,
        model: HuggingFaceModel,
        source: Differences | OnlineDifferences,
        *,
        alpha: float = 1.0,
        layers: Sequence[int] | None = None,
    ) -> None:
        check_alpha(alpha)
        if not isinstance(source, Differences | OnlineDifferences):
            raise InputError(f"the source is a {type(source).__name__}; give what collect_differences or "
                             "online_differences returns")  # fmt: skip
        if isinstance(source, Differences):
            source.check(model)
        elif source.model is not model:
            raise InputError("the differences are computed with another model object; give the same one")
        self.source = source
        self.alpha = float(alpha)
        self.layers: tuple[int, ...] = check_layers(source.layers if layers is None else layers, source.layers)
        self.site: Site = source.site
        self.samples: Samples = source.samples
        self.adapters: Mapping[str, Any] = source.adapters
        self.start: tuple[str, ...] = source.start
        if isinstance(source, Differences):
            self._warn(source)

    def targets(self, attached: Attached, indices: Sequence[int]) -> Targets:
        """The targets of some samples; see `Teacher.targets`."""
        rows = self.source.take(attached, indices, layers=self.layers)
        assert rows.base is not None
        return Targets(rows.base, self.alpha * rows.shift)

    def identity(self) -> dict[str, Any]:
        """What decides the targets."""
        return {
            "teacher": "differences",
            **{key: value for key, value in self.source.describe().items() if key not in ("keep_base", "seed")},
            "alpha": self.alpha,
            "layers": list(self.layers),
            "site": self.site,
            "samples": self.samples.fingerprint,
        }

    def _warn(self, source: Differences) -> None:
        rho = {layer: source.rho(layer) for layer in self.layers}
        layer, most = max(rho.items(), key=lambda one: one[1])
        if abs(self.alpha) * most > 1:
            warnings.warn(
                f"alpha={self.alpha:g} asks for a change {abs(self.alpha) * most:.2g} times as long as the state at "
                f"layer {layer}: a direction to go in, not a state to reach. Lower alpha, or watch the divergence from "
                "the base",
                SteerkitWarning,
                stacklevel=3,
            )


def check_alpha(alpha: float) -> None:
    """Refuse a strength that is no number.

    Raises:
        InputError: It is not a finite number.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InputError(f"alpha={alpha!r} is not valid; give a finite number")
