"""The one door to a model."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from steerkit.errors import InputError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from steerkit.backends.causal import CausalModel
    from steerkit.backends.huggingface import HuggingFaceModel

Backend = Literal["huggingface", "transformer_lens", "nnsight"]
Quantization = Literal["8bit", "4bit"]
BACKENDS: dict[str, str] = {
    "huggingface": "steerkit.backends.huggingface:HuggingFaceModel",
    "transformer_lens": "steerkit.backends.transformer_lens:TransformerLensModel",
    "nnsight": "steerkit.backends.nnsight:NNsightModel",
}
"""Who runs the model, and the class that knows how. A new backend is one file and one line here."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEMO = "demo"


@overload
def load(
    source: str | Path | PreTrainedModel,
    *,
    tokenizer: Any = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    backend: Literal["huggingface"] | None = None,
    quantization: Any = None,
) -> HuggingFaceModel: ...


@overload
def load(
    source: Any,
    *,
    tokenizer: Any = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    backend: str | None = None,
    quantization: Any = None,
) -> CausalModel: ...


def load(
    source: Any,
    *,
    tokenizer: Any = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    backend: str | None = None,
    quantization: Any = None,
) -> CausalModel:
    """A model that can be read and steered.

    What the table of layouts claims about the architecture is checked by one short forward pass.

    Args:
        source: `"demo"` (the embedded model, no network), a local folder, a hub id, a live `PreTrainedModel`, a
            `TransformerBridge` of TransformerLens, or a `TransformersModel` of nnsight.
        tokenizer: A tokenizer or where to load it from; needed with a live `PreTrainedModel`, else taken from `source`.
        dtype: `"float32"`, `"float16"`, `"bfloat16"`; without it as saved, but the embedded model float32.
        device: Such as `"cuda"`, or `"auto"` to spread a large model over all devices.
        revision: Branch, tag or commit of the hub.
        backend: Who runs the model: `"huggingface"` (plain forward hooks, the default), `"transformer_lens"` (a bridge
            and its hook points) or `"nnsight"` (traces). Where `source` is a bridge or nnsight's, it is that one.
        quantization: `"8bit"` (LLM.int8) or `"4bit"` (NF4) by bitsandbytes, or a quantization config of transformers.
            A live model is quantized already, or not.

    Raises:
        InputError: An argument is not valid.
        ModelError: The model cannot be found or loaded, has no layout, or its layout is not true of it.

    Example:
        >>> load("demo").info.architecture
        'llama'
    """
    from steerkit.backends.probe import check_layout

    if backend is not None and backend not in BACKENDS:
        raise InputError(f"backend={backend!r} is not valid; choose one of {', '.join(BACKENDS)}")
    wanted = _dtype(dtype)
    _check_device(device)
    if revision is not None and source == DEMO:
        raise InputError(f"revision={revision!r}: the embedded model comes with steerkit and has none; leave it out")
    claimed = _claimed(source)
    if claimed is not None:
        _refuse_moves(wanted, device, quantization)
        if backend not in (None, claimed):
            raise InputError(f"{type(source).__name__} is run by {claimed}; leave out backend={backend!r}")
        model: CausalModel = _backend(claimed)(source, _tokenizer(tokenizer, revision), revision=revision or "")
    else:
        hf, tokenizer, name = _transformers(
            source, tokenizer, dtype=wanted, device=device, revision=revision, quantization=quantization
        )
        model = _backend(backend or "huggingface").wrap(hf, tokenizer, name=name, revision=revision or "")
    check_layout(model)
    return model


def _transformers(
    source: Any, tokenizer: Any, *, dtype: torch.dtype | None, device: Any, revision: str | None, quantization: Any
) -> tuple[Any, Any, str]:
    """A transformers model, its tokenizer and the name to remember."""
    if isinstance(source, torch.nn.Module):
        _refuse_moves(dtype, device, quantization)
        hf, name = _live(source), ""
        if tokenizer is None:
            raise InputError("a live model needs its tokenizer: sk.load(model, tokenizer=tok)")
    else:
        where, name = _find(source)
        wanted = dtype or (torch.float32 if source == DEMO else None)
        hf = _pretrained(where, wanted, device, revision, quantization)
        tokenizer = where if tokenizer is None else tokenizer
    return hf, _tokenizer(tokenizer, revision), name


def _backend(name: str) -> Any:
    """The class of a backend, imported when it is asked for."""
    module, _, cls = BACKENDS[name].partition(":")
    try:
        return getattr(import_module(module), cls)
    except ImportError as error:
        raise ModelError(f"the backend {name!r} cannot be used here: {error}") from error


def _claimed(source: Any) -> str | None:
    """The backend whose own object this is."""
    if isinstance(source, str | Path):
        return None
    for name in BACKENDS:
        with suppress(ModelError):  # a library that is not here has made no object
            if _backend(name).claims(source):
                return name
    return None


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r} is not valid; choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _check_device(device: str | torch.device | None) -> None:
    """Refuse a device that is not here, before anything is loaded."""
    if device is None or device == "auto":
        return
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device={device!r} is not valid; give 'cpu', 'cuda', 'cuda:1', 'mps' or 'auto'") from error
    there = {"cuda": torch.cuda.device_count, "mps": torch.mps.device_count}.get(found.type)
    if there is not None and (found.index or 0) >= there():
        raise InputError(f"device={device!r} is not here: torch {torch.__version__} sees {there()} such devices; "
                         "leave device out to use the CPU")  # fmt: skip


def _find(source: Any) -> tuple[str, str]:
    """Where to load from, and the name to remember."""
    if source == DEMO:
        return str(files("steerkit").joinpath("demo", "weights")), DEMO
    if not isinstance(source, str | Path) or not str(source):
        raise InputError(f"source={source!r} is not valid; give 'demo', a local folder, a hub id or a live model")
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} holds no config.json; give the folder that save_pretrained wrote")
        return str(path), str(path)
    if path.exists() or str(source).startswith((".", "/", "~")) or str(source).count("/") > 1:
        raise ModelError(
            f"{source} is not a folder with a model; give 'demo', a local folder, or a hub id like 'org/name'"
        )
    return str(source), str(source)


def _refuse_moves(dtype: torch.dtype | None, device: Any, quantization: Any) -> None:
    if not (dtype is None and device is None and quantization is None):
        raise InputError("dtype, device and quantization are those of the live model; move it yourself, then load it")


def _live(model: Any) -> Any:
    """The model itself, also where torch.compile has wrapped it: the wrapper goes on to run it."""
    model = getattr(model, "_orig_mod", model)
    if not hasattr(model, "config") or not hasattr(model, "generate"):
        raise InputError(f"{type(model).__name__} is not a transformers causal language model")
    if model.training:
        raise InputError("the live model is in training mode, where dropout changes every pass; call model.eval()")
    return model


def _pretrained(
    where: str,
    dtype: torch.dtype | None,
    device: str | torch.device | None,
    revision: str | None,
    quantization: Quantization | Any = None,
) -> Any:
    spread: dict[str, Any] = {"device_map": device} if device == "auto" else {}
    if quantization is not None:
        spread |= {"quantization_config": _quantization(quantization, dtype)}
        if device is not None:  # quantized weights are placed where they are made
            spread |= {"device_map": device if device == "auto" else {"": device}}
    try:
        kind = _kind_of(where, revision)
        hf = kind.from_pretrained(where, dtype=dtype or "auto", revision=revision or "main", **spread)
    except ImportError as error:
        raise ModelError(f"quantization={quantization!r} needs a library that is missing: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load a causal language model from {where!r}: {error}") from error
    return hf.eval() if device is None or spread else hf.to(device).eval()


def _kind_of(where: str, revision: str | None) -> Any:
    """The class that loads a model: a causal language model, or one that also sees and has such a model in it."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(where, revision=revision or "main")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{config.model_type} is an encoder-decoder model; steerkit steers causal (decoder-only) "
                         "language models")  # fmt: skip
    plain = type(config) in AutoModelForCausalLM._model_mapping
    sees = type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if sees and not plain else AutoModelForCausalLM


def _quantization(quantization: Quantization | Any, dtype: torch.dtype | None) -> Any:
    """A quantization config of transformers."""
    if not isinstance(quantization, str) and hasattr(quantization, "quant_method"):
        return quantization
    if quantization not in ("8bit", "4bit"):
        raise InputError(f"quantization={quantization!r} is not valid; choose '8bit' or '4bit', or give a quantization "
                         "config of transformers")  # fmt: skip
    if find_spec("bitsandbytes") is None:
        raise ModelError(f"quantization={quantization!r} needs bitsandbytes: pip install 'steerkit[quantize]'")
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype or torch.bfloat16
    )


def _tokenizer(tokenizer: Any, revision: str | None) -> Any:
    if not isinstance(tokenizer, str | Path):
        return tokenizer
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(tokenizer), revision=revision or "main")
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load a tokenizer from {str(tokenizer)!r}: {error}; give tokenizer=") from error
