"""While a model is hooked, its compiled code steps aside: torch.compile does not see hooks that come later."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import torch

_FLEX = "flex_attention"


class _Aside:
    """How many models are hooked, and what ends the stepping aside."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.held = 0
        self.stance: Any = None


_aside = _Aside()


def step_aside() -> Callable[[], None]:
    """Have everything that torch.compile made run as it is written, until what is returned is called.

    Compiled code does not look at the hooks of its modules again (`torch._dynamo.config.skip_nnmodule_hook_guards`), so
    a hook that was registered later would silently not act, and one that was compiled in would go on to act. This goes
    for `torch.compile(model)`, `model.compile()`, compiled blocks, and what `generate` compiles for a static cache.
    The one exception is the kernel of flex attention, which is made for compiling and knows no hooks.
    """
    with _aside.lock:
        if _aside.held == 0:
            _aside.stance = torch.compiler.set_stance("force_eager")
            _set_flex(_compiled_flex)
        _aside.held += 1
    return _step_back


def _step_back() -> None:
    with _aside.lock:
        _aside.held -= 1
        if _aside.held == 0:
            _aside.stance.__exit__(None, None, None)
            _set_flex(None)


def _set_flex(forward: Callable[..., Any] | None) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if forward is not None:
        ALL_ATTENTION_FUNCTIONS[_FLEX] = forward
    else:
        del ALL_ATTENTION_FUNCTIONS[_FLEX]


def _compiled_flex(*args: Any, **kwargs: Any) -> Any:
    from transformers.integrations.flex_attention import flex_attention_forward

    with torch.compiler.set_stance("default"):
        return flex_attention_forward(*args, **kwargs)
