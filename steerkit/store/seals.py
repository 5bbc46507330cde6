"""Seals: a file that carries the SHA-256 of all its own bytes, so that it proves itself.

The 64 digits stand in the file; they are those of the file with zeros in their place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

OPEN = b"0" * 64
HEAD = "steerkit"
"""The field of a safetensors header that holds ours, as JSON."""


def seal_json(content: Mapping[str, Any]) -> bytes:
    """A JSON object as a file, with its seal as the last field `sha256`.

    Example:
        >>> file = seal_json({"pairs": 3})
        >>> hash_without(file.rindex(json.loads(file)["sha256"].encode()), [file]) == json.loads(file)["sha256"]
        True
    """
    text = json.dumps({**content, "sha256": OPEN.decode()}, indent=1, ensure_ascii=False).encode()
    return _close(bytearray(text), text.rindex(OPEN))


def seal_tensors(tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> bytes:
    """Tensors as a safetensors file whose header says what they are, with its seal as the last field `sha256`.

    Args:
        tensors: The content.
        head: What the header says under `steerkit`.
    """
    from safetensors.torch import save

    text = json.dumps({**head, "sha256": OPEN.decode()})
    data = bytearray(save({name: one.contiguous() for name, one in tensors.items()}, metadata={HEAD: text}))
    return _close(data, data.index(OPEN))


def _close(data: bytearray, at: int) -> bytes:
    data[at : at + len(OPEN)] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def hash_without(at: int, pieces: Iterable[bytes]) -> str:
    """The hash of a file with zeros in place of the 64 bytes at `at`: what its seal must be.

    Example:
        >>> hash_without(1, [b"a" + b"7" * 30, b"7" * 34 + b"b"]) == hashlib.sha256(b"a" + OPEN + b"b").hexdigest()
        True
    """
    digest, before = hashlib.sha256(), 0
    for piece in pieces:
        start, end = (min(max(edge - before, 0), len(piece)) for edge in (at, at + len(OPEN)))
        digest.update(piece[:start])
        digest.update(OPEN[: end - start])
        digest.update(piece[end:])
        before += len(piece)
    return digest.hexdigest()


def is_sealed(data: bytes, seal: Any) -> bool:
    """Whether a file proves itself.

    Args:
        data: All of it.
        seal: What it says its seal is.
    """
    at = data.rfind(seal.encode()) if isinstance(seal, str) and len(seal) == len(OPEN) else -1
    return at >= 0 and hash_without(at, [data]) == seal
