"""One public suite that holds backends, paths, operations and extractors to their contracts.

```python
from steerkit.testing import check_backend

print(check_backend(sk.load("my-model")))
```
"""

from steerkit.testing.backend import TOLERANCE, check_backend
from steerkit.testing.checks import Check, Conformance, ConformanceError
from steerkit.testing.extractor import check_extractor
from steerkit.testing.operation import check_operation
from steerkit.testing.paths import check_paths

__all__ = [
    "TOLERANCE",
    "Check",
    "Conformance",
    "ConformanceError",
    "check_backend",
    "check_extractor",
    "check_operation",
    "check_paths",
]
