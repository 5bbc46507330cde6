"""A steering vector as one constant for each block, whatever the token."""

from __future__ import annotations

from torch import Tensor

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import SteeringError, VectorError
from steerkit.steering import Edit
from steerkit.steering.edits import LayerChoice, Unit
from steerkit.steering.placement import place
from steerkit.vectors import SteeringVector


def constants(
    model: HuggingFaceModel,
    vector: SteeringVector | Tensor,
    *,
    layer: LayerChoice,
    coef: float,
    unit: Unit = "raw",
    override: bool = False,
) -> dict[int, Tensor]:
    """What `Steer.add(..., positions="all")` would add at each block, `coef * v`, in float32.

    Raises:
        InputError: The vector does not fit the model; see `Edit`.
        VectorError: The vector was read where no block's down projection writes.
        SteeringError: `coef` is not one number.
    """
    edit = Edit(vector, layer=layer, coef=coef, positions="all", unit=unit, override=override)
    added = {}
    for one in place(edit, model.info):
        if one.point.site not in ("resid_post", "mlp_out"):
            raise VectorError(f"the vector belongs to {one.point.site}; a bias adds to resid_post and mlp_out of its "
                              "block only. resid_pre of a block is resid_post of the one before: give the bare row "
                              "vector.at(layer) with that layer")  # fmt: skip
        if isinstance(one.coef, Tensor):
            raise SteeringError(f"coef={edit.strength} differs by row; weights take one number")
        added[one.point.layer] = one.vector * one.coef
    return added
