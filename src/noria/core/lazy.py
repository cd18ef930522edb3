"""Public names of a package that bring their module when they are first used: importing the package stays light.

```python
if TYPE_CHECKING:
    from noria.credit.scores.flow import Flow as Flow

__getattr__, __dir__, __all__ = lazily(__name__)
```

The imports for type checkers are the one list of the names: `lazily` reads it from the package's own source.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A package's `__getattr__` and `__dir__` (PEP 562), and its `__all__`.

    Args:
        package: name of the package, which is being imported.
    """
    homes = _imported_for_typing(package)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names, sorted(homes)


def _imported_for_typing(package: str) -> dict[str, str]:
    """The module of each name that the package imports under `if TYPE_CHECKING`."""
    spec = sys.modules[package].__spec__
    source = spec.loader.get_source(package)  # type: ignore[union-attr]
    return {
        alias.name: str(node.module)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
