"""The compiled kernels, where numba is installed and the environment lets it in."""

from __future__ import annotations

import functools
import os
from typing import Any

__all__ = ["kernels"]


@functools.cache
def kernels() -> Any | None:
    """The compiled kernels, or None without the extra `numba`, or where NORIA_KERNELS is `numpy`."""
    if os.environ.get("NORIA_KERNELS", "") == "numpy":
        return None
    try:
        from noria.blending import kernels as result
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return None
    return result
