"""The checker of types and shapes that `--jaxtyping-packages` names in pyproject.toml: beartype, made when needed.

jaxtyping asks for two checks of each function that is defined, again each time that a function inside another is
defined. Making one takes about a millisecond, calling it a few microseconds; most are never called in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_typed = beartype(conf=BeartypeConf(is_pep484_tower=True))
_made: dict[Any, Callable[..., Any]] = {}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """What checks its arguments as `function` is annotated; the same one for equal signatures of the same place.

    Args:
        function: As jaxtyping makes it: the signature of what is checked, and a body that does nothing.
    """
    code = function.__code__
    names = code.co_varnames, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    try:
        place = function.__module__, function.__qualname__, names, tuple(function.__annotations__.items())
        if place not in _made:
            _made[place] = _at_first_call(function)
        return _made[place]
    except TypeError:  # an annotation that cannot be hashed
        return _at_first_call(function)


def _at_first_call(function: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] | None = None

    def check(*args: Any, **named: Any) -> Any:
        nonlocal made
        if made is None:
            made = _typed(function)
        return made(*args, **named)

    return check
