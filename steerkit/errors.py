"""Every error and warning of steerkit, in one tree.

```
SteerkitError
├── InputError (ValueError)    something given cannot be used
│   ├── DataError              a file, a line, a pair
│   ├── PositionError          a token position or scope
│   ├── LayerError             a layer or a site the model does not have
│   ├── VectorError            a steering vector of another shape, site or layer
│   └── MismatchError          made with another model, tokenizer, template or data
├── ModelError                 a model that cannot be loaded or read truthfully
├── StoreError                 an activation store that is damaged, locked or incomplete
├── SteeringError              edits used in a way that cannot be carried out
├── TrainingError              a training whose loss is no number, or that trains nothing
└── ConformanceError           (steerkit.testing) a part does not keep its contract
SteerkitWarning (UserWarning)
├── NoEffectWarning            an edit that touched nothing
└── LengthBiasWarning          preferences whose chosen answers can be told by their length
```

A message says what was given, what is valid and what to do.
"""

from __future__ import annotations


class SteerkitError(Exception):
    """Base of every error that steerkit raises on purpose."""


class InputError(SteerkitError, ValueError):
    """Something given cannot be used; nothing was computed."""


class DataError(InputError):
    """A file, a line or a pair cannot be read as contrast data."""


class PositionError(InputError):
    """A token position or scope is not one of the valid forms."""


class LayerError(InputError):
    """The model has no such layer, or not that site in it."""


class VectorError(InputError):
    """A steering vector has another shape, site or set of layers than is needed."""


class MismatchError(InputError):
    """A vector, store or adapter was made with something else than it is used with."""


class ModelError(SteerkitError):
    """A model cannot be loaded, or its layout is not what the table of layouts says."""


class StoreError(SteerkitError):
    """An activation store is damaged, locked or incomplete."""


class SteeringError(SteerkitError):
    """Edits are used in a way that cannot be carried out."""


class TrainingError(SteerkitError):
    """A training cannot go on: its loss is no number, or nothing is trained."""


class SteerkitWarning(UserWarning):
    """Base of every warning that steerkit gives."""


class NoEffectWarning(SteerkitWarning):
    """An edit touched no token: the answers are those of the unsteered model."""


class LengthBiasWarning(SteerkitWarning):
    """The chosen answers of preferences are longer (or shorter) too often: what is learned may be length alone."""
