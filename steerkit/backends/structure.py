"""The layout of an architecture that no row names: found by what its modules compute, or refused with what was seen.

The blocks are the list, as long as the configuration says, that lies beside the embeddings of the text. Within a block
the parts are the modules whose outputs, added to what enters the block, give what leaves it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.backends.layouts import Layout, Parts, Paths, path_in
from steerkit.backends.provenance import input_device
from steerkit.errors import ModelError

TOKENS = 4
DEPTH = 4
"""Names in a path inside a block, at most."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Relative to the norm of what leaves the block; other precisions 2e-2."""
_MIXES = re.compile(r"attn|attention|mixer|mamba|ssm|conv|recurrent|rnn")
_FEEDS = re.compile(r"mlp|ffn|feed_?forward|(^|\.)ff|moe|expert|fc2|4h_to_h")
_QUERIES = re.compile(r"(^|[._])(q|query|qkv|wqkv|c_attn)", re.IGNORECASE)


@dataclass
class Seen:
    """What one short pass showed of a block.

    Args:
        entering: What enters the block.
        leaving: What leaves it.
        inputs: By path of a module, what it was given, where that is as wide as the stream.
        outputs: By path, what it gave, in the order of running.
    """

    entering: Tensor | None = None
    leaving: Tensor | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


def _packs(model: Any) -> bool:
    """Whether a mask and positions of its own are kept: two tokens that follow the same two, side by side."""
    sees = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]], dtype=torch.bool)
    mask = torch.where(sees, 0.0, torch.finfo(model.dtype).min).to(input_device(model), model.dtype)[None, None]
    ids, position = (torch.tensor([one], device=mask.device) for one in ([1, 2, 3, 4], [0, 1, 2, 2]))
    with torch.no_grad():
        alone = model(input_ids=ids[:, [0, 1, 3]], use_cache=False).logits[0, -1]
        try:
            both = model(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False).logits[0, -1]
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
            return False
    return _same(both, alone)


@dataclass(frozen=True)
class _Found:
    """The parts of one kind of block."""

    attn: str | None = None
    mlp: str | None = None
    heads: str | None = None
    mid: bool = False


def find_structure(model: Any) -> Parts:
    """The parts of a model without a row, found by one pass of a few tokens.

    Raises:
        ModelError: No list can be its blocks; the message lists those that were seen.
    """
    decoder, blocks = _find_blocks(model)
    owner = model.get_submodule(decoder) if decoder else model
    modules = list(owner.get_submodule(blocks))
    kinds: dict[tuple[str, ...], int] = {}
    for layer, block in enumerate(modules):
        kinds.setdefault((type(block).__name__, *(path for path, _ in _inner(block))), layer)
    examples = [modules[layer] for layer in kinds.values()]
    seen = _look(model, examples)
    found = [_name_parts(one, block) for one, block in zip(seen, examples, strict=True)]
    names = signature(model.forward).parameters
    layout = Layout(
        decoder,
        blocks,
        _together(one.attn for one in found),
        _together(one.mlp for one in found),
        _together(one.heads for one in found),
        has_mid=all(one.mid for one in found),
        packs=all(one.heads is not None for one in found) and _packs(model),
        cache="cache_params" if "cache_params" in names and "past_key_values" not in names else "past_key_values",
        note="found by structure",
    )
    return Parts(_without_clashes(layout, examples, found), owner, modules)


def _without_clashes(layout: Layout, blocks: Sequence[nn.Module], found: Sequence[_Found]) -> Layout:
    """Leave out what is one thing in one kind of block and another in the next, under the same name."""
    pairs = list(zip(blocks, found, strict=True))
    if any(path_in(block, layout.heads) != one.heads for block, one in pairs):
        layout = replace(layout, heads=None)
    wrong = [path_in(block, layout.attn) != one.attn or path_in(block, layout.mlp) != one.mlp for block, one in pairs]
    return replace(layout, attn=None, mlp=None, has_mid=False) if any(wrong) else layout


def _find_blocks(model: Any) -> tuple[str, str]:
    """Paths of the module that owns the blocks, and of the blocks in it."""
    lists = {path: module for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    wanted = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    embeddings, found = model.get_input_embeddings(), []
    for path, blocks in lists.items():
        owner, _, name = path.rpartition(".")
        inside = (model.get_submodule(owner) if owner else model).modules()
        if len(blocks) == wanted and any(module is embeddings for module in inside) and _runs_alone(blocks):
            found.append((owner, name))
    if len(found) == 1:
        return found[0]
    seen = ", ".join(f"{path} ({len(one)} x {type(one[0]).__name__})" for path, one in lists.items() if len(one))
    raise ModelError(
        f"the architecture {model.config.model_type!r} has no layout, and its blocks cannot be told by structure: "
        f"{len(found)} lists of {wanted} blocks lie beside the text embeddings. Seen: {seen or 'no list of modules'}. "
        f"Add a row: steerkit.backends.layouts.LAYOUTS[{model.config.model_type!r}] = "
        "Layout(decoder=..., blocks=..., attn=..., mlp=...)"
    )


def _runs_alone(blocks: nn.ModuleList) -> bool:
    """The elements are blocks, not single layers such as norms."""
    return all(any(True for _ in block.children()) for block in blocks)


def _inner(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """What may be a part; dropout gives back what it is given."""
    return [
        (path, module)
        for path, module in block.named_modules()
        if path and path.count(".") < DEPTH and not isinstance(module, nn.Dropout | nn.Identity | nn.ModuleList)
    ]


def _look(model: Any, blocks: Sequence[nn.Module]) -> list[Seen]:
    """One pass, watched."""
    config, device = model.config.get_text_config(), input_device(model)
    size = TOKENS * int(config.hidden_size)
    seen = [Seen() for _ in blocks]
    with ExitStack() as stack, torch.no_grad():
        for block, one in zip(blocks, seen, strict=True):
            for path, module in [("", block), *_inner(block)]:
                hook = partial(_keep, one, path, size)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        model(input_ids=torch.arange(TOKENS, device=device).unsqueeze(0) % config.vocab_size, use_cache=False)
    return seen


def _keep(
    seen: Seen, path: str, size: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> None:
    given = args[0] if args else kwargs.get("hidden_states")
    gave = output[0] if isinstance(output, tuple) else output
    entering, leaving = (_copy(one, size) for one in (given, gave))
    if not path:
        seen.entering, seen.leaving = entering, leaving
        return
    if entering is not None:
        seen.inputs[path] = entering
    if leaving is not None:
        seen.outputs[path] = leaving


def _copy(value: Any, size: int) -> Tensor | None:
    """As `[token, hidden]`; later additions in place must not reach it."""
    if not isinstance(value, Tensor) or value.numel() != size:
        return None
    return value.detach().to("cpu", copy=True).reshape(TOKENS, -1)


def _name_parts(seen: Seen, block: nn.Module) -> _Found:
    """The pair (or the one) that makes up the difference of output and input, by the plainest names."""
    if seen.entering is None or seen.leaving is None:
        return _Found()
    entering, leaving = seen.entering, seen.leaving
    single = [path for path, output in seen.outputs.items() if _same(entering + output, leaving)]
    if single:
        part = min(single, key=lambda path: (path.count("."), not _MIXES.search(path)))
        if _FEEDS.search(f"{part} {type(block.get_submodule(part)).__name__}".lower()):
            return _Found(mlp=part)
        return _Found(part, heads=_projection(seen, block, part))
    pairs = [
        (attn, mlp)
        for attn, mlp in permutations(seen.outputs, 2)
        if not _nested(attn, mlp) and _same(entering + seen.outputs[attn] + seen.outputs[mlp], leaving)
    ]
    if pairs:
        attn, mlp = min(pairs, key=partial(_rank, list(seen.outputs)))
        mid = any(_same(given, entering + seen.outputs[attn]) for given in seen.inputs.values())
        return _Found(attn, mlp, _projection(seen, block, attn), mid)
    return _Found(mlp=_last(seen), heads=_projection(seen, block, None))


def _last(seen: Seen) -> str | None:
    """The MLP where more than one module adds before it: the stream that its norm was given, plus it, is the output."""
    assert seen.leaving is not None
    able = []
    for path, output in seen.outputs.items():
        part = path.partition(".")[0]
        streams = [given for other, given in seen.inputs.items() if other.partition(".")[0] != part]
        if _FEEDS.search(path) and any(_same(stream + output, seen.leaving) for stream in streams):
            able.append(path)
    return min(able, key=lambda path: path.count("."), default=None)


def _nested(one: str, other: str) -> bool:
    return one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _rank(order: list[str], pair: tuple[str, str]) -> tuple[bool, bool, int, bool, bool]:
    """Names that say what they are come first, then short paths, then attention before the MLP."""
    attn, mlp = pair
    unnamed = not _MIXES.search(attn) or bool(_FEEDS.search(attn))
    return (
        unnamed,
        not _FEEDS.search(mlp) and bool(_MIXES.search(mlp)),
        attn.count(".") + mlp.count("."),
        not _FEEDS.search(mlp),
        order.index(attn) > order.index(mlp),
    )


def _projection(seen: Seen, block: nn.Module, attn: str | None) -> str | None:
    """Attention's output projection: beside one for queries, and what is added is what it gives (or a norm of that)."""
    wanted = [seen.outputs[attn], *([seen.inputs[attn]] if attn in seen.inputs else [])] if attn else []
    for path in reversed(seen.outputs):
        module: Any = block.get_submodule(path)
        owner, _, name = path.rpartition(".")
        siblings = [one for one, _ in (block.get_submodule(owner) if owner else block).named_children()]
        if not hasattr(module, "weight") or module.weight.ndim != 2 or _QUERIES.search(name):
            continue
        if not any(_QUERIES.search(one) for one in siblings) or any("conv" in one for one in siblings):
            continue
        if _MIXES.search(path) if attn is None else any(_same(seen.outputs[path], one) for one in wanted):
            return path
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    off = float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-9))
    return off <= TOLERANCE.get(other.dtype, 2e-2)


def _together(paths: Iterable[str | None]) -> Paths:
    """One path, or the alternatives of all kinds of blocks."""
    different = tuple(dict.fromkeys(path for path in paths if path is not None))
    return (different[0] if len(different) == 1 else different) or None
