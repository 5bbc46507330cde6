"""Writing a model whose weights differ from those in memory, a shard at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerkit.backends.huggingface import HuggingFaceModel, check_plain
from steerkit.errors import InputError, ModelError

SHARD_SIZE = 2**29
"""Bytes of a weights file; the most that is held beside the model while it is written, twice over."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def check_writable(model: object) -> HuggingFaceModel:
    """Refuse a model whose weights cannot be written as they are meant.

    Raises:
        InputError: It is not what `load` returns.
        ModelError: It is quantized, spread beyond memory, or carries adapters at this moment.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = check_plain(model, "export works")
    hf = plain.hf
    quantized = getattr(hf.config, "quantization_config", None) or getattr(hf, "hf_quantizer", None)
    if quantized or not all(one.is_floating_point() for one in hf.parameters()):
        raise ModelError(f"{plain.info.name} is quantized, and a change is lost in its coarse weights; load the base "
                         "unquantized, or ship the adapter (save_peft)")  # fmt: skip
    if any(one.device.type == "meta" for one in hf.parameters()):
        raise ModelError(f"not all of {plain.info.name} is in memory; load it without device='auto', or on more memory")
    if any(isinstance(module, BaseTunerLayer) for module in hf.modules()):
        raise ModelError("the model carries adapters at this moment; leave the 'with' of the adapter first")
    return plain


def saved_dtype(dtype: Any, model: HuggingFaceModel) -> torch.dtype:
    """The precision of the files; the model's own without one.

    Raises:
        InputError: It is not one of float32, float16, bfloat16.
    """
    name = str(model.hf.dtype if dtype is None else dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"dtype={dtype!r} is not valid; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def own_tensors(hf: Any) -> dict[str, Tensor]:
    """The tensors of a model that belong into a file, by their names in memory; tied ones once."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    ignored = hf._keys_to_ignore_on_save or ()
    state = {name: one for name, one in hf.state_dict().items() if name not in ignored}
    return dict(remove_tied_weights_from_state_dict(state, hf))


def config_of(hf: Any, dtype: torch.dtype, **fields: Any) -> Any:
    """A copy of a model's configuration as it belongs beside the files, with some fields set."""
    config = deepcopy(hf.config)
    config.dtype = str(dtype).removeprefix("torch.")
    config.architectures = [type(hf).__name__]
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def expected_tensors(hf: Any, config: Any) -> dict[str, Tensor]:
    """What transformers makes of a configuration: every tensor's name and shape, without memory."""
    with torch.device("meta"):
        state: dict[str, Tensor] = type(hf)(deepcopy(config)).state_dict()
    return state


def check_reload(hf: Any, config: Any, names: Iterable[str]) -> None:
    """Refuse to write tensors that transformers would drop without a word when it loads the folder again.

    Raises:
        ModelError: The configuration has no place for a tensor.
    """
    dropped = sorted(set(names) - set(expected_tensors(hf, config)))
    if dropped:
        raise ModelError(f"transformers has no place for {dropped[0]} in a {config.model_type} model and would drop it "
                         f"at loading ({len(dropped)} tensors)")  # fmt: skip


def write_model(
    model: HuggingFaceModel,
    folder: Path,
    *,
    form: Mapping[str, Tensor],
    make: Callable[[str], Tensor],
    config: Any,
) -> None:
    """Write configuration, weights and tokenizer, as `save_pretrained` would.

    Args:
        model: The base.
        folder: An empty folder.
        form: Shape and type of every tensor, by its name in memory; on the device "meta".
        make: Gives a tensor; asked once for each, shard after shard.
        config: The configuration to put beside them.

    Raises:
        ModelError: The architecture's files hold other tensors than its memory does.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    check_reload(model.hf, config, form)
    names = _file_names(model.hf, form)
    plan = split_torch_state_dict_into_shards(
        {names[name]: one for name, one in form.items()},
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_SIZE,
    )
    memory = {there: here for here, there in names.items()}
    for file, inside in plan.filename_to_tensors.items():
        shard = {name: make(memory[name]).to("cpu").contiguous() for name in inside}
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        text = json.dumps(index, indent=1, sort_keys=True) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    config.save_pretrained(folder)
    if model.hf.can_generate():
        model.hf.generation_config.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def _file_names(hf: Any, form: Mapping[str, Tensor]) -> dict[str, str]:
    """The names that the architecture's files use (GPT-NeoX's `lm_head` is `embed_out` there)."""
    from transformers.core_model_loading import revert_weight_conversion

    known = {id(one): name for name, one in form.items()}
    written = revert_weight_conversion(hf, dict(form))
    names = {known[id(one)]: name for name, one in written.items() if id(one) in known}
    if len(names) < len(form) or len(written) > len(form):
        raise ModelError(f"the files of {hf.config.model_type} hold other tensors than its memory does, so single "
                         "weights cannot be written; ship the adapter (save_peft)")  # fmt: skip
    return names
