"""Counting tokens: which absolute positions a forward pass of a transformers model holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.positions import Pass


class PassCounter:
    """Watches the decoder and knows, for each pass, what its tokens are.

    Called by steerkit, it is told how long each prompt's template is. Where the user calls the model's own `generate`,
    everything given to it is the prompt; where it is the model itself, the first pass over a cache is.

    Args:
        hf: The model; while it is attached its `generate` announces its prompts first.
        decoder: The module that every pass goes through.
    """

    def __init__(self, hf: Any, decoder: nn.Module) -> None:
        self._hf = hf
        self._decoder = decoder
        self._pass: Pass | None = None
        self._told: Tensor | None = None
        self._given: Tensor | None = None
        self._prompt_length: Tensor | None = None
        self._prompt_width = 0
        self._prompts = 0
        self._cache: int | None = None
        self._seen = 0

    def current(self) -> Pass:
        """The pass at hand."""
        assert self._pass is not None, "a tap fired outside a pass of the decoder"
        return self._pass

    def attach(self, *, hooked: bool = True) -> Callable[[], None]:
        """Begin to watch; what is returned ends it and leaves the model as it was.

        Args:
            hooked: Through a forward hook of the decoder; else `before` is called by whoever sees its inputs.
        """
        handle = (
            self._decoder.register_forward_pre_hook(self.before, with_kwargs=True, prepend=True) if hooked else None
        )
        self._hf.generate = partial(self._generate, self._hf.generate)

        def detach() -> None:
            if handle is not None:
                handle.remove()
            del self._hf.generate

        return detach

    def _generate(self, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        tokens = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs", kwargs.get("inputs_embeds")))
        if self._told is not None or not isinstance(tokens, Tensor):
            return generate(*args, **kwargs)
        mask = kwargs.get("attention_mask")
        width = torch.full(tokens.shape[:1], tokens.shape[1], device=tokens.device)
        with self.announce(width if mask is None else mask.long().sum(-1)):
            return generate(*args, **kwargs)

    @contextmanager
    def announce(self, prompt_length: Tensor, position: Tensor | None = None) -> Iterator[None]:
        """Tell how long the prompts are (and, for one pass, the position of every token)."""
        outer = self._told, self._given
        self._told, self._given = prompt_length, position
        try:
            yield
        finally:
            self._told, self._given = outer

    def before(self, _module: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the decoder."""
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if tokens is None:
            tokens = kwargs["inputs_embeds"]
        batch, length = tokens.shape[:2]
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        attention = kwargs.get("attention_mask")
        flat = attention if isinstance(attention, Tensor) and attention.ndim == 2 else None
        if past == 0 or self._given is not None or not self._goes_on(cache, past, batch):
            self._begin(batch, past + length, flat, tokens.device)
        elif self._prompt_length is not None and len(self._prompt_length) != batch:
            self._prompt_length = _spread(self._prompt_length, batch)
        self._cache, self._seen = None if cache is None else id(cache), past + length
        assert self._prompt_length is not None
        answer = past >= self._prompt_width and length == 1 and self._given is None
        given = self._given
        self._pass = Pass(batch, length, self._prompt_length, past, flat, given, answer, self._prompts)

    def _goes_on(self, cache: Any, past: int, batch: int) -> bool:
        """The pass continues the one before: with the same cache, or with the one that the model itself made there."""
        if self._prompt_length is None:
            return False
        if self._cache is not None:
            return self._cache == id(cache)
        return past == self._seen and batch == len(self._prompt_length)

    def _begin(self, batch: int, width: int, attention: Tensor | None, device: torch.device) -> None:
        if self._told is not None:
            self._prompt_length = _spread(self._told, batch)
        elif attention is None:
            self._prompt_length = torch.full((batch,), width, device=device)
        else:
            self._prompt_length = attention[:, :width].long().sum(-1)
        self._prompt_width = width
        self._prompts = batch if self._told is None else len(self._told)


def _spread(lengths: Tensor, batch: int) -> Tensor:
    """By row of the batch: beams and returned sequences repeat each prompt in place."""
    return lengths if len(lengths) == batch else lengths.repeat_interleave(batch // max(len(lengths), 1))
