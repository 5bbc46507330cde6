"""The CAA run on a model of nnsight: python examples/caa_nnsight.py."""

from __future__ import annotations

from typing import Any

from caa_by_backend import main
from nnsight.modeling.transformers import TransformersModel
from torch import Tensor

import steerkit as sk


def load(folder: str) -> Any:
    options = {"dtype": "float32", "attn_implementation": "eager"}
    return sk.load(TransformersModel(folder, task="text-generation", dispatch=True, **options))


def own_call(model: Any, steer: sk.Steer, ids: Tensor) -> Tensor:
    """nnsight's own `generate`, as a trace of one's own."""
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": model.pad_id}
    with steer, model.nn.generate(ids, **options) as tracer:
        found = tracer.result.save()
    return found  # noqa: RET504 - nnsight gives a trace back by its variables


if __name__ == "__main__":
    main(load, own_call)
