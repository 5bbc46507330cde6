"""Counting tokens: which absolute positions a forward pass of a transformers model holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from steerkit.backends.compiled import step_aside
from steerkit.errors import ModelError
from steerkit.positions import Pass

PAGED = (
    "transformers' continuous batching puts the tokens of all requests into one row and shares their prefixes, so that "
    "hooks cannot tell whose tokens they see. Give the prompts to generate as one batch (Steer.rows steers each row in "
    "its own way), or put the vector into the weights first (see the page on exporting)"
)


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
        self._real: Tensor | None = None
        self._width: int | None = None
        self._prompt_length: Tensor | None = None
        self._prompt_width = 0
        self._prompts = 0
        self._holds = False
        self._cache: ref[Any] | None = None
        self._seen = 0
        self._flat: Tensor | None = None
        self._outer: Tensor | None = None

    def current(self) -> Pass:
        """The pass at hand."""
        assert self._pass is not None, "a tap fired outside a pass of the decoder"
        return self._pass

    def narrow(self, columns: int) -> None:
        """Only the first columns of a pass whose positions were told are at hand."""
        if self._pass is not None and self._given is not None:
            self._pass = replace(self._pass, length=columns, given=self._given[:, :columns])

    def attach(self, *, hooked: bool = True) -> Callable[[], None]:
        """Begin to watch; what is returned ends it and leaves the model as it was.

        Args:
            hooked: Through a forward hook of the decoder; else `before` is called by whoever sees its inputs.
        """
        handles = []
        if hooked:
            handles.append(self._hf.register_forward_pre_hook(self._remember_mask, with_kwargs=True))
            handles.append(self._decoder.register_forward_pre_hook(self.before, with_kwargs=True, prepend=True))
        own = vars(self._hf)
        before = {name: own.get(name) for name in ("generate", "init_continuous_batching")}
        self._hf.generate = partial(self._generate, self._hf.generate)
        self._hf.init_continuous_batching = _refuse
        step_back = step_aside()

        def detach() -> None:
            step_back()
            for handle in handles:
                handle.remove()
            for name, value in before.items():
                del own[name]
                if value is not None:
                    own[name] = value

        return detach

    def _generate(self, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        tokens = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs", kwargs.get("inputs_embeds")))
        if self._told is not None or not isinstance(tokens, Tensor):
            return generate(*args, **kwargs)
        mask = kwargs.get("attention_mask")
        real = _real(self._hf, tokens, kwargs) if mask is None else mask.bool()
        with self.announce(real.long().sum(-1), real=real):
            return generate(*args, **kwargs)

    @contextmanager
    def announce(
        self, prompt_length: Tensor, position: Tensor | None = None, *, real: Tensor | None = None
    ) -> Iterator[None]:
        """Tell how long the prompts are.

        Args:
            prompt_length: Tokens of each prompt's template.
            position: For one pass, the position of every token.
            real: For a generation, which columns of everything that is given hold a token.
        """
        outer = self._told, self._given, self._real, self._width
        self._told, self._given = prompt_length, position
        self._real = None if real is None or bool(real.all()) else real
        self._width = None if real is None else real.shape[1]
        try:
            yield
        finally:
            self._told, self._given, self._real, self._width = outer

    @property
    def announced(self) -> dict[str, Tensor | None]:
        """What was told of the prompts and of the pass at hand."""
        return {"told": self._told, "given": self._given, "real": self._real}

    @contextmanager
    def hold(self, prompt_length: Tensor | None = None) -> Iterator[None]:
        """Take what the first pass holds for the prompt of all passes, where nobody has told it.

        For a generation that feeds everything anew in each step, and so has no cache by which steps are known.
        """
        outer = self._told, self._holds
        self._told, self._holds = prompt_length if self._told is None else self._told, True
        try:
            yield
        finally:
            self._told, self._holds = outer

    @property
    def prompt_length(self) -> Tensor | None:
        """What was told or held of the prompts."""
        return self._told

    def _remember_mask(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Models that also see give their text part a mask of another form."""
        self._outer = _flat(kwargs.get("attention_mask"))

    def before(self, _module: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the decoder."""
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if tokens is None:
            tokens = kwargs["inputs_embeds"]
        batch, length = tokens.shape[:2]
        if kwargs.get("cache") is not None:
            raise ModelError(PAGED)
        cache = kwargs.get("past_key_values", kwargs.get("cache_params"))
        past = self._past(cache)
        goes_on = past > 0 and self._given is None and self._goes_on(cache, past, batch)
        flat = self._columns(kwargs.get("attention_mask"), batch, past, length, goes_on=goes_on)
        given = self._given
        if given is None and flat is None and self._told is None:
            given = _positions(kwargs, batch)
        if not goes_on:
            self._begin(batch, past + length, flat, given, tokens.device)
        assert self._prompt_length is not None
        if len(self._prompt_length) != batch:
            self._prompt_length = _spread(self._prompt_length, batch)
        self._cache, self._seen, self._flat = None if cache is None else ref(cache), past + length, flat
        answer = past >= self._prompt_width and length == 1 and given is None
        self._pass = Pass(batch, length, self._prompt_length, past, flat, given, answer, self._prompts)

    def _columns(self, attention: Any, batch: int, past: int, length: int, *, goes_on: bool) -> Tensor | None:
        """Which columns of past and present hold a token; `None` where all do.

        A mask may be wider (of a whole static cache), or of a form that does not tell (as decoding with a static cache
        makes it): then it is what was said of the prompts, and behind them every column is real.
        """
        for mask in (_flat(attention), self._outer):
            if mask is not None and mask.shape[1] >= past + length:
                return mask[:, : past + length]
        known = self._real
        if known is not None:
            known = _spread(known, batch)[:, : past + length]
        elif goes_on and self._flat is not None and len(self._flat) == batch:
            known = self._flat[:, :past]
        if known is None:
            return None
        return torch.nn.functional.pad(known.long(), (0, past + length - known.shape[1]), value=1)

    def _past(self, cache: Any) -> int:
        """Columns behind a cache; one that holds nothing but states does not count them."""
        if cache is None:
            return 0
        if not all(getattr(cache, "is_linear", [False])):
            return int(cache.get_seq_length())
        known = self._cache is not None and self._cache() is cache
        return self._seen if known and cache.has_previous_state() else 0

    def _goes_on(self, cache: Any, past: int, batch: int) -> bool:
        """The pass continues the one before: with the same cache, or with the one that the model itself made there."""
        if self._prompt_length is None:
            return False
        if self._cache is not None:
            return self._cache() is cache
        return past == self._seen and batch == len(self._prompt_length)

    def _begin(
        self, batch: int, width: int, attention: Tensor | None, given: Tensor | None, device: torch.device
    ) -> None:
        if self._told is not None:
            self._prompt_length = _spread(self._told, batch)
        elif attention is not None:
            self._prompt_length = attention.long().sum(-1)
        elif given is not None:
            self._prompt_length = given.amax(-1) + 1
        else:
            self._prompt_length = torch.full((batch,), width, device=device)
        self._prompt_width = width if self._width is None else self._width
        if self._holds and self._told is None:
            self._told = self._prompt_length
        self._prompts = batch if self._told is None else len(self._told)


def _refuse(*_: Any, **__: Any) -> Any:
    raise ModelError(PAGED)


def _spread(by_prompt: Tensor, batch: int) -> Tensor:
    """By row of the batch: beams and returned sequences repeat each prompt in place."""
    if len(by_prompt) == batch:
        return by_prompt
    return by_prompt.repeat_interleave(batch // max(len(by_prompt), 1), dim=0)


def _positions(kwargs: dict[str, Any], batch: int) -> Tensor | None:
    """The positions that come with a mask which does not tell padding."""
    positions = kwargs.get("position_ids")
    if kwargs.get("attention_mask") is None or not isinstance(positions, Tensor) or positions.ndim != 2:
        return None
    return positions.expand(batch, -1)


def _real(hf: Any, tokens: Tensor, options: dict[str, Any]) -> Tensor:
    """Which columns hold a token, as `generate` itself takes it where no mask is given."""
    every = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    configs = [config for config in (options.get("generation_config"), hf.generation_config) if config is not None]

    def ids(name: str) -> list[int]:
        found = options.get(name)
        for config in configs:
            found = getattr(config, name, None) if found is None else found
        return [] if found is None else torch.as_tensor(found).reshape(-1).tolist()

    padding, ends = ids("pad_token_id"), ids("eos_token_id")
    if tokens.ndim != 2 or tokens.is_floating_point() or not padding or padding[0] in ends:
        return every
    return tokens != padding[0]


def _flat(attention: Any) -> Tensor | None:
    """A mask that says of each column whether it is real."""
    return attention if isinstance(attention, Tensor) and attention.ndim == 2 else None
