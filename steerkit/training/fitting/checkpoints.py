"""One file that a training goes on from: weights, the optimizer's state, the curve so far."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.errors import DataError, MismatchError

NAME = "training.safetensors"
FORMAT = "steerkit.training/1"
Row = dict[str, float]


class Checkpoint:
    """Where a training is kept; nowhere without a folder.

    Random numbers need not be kept: those of a step are drawn from a seed of its own.

    Args:
        folder: Where the file lies.
        identity: All that decides the weights, as plain values; another training in the same folder is refused.
    """

    def __init__(self, folder: str | Path | None, identity: Mapping[str, Any]) -> None:
        self._path = None if folder is None else Path(folder) / NAME
        self._identity: dict[str, Any] = json.loads(json.dumps(dict(identity)))

    def restore(self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> list[Row]:
        """Fill in what was kept; the curve so far, empty where nothing was.

        Raises:
            MismatchError: What was kept is another training.
            DataError: The file is damaged.
        """
        if self._path is None or not self._path.exists():
            return []
        tensors, header = _read(self._path)
        self._check(header["identity"])
        state: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for i, parameter in enumerate(parameters):
                parameter.copy_(tensors.pop(f"{i}.weight"))
        for name, tensor in tensors.items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        rows: list[Row] = header["rows"]
        return rows

    def keep(
        self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, rows: Sequence[Mapping[str, float]]
    ) -> None:
        """Write all of it or nothing; what was kept before is replaced in one step."""
        if self._path is None:
            return
        from safetensors.torch import save_file

        tensors = {f"{i}.weight": one.detach().to("cpu", copy=True) for i, one in enumerate(parameters)}
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{i}.{key}": one.detach().to("cpu", copy=True) for key, one in state.items()}
        header = {"identity": self._identity, "rows": list(rows)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{NAME}.{os.getpid()}.tmp")
        try:
            save_file(tensors, draft, metadata={"format": FORMAT, "training": json.dumps(header)})
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)

    def _check(self, kept: Mapping[str, Any]) -> None:
        differing = [
            f"{key}: there {kept.get(key)!r:.80}, here {self._identity.get(key)!r:.80}"
            for key in sorted({*kept, *self._identity})
            if kept.get(key) != self._identity.get(key)
        ]
        if differing:
            raise MismatchError(f"{self._path} holds another training; " + "; ".join(differing) + ". Give another "
                                "folder, or delete it")  # fmt: skip


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            fields = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise DataError(f"{path} is damaged ({error}); delete it to train from the start") from error
    if fields.get("format") != FORMAT:
        raise DataError(f"{path} holds {fields.get('format', 'no training')!r}; this version reads {FORMAT!r}. Delete "
                        "it to train from the start")  # fmt: skip
    return tensors, json.loads(fields["training"])
