"""Fitted aligners: from a raw score of one model to a value in expected effective completions.

Each is a frozen record with `transform(x)` and a JSON form. `noria.blending.fitting` fits them from tallies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError

__all__ = ["KINDS", "Affine", "Aligner", "Linear", "Mean", "aligner_from_json", "aligner_to_json"]

Array: TypeAlias = "NDArray[np.float64]"


class Aligner(Protocol):
    """Maps scores to values, never lowering the order of two scores."""

    def transform(self, x: Array) -> Array:
        """[rows] finite scores → [rows] values."""
        ...


@dataclass(frozen=True)
class Mean:
    """y = α x (Uniboost, Eq. 1): the mean value is the mean outcome, and the unit of x drops out."""

    scale: float

    def transform(self, x: Array) -> Array:
        """[rows] finite scores → [rows] values."""
        return self.scale * x


@dataclass(frozen=True)
class Affine:
    """y = α x + β, α > 0."""

    scale: float
    offset: float

    def transform(self, x: Array) -> Array:
        """[rows] finite scores → [rows] values."""
        return self.scale * x + self.offset


Linear: TypeAlias = "Mean | Affine"
KINDS: dict[str, type[Any]] = {"mean": Mean, "affine": Affine}
"""By the name that files and the command line use."""


def aligner_to_json(aligner: Aligner) -> dict[str, Any]:
    """{kind, and the record's fields}."""
    (kind,) = (name for name, cls in KINDS.items() if type(aligner) is cls)
    fields: Any = aligner
    return {"kind": kind} | asdict(fields)


def aligner_from_json(values: Mapping[str, Any]) -> Aligner:
    """What `aligner_to_json` gave.

    Raises:
        DataError: an unknown kind, a field too many or too few, or a number that is none.
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise DataError(f"{kind!r} is no kind of aligner", mend=f"kinds are {', '.join(KINDS)}")
    try:
        found: Aligner = KINDS[kind](**fields)
        numbers = np.concatenate([np.atleast_1d(np.asarray(v, np.float64)) for v in fields.values()])
    except (TypeError, ValueError):
        raise DataError(f"the fields {', '.join(fields)} do not make a {kind} aligner") from None
    if not np.all(np.isfinite(numbers)):
        raise DataError(f"a {kind} aligner with a number that is not finite")
    return found
