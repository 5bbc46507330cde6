"""What all backends share: a transformers causal language model, how prompts reach it, and what is asked of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from inspect import Parameter, signature
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from steerkit.backends.base import Batch, Hook, Joining, ModelInfo, Prefix, pad
from steerkit.backends.layouts import Parts, find_parts
from steerkit.backends.passes import PassCounter
from steerkit.backends.provenance import describe, input_device, takes_masks
from steerkit.backends.taps import Taps
from steerkit.data.chat import PromptLike, as_prompts
from steerkit.data.encoding import encode
from steerkit.errors import DataError, LayerError, ModelError
from steerkit.points import Point


class CachePrefix:
    """A model's cache of keys and values (or of states), with what was padding in it."""

    def __init__(self, cache: DynamicCache, real: Tensor) -> None:
        self.cache = cache
        self.real = real

    @property
    def is_state(self) -> bool:
        """Some layer keeps a state instead of keys and values; transformers goes on from one a token at a time."""
        return any(hasattr(layer, "recurrent_states") for layer in self.cache.layers)

    def copies(self, count: int) -> CachePrefix:
        """An independent copy with every row repeated `count` times in place."""
        cache = deepcopy(self.cache)
        cache.reorder_cache(torch.arange(len(self.real)).repeat_interleave(count))
        return CachePrefix(cache, self.real.repeat_interleave(count, dim=0))


class CausalModel(ABC):
    """A transformers causal language model and its tokenizer, whoever runs it.

    A backend says by what means points are read and written (`_make_taps`) and who runs the model (`_run`,
    `_run_until`, `_sequences`).

    Args:
        hf: The model; it stays what it is.
        tokenizer: Its tokenizer.
        name: Where it came from.
        revision: Of the hub.
        fingerprint: Of its weights, where their names have changed since they were loaded.
    """

    backend: ClassVar[str]
    attention: ClassVar[str | None] = None
    """The attention that the backend computes by itself, whatever the model's configuration says."""
    joins: ClassVar[bool] = False
    """Whether the backend lets columns join a pass at a later block."""

    def __init__(
        self, hf: PreTrainedModel, tokenizer: Any, *, name: str = "", revision: str = "", fingerprint: str = ""
    ) -> None:
        self.hf = hf
        self.tokenizer = tokenizer
        self.parts = self._find_parts()
        self.info: ModelInfo = describe(
            hf, tokenizer, self.parts, name=name, revision=revision, device=str(self.device), fingerprint=fingerprint
        )
        self._takes = _names(hf.forward)
        self._passes = PassCounter(hf, self.parts.decoder)
        self._taps = self._make_taps()

    def __repr__(self) -> str:
        info = self.info
        size = f"{info.num_layers} blocks x {info.hidden_size}"
        return f"{type(self).__name__}({info.name!r}, {info.architecture}, {size}, {info.dtype}, {info.device})"

    def _find_parts(self) -> Parts:
        """Where the model's blocks lie."""
        return find_parts(self.hf)

    @abstractmethod
    def _make_taps(self) -> Taps:
        """How points are read and written."""

    @abstractmethod
    def _run(self, arguments: dict[str, Any]) -> Tensor:
        """The logits of one forward pass."""

    @abstractmethod
    def _run_until(self, arguments: dict[str, Any], layer: int) -> None:
        """A forward pass that ends after a block."""

    @abstractmethod
    def _sequences(self, arguments: dict[str, Any]) -> Tensor:
        """What `generate` of transformers gives: prompts and answers."""

    def _join(self, _joining: Joining) -> AbstractContextManager[None]:
        """Have columns join the pass at hand where they should."""
        raise ModelError(
            f"columns cannot join a pass at a later block when {self.backend} runs it; leave `joining` out"
        )

    @property
    def device(self) -> torch.device:
        """Where tokens are fed; weights that accelerate keeps elsewhere are brought there when they are used."""
        return input_device(self.hf)

    def hook(self, point: Point, fn: Hook) -> AbstractContextManager[None]:
        """Read or write the activations at a point while the context is open; see `Model.hook`."""
        if point.layer >= self.info.num_layers:
            raise LayerError(f"layer {point.layer} does not exist; the model has {self.info.num_layers} blocks, "
                             f"0 to {self.info.num_layers - 1}")  # fmt: skip
        if not self.parts.has(point.layer, point.site):
            raise LayerError(f"block {point.layer} of {self.info.architecture} has no site {point.site!r}; it has "
                             f"{', '.join(self.parts.sites(point.layer))}")  # fmt: skip
        return self._taps.open(point, fn)

    def encode(self, prompts: PromptLike | Sequence[PromptLike]) -> Batch:
        """Prompts as a left-padded batch.

        Raises:
            DataError: A prompt is longer than the model's context.
        """
        encoded = [encode(prompt, self.tokenizer) for prompt in as_prompts(prompts)]
        longest = max(len(one.ids) for one in encoded)
        if self.info.context is not None and longest > self.info.context:
            where = next(i for i, one in enumerate(encoded) if len(one.ids) == longest)
            raise DataError(f"prompt {where} has {longest} tokens; the model's context is {self.info.context}. "
                            "Shorten it or leave it out")  # fmt: skip
        return pad([one.ids for one in encoded], [one.prompt_length for one in encoded], pad_id=self.pad_id)

    @property
    def pad_id(self) -> int:
        """The token that fills shorter rows; any will do, since it is masked."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    @torch.no_grad()
    def forward(
        self,
        prompts: PromptLike | Sequence[PromptLike] | Batch,
        *,
        columns: Sequence[int] | None = None,
        until: int | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch pos vocab"]:
        """Logits of a forward pass, without gradients; see `Model.forward`.

        Raises:
            LayerError: `until` is not a block of the model.
            ModelError: `prefix` comes from another backend.
            DataError: A prompt is longer than the model's context.
        """
        batch = prompts if isinstance(prompts, Batch) else self.encode(prompts)
        return self.run(batch, columns=columns, until=until, prefix=prefix)

    def run(
        self,
        batch: Batch,
        *,
        columns: Sequence[int] | None = None,
        until: int | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch pos vocab"]:
        """Logits of a forward pass, with gradients where they are on: what training calls; see `forward`.

        Raises:
            LayerError: `until` is not a block of the model.
            ModelError: `prefix` comes from another backend.
        """
        if until is not None and not 0 <= until < self.info.num_layers:
            raise LayerError(f"until={until} is not a block; the model has {self.info.num_layers}, counted from 0")
        state = isinstance(prefix, CachePrefix) and prefix.is_state and prefix.real.shape[1] > 0
        if state and batch.input_ids.shape[1] > 1:
            return self._step_by_step(batch, columns=columns, until=until, prefix=prefix)
        arguments = self._arguments(batch, prefix)
        if columns is not None:
            arguments["logits_to_keep"] = torch.tensor(list(columns), device=self.device)
        announced = self._passes.announce(batch.prompt_length.to(self.device), batch.position.to(self.device))
        with announced, nullcontext() if batch.joining is None else self._join(batch.joining):
            if until is None:
                return self._run(arguments)
            self._run_until(arguments, until)
        return torch.empty(len(batch), 0, 0)

    def _step_by_step(
        self, batch: Batch, *, columns: Sequence[int] | None, until: int | None, prefix: Prefix | None
    ) -> Tensor:
        """Tokens that go on from a state, each in a pass of its own."""
        steps = []
        for column in range(batch.input_ids.shape[1]):
            one = slice(column, column + 1)
            step = Batch(batch.input_ids[:, one], batch.position[:, one], batch.prompt_length)
            steps.append(self.run(step, until=until, prefix=prefix))
        logits = torch.cat(steps, dim=1)
        return logits if columns is None or until is not None else logits[:, list(columns)]

    def prefill(self, batch: Batch) -> CachePrefix:
        """Read tokens and keep their keys and values, or the states they lead to.

        Raises:
            ModelError: Rows are padded on the right, where a state would take the padding in.
        """
        prefix = CachePrefix(DynamicCache(config=self.hf.config), torch.empty(len(batch), 0, dtype=torch.bool))
        self.forward(batch, columns=[batch.input_ids.shape[1] - 1], prefix=prefix)
        return prefix

    def _arguments(self, batch: Batch, prefix: Prefix | None) -> dict[str, Any]:
        cache, mask = self.parts.layout.cache, batch.real.long()
        if prefix is not None and not isinstance(prefix, CachePrefix):
            raise ModelError(f"a {type(prefix).__name__} was not made by this model's prefill")
        if prefix is not None:
            if prefix.is_state and not batch.real[:, -1].all():
                raise ModelError(f"a state of {self.info.architecture} would take in padding on the right; pad on the "
                                 "left, and go on from it with rows of one length")  # fmt: skip
            prefix.real = torch.cat([prefix.real, batch.real], dim=1)
            mask = mask if cache == "cache_params" else prefix.real.long()
        arguments = {
            "input_ids": batch.input_ids.to(self.device),
            "attention_mask": (mask if batch.mask is None else self._packed_mask(batch.mask)).to(self.device),
            "position_ids": batch.position.clamp(min=0).to(self.device),
            cache: None if prefix is None else prefix.cache,
            "use_cache": prefix is not None,
        }
        return {name: value for name, value in arguments.items() if self._takes is None or name in self._takes}

    def _packed_mask(self, mask: Tensor) -> Tensor:
        """As an additive mask, which every attention implementation of transformers that takes one understands."""
        if not takes_masks(self.hf.config):
            raise ModelError(
                f"attention by {self.hf.config._attn_implementation!r} takes no such mask, so continuations cannot "
                "share a row. Set it before sk.load, which then leaves packing out, or use 'sdpa'"
            )
        dtype = self.hf.dtype
        blocked = torch.tensor(torch.finfo(dtype).min, dtype=dtype)
        return torch.where(mask, torch.zeros((), dtype=dtype), blocked).unsqueeze(1)

    @torch.no_grad()
    def generate(
        self, prompts: PromptLike | Sequence[PromptLike], *, max_new_tokens: int = 64, **decoding: Any
    ) -> list[str]:
        """The answers, without their prompts (an answer prefill is not repeated).

        Args:
            prompts: Text, which is continued as it is; messages, as `load_questions` makes them of questions; or
                several of them: one batch, padded on the left.
            max_new_tokens: The most tokens of an answer, at least 1.
            decoding: transformers' own options, such as `do_sample=True`, `num_beams=4`, `num_return_sequences=3`. With
                several sequences a prompt, the answers to one prompt follow each other.

        Raises:
            DataError: A prompt is longer than the model's context.
            ValueError: transformers does not know an option.
        """
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise DataError(f"max_new_tokens={max_new_tokens!r} is not valid; give an integer of at least 1")
        batch = self.encode(prompts)
        width = batch.input_ids.shape[1]
        if self.info.context is not None and width + max_new_tokens > self.info.context:
            raise DataError(f"{width} prompt tokens and max_new_tokens={max_new_tokens} exceed the model's context of "
                            f"{self.info.context}; give at most {self.info.context - width} new tokens")  # fmt: skip
        decoding.setdefault("pad_token_id", self.pad_id)
        with self._passes.announce(batch.prompt_length.to(self.device), real=batch.real.to(self.device)):
            ids = self._sequences(
                {
                    "input_ids": batch.input_ids.to(self.device),
                    "attention_mask": batch.real.long().to(self.device),
                    "max_new_tokens": max_new_tokens,
                    **decoding,
                }
            )
        return cast(list[str], self.tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True))


def _names(forward: Callable[..., Any]) -> frozenset[str] | None:
    """The arguments a function has; nothing where it takes any."""
    given = signature(forward).parameters
    if any(one.kind is Parameter.VAR_KEYWORD for one in given.values()):
        return None
    return frozenset(given)
