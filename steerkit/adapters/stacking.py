"""Several adapters as one."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from steerkit.adapters.adapter import Adapter
from steerkit.errors import InputError, MismatchError


def stack(adapters: Sequence[Adapter], weights: Sequence[float] | None = None) -> Adapter:
    r"""One adapter whose change is the weighted sum of those of several, exactly: $\sum_i w_i s_i B_i A_i$.

    The ranks add up; scales $s_i = \alpha_i / r_i$ are put into $B$, so a module's rank is the sum of the ranks of the
    adapters that have it.

    Args:
        adapters: At least one, trained on the same base.
        weights: A factor for each; 1 without it. `[1, -1]` is the difference of two adapters.

    Raises:
        InputError: None is given, the factors are not one an adapter, or an adapter is no plain LoRA.
        MismatchError: They were trained on different models.

    Source: the same sum as peft's `add_weighted_adapter(combination_type="cat")`, without a model and for adapters of
    different targets and blocks.
    """
    factors = [1.0] * len(adapters) if weights is None else [float(one) for one in weights]
    if not adapters or len(factors) != len(adapters):
        raise InputError(f"{len(adapters)} adapters and weights={weights!r}; give at least one, and a factor for each")
    _check(adapters)
    downs: dict[str, list[Tensor]] = {}
    ups: dict[str, list[Tensor]] = {}
    for adapter, factor in zip(adapters, factors, strict=True):
        for key, down in adapter.weights.items():
            if ".lora_A." not in key:
                continue
            up = key.replace(".lora_A.", ".lora_B.")
            downs.setdefault(key, []).append(down)
            ups.setdefault(up, []).append(adapter.weights[up] * (factor * _scale(adapter, key, down.shape[0])))
    tensors = {key: torch.cat(parts, dim=0) for key, parts in downs.items()}
    tensors |= {key: torch.cat(parts, dim=1) for key, parts in ups.items()}
    meta = dict(adapters[0].meta) if len(adapters) == 1 else {"model": adapters[0].meta.get("model", {})}
    meta["stacked"] = [{"weight": w, "made": _made(a)} for w, a in zip(factors, adapters, strict=True)]
    return Adapter(_config(adapters, tensors), tensors, meta)


def _scale(adapter: Adapter, key: str, rank: int) -> float:
    """The module's own alpha, where the configuration names one, divided by its rank."""
    from peft.utils.other import get_pattern_key

    config = adapter.config
    own = get_pattern_key(config.alpha_pattern.keys(), _module(key))
    return float(config.alpha_pattern.get(own, config.lora_alpha)) / rank


def _made(adapter: Adapter) -> Any:
    return {key: value for key, value in adapter.meta.items() if key != "model"}


def _check(adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        config = adapter.config
        special = [key for key in adapter.weights if ".lora_A." not in key and ".lora_B." not in key]
        special += [key for key in adapter.weights if key.endswith(".bias") or ".lora_embedding" in key]
        if special or config.use_rslora or config.use_dora:
            why = special[0] if special else "rslora or dora"
            raise InputError(f"{adapter!r} is no plain LoRA ({why}); only plain ones can be stacked")
    prints = {made["fingerprint"] for a in adapters if (made := a.meta.get("model") or {}).get("fingerprint")}
    if len(prints) > 1:
        raise MismatchError("the adapters were trained on different models (fingerprints "
                            f"{', '.join(sorted(prints))}); stack those of one base")  # fmt: skip


def _config(adapters: Sequence[Adapter], tensors: dict[str, Tensor]) -> Any:
    """A configuration that names every module in full, each with its own rank."""
    config = deepcopy(adapters[0].config)
    modules = {_module(key): tensor.shape[0] for key, tensor in tensors.items() if ".lora_A." in key}
    config.r = max(modules.values())
    config.lora_alpha = config.r
    config.rank_pattern = {name: rank for name, rank in modules.items() if rank != config.r}
    config.alpha_pattern = dict(config.rank_pattern)
    config.target_modules = sorted(modules)
    config.layers_to_transform = config.layers_pattern = None
    config.lora_dropout = 0.0
    return config


def _module(key: str) -> str:
    return key.removeprefix("base_model.model.").partition(".lora_")[0]
