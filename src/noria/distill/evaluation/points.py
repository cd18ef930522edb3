"""Sets of points: checked on the way in, gone through block by block, and a NaN that knows its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from noria.core.errors import DataError

__all__ = [
    "Array",
    "Floats",
    "Integers",
    "Undefined",
    "blocks",
    "finite",
    "point_pair",
    "point_set",
    "whole_numbers",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Array: TypeAlias = npt.NDArray[Any] | torch.Tensor

BLOCK = 2**21
"""Entries of a distance or projection matrix held at a time: 16 MiB of float64."""


class Undefined(float):
    """NaN with the reason why there is no number.

    >>> value = Undefined("the reference has no spread")
    >>> value == value, value.reason
    (False, 'the reference has no spread')
    """

    reason: str

    def __new__(cls, reason: str) -> Undefined:
        """A NaN."""
        self = super().__new__(cls, "nan")
        self.reason = reason
        return self

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]  # what pickle and copy rebuild it from
        return (self.reason,)

    def __repr__(self) -> str:
        return f"Undefined({self.reason!r})"


def finite(values: Array, name: str) -> Floats:
    """`values` as a non-empty finite float64 array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"not an array of real numbers ({error})", where=name) from error
    if array.size == 0:
        raise DataError("no values", where=name)
    if not np.isfinite(array).all():
        bad = ~np.isfinite(array)
        row = int(np.argwhere(bad)[0][0]) if array.ndim else 0
        raise DataError(
            f"{int(bad.sum())} of {array.size} values are NaN or infinite, the first in row {row}", where=name
        )
    return array


def point_set(values: Array, name: str, at_least: int = 1) -> Floats:
    """`values` [n, ...] as finite float64 points [n, d] with n ≥ `at_least`."""
    array = finite(values, name)
    if array.ndim < 2:
        raise DataError(f"an array with {array.ndim} axes is not a set of points [n, d]", where=name)
    if len(array) < at_least:
        raise DataError(f"too few points: {len(array)}, and {at_least} are needed", where=name)
    return array.reshape(len(array), -1)


def point_pair(a: Array, b: Array, name_a: str, name_b: str, at_least: int = 1) -> tuple[Floats, Floats]:
    """Two sets of points of one dimension."""
    left, right = point_set(a, name_a, at_least), point_set(b, name_b, at_least)
    if left.shape[1] != right.shape[1]:
        raise DataError(
            f"points of {left.shape[1]} ({name_a}) and of {right.shape[1]} dimensions ({name_b}) cannot be compared"
        )
    return left, right


def whole_numbers(values: Array, name: str) -> Integers:
    """`values` [n] as whole numbers."""
    array = finite(values, name)
    if array.ndim != 1 or (array != np.floor(array)).any():
        raise DataError("not one axis of whole numbers", where=name)
    return array.astype(np.int64)


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of `rows` such that a block of them by `columns` stays within BLOCK entries."""
    step = max(1, BLOCK // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
