"""What the student's states are to be, and who says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from steerkit.adapters.attached import Attached
from steerkit.points import Site
from steerkit.training.distilling.samples import Samples


@dataclass(frozen=True, eq=False)
class Targets:
    """Target states of one batch, at the tokens in scope in the row-major order of the scope's mask.

    Base and shift stay apart: their sum would round a small shift away where a state has a very large coordinate.

    Args:
        base: The states without the change, float32.
        shift: The change, float32; every coefficient is in it already.
        outside: What the states of the real tokens out of scope are to be, where the teacher knows; left out, they are
            to stay those of the base.
    """

    base: Float[Tensor, "layer token hidden"]
    shift: Float[Tensor, "layer token hidden"]
    outside: Float[Tensor, "layer rest hidden"] | None = None

    @property
    def wanted(self) -> Float[Tensor, "layer token hidden"]:
        """What the student's states are to be."""
        return self.base + self.shift


@runtime_checkable
class Teacher(Protocol):
    """Who knows the targets: edits of the model, differences of its states, or anything else of this form.

    Attributes:
        layers: Blocks whose states have targets, ascending.
        site: Where in the block.
        samples: The sequences that the student sees.
        adapters: Weights to attach beside the student's, by name.
        start: Which of them stay on under the student; `()` for the plain base.
    """

    layers: tuple[int, ...]
    site: Site
    samples: Samples
    adapters: Mapping[str, Any]
    start: tuple[str, ...]

    def targets(self, attached: Attached, indices: Sequence[int]) -> Targets:
        """The targets of some samples, without gradients; whatever acts before the call acts again after it.

        The base state is that of `attached.only(*self.start)`. `indices` index `self.samples`; the batch is
        `self.samples.batch(indices, pad_id=attached.model.pad_id)`.
        """
        ...

    def identity(self) -> Mapping[str, Any]:
        """What decides the targets, as plain values for provenance and for resuming."""
        ...
