"""Fitted aligners: from a raw score of one model to a value in expected effective completions.

Each is a frozen record with `transform(x)`, and never turns the order of two scores round; `curves` fits them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError

__all__ = [
    "KINDS",
    "Affine",
    "Aligner",
    "Beta",
    "Isotonic",
    "Kind",
    "Mean",
    "Platt",
    "Sir",
    "aligner_from_json",
    "aligner_to_json",
    "kind_of",
]

Array: TypeAlias = "NDArray[np.float64]"
Kind = Literal["mean", "affine", "platt", "beta", "sir", "isotonic"]
"""Kinds of aligners, from the simplest to the freest."""

_EDGE = 1e-12  # how near to 0 and 1 a score may come where its logarithm is taken


class Aligner(Protocol):
    """Maps scores to values."""

    def transform(self, x: Array) -> Array:
        """[rows] finite scores → [rows] values."""
        ...


@dataclass(frozen=True)
class Mean:
    """y = α x (Uniboost, Eq. 1): the mean value is the mean outcome, and the unit of x drops out.

    y is no probability: it keeps the mean, not the range, and may be above 1.
    """

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


@dataclass(frozen=True)
class Platt:
    """y = 1 / (1 + e^{−(α x + β)}), α > 0."""

    slope: float
    offset: float

    def transform(self, x: Array) -> Array:
        """[rows] finite scores → [rows] values."""
        return _sigmoid(self.slope * x + self.offset)


@dataclass(frozen=True)
class Beta:
    """logit y = a ln x − b ln(1 − x) + c with a, b ≥ 0, for scores that are probabilities (Kull et al. 2017).

    Scores outside of (0, 1) count as its ends.
    """

    a: float
    b: float
    c: float

    def transform(self, x: Array) -> Array:
        """[rows] finite scores → [rows] values."""
        inner = np.clip(x, _EDGE, 1 - _EDGE)
        return _sigmoid(self.a * np.log(inner) - self.b * np.log1p(-inner) + self.c)


@dataclass(frozen=True)
class Isotonic:
    """Straight lines between knots, flat outside of them, and a slight tilt everywhere.

    Where isotonic regression is flat it would tie scores that the model ranks; the tilt,
    `tilt` · u / (1 + |u|) with u = (x − centre) / spread, keeps their order.

    Attributes:
        x: [knots] scores, rising.
        y: [knots] values, never falling.
        tilt: height of the tilt.
        centre, spread: middle and spread of the scores.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    tilt: float
    centre: float
    spread: float

    @cached_property
    def _knots(self) -> tuple[Array, Array]:
        return np.array(self.x), np.array(self.y)

    def transform(self, x: Array) -> Array:
        """[rows] finite scores → [rows] values."""
        u = (x - self.centre) / self.spread
        result: Array = np.interp(x, *self._knots) + self.tilt * u / (1 + np.abs(u))
        return result


@dataclass(frozen=True)
class Sir(Isotonic):
    """Smoothed isotonic regression: knots at the centres of quantile bins, so that there are no steps.

    Deng et al. 2021 use it to calibrate Alibaba's ads.
    """


KINDS: dict[Kind, type[Any]] = {
    "mean": Mean,
    "affine": Affine,
    "platt": Platt,
    "beta": Beta,
    "sir": Sir,
    "isotonic": Isotonic,
}
"""Aligners by the name that files and the command line use, from the simplest to the freest."""


def kind_of(aligner: Aligner) -> Kind:
    """The name of an aligner's kind."""
    return next(kind for kind, cls in KINDS.items() if type(aligner) is cls)


def aligner_to_json(aligner: Aligner) -> dict[str, Any]:
    """{kind, and the record's fields}."""
    fields: Any = aligner
    return {"kind": kind_of(aligner)} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(fields).items()
    }


def aligner_from_json(values: Mapping[str, Any]) -> Aligner:
    """Read what `aligner_to_json` gave.

    Raises:
        DataError: an unknown kind, a field too many or too few, or a number that is none.
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise DataError(f"{kind!r} is no kind of aligner", mend=f"kinds are {', '.join(KINDS)}")
    try:
        fields = {
            name: tuple(map(float, value)) if isinstance(value, list) else float(value)
            for name, value in fields.items()
        }
        result: Aligner = KINDS[kind](**fields)
    except (TypeError, ValueError):
        raise DataError(f"the fields {', '.join(fields)} do not make an aligner of kind {kind}") from None
    if not all(np.all(np.isfinite(value)) for value in fields.values()):
        raise DataError(f"an aligner of kind {kind} with a number that is not finite")
    if isinstance(result, Isotonic):
        x, y = np.array(result.x), np.array(result.y)
        if (
            not len(x) == len(y) > 0
            or (np.diff(x) <= 0).any()
            or (np.diff(y) < 0).any()
            or result.spread <= 0
        ):
            raise DataError(f"an aligner of kind {kind} whose knots do not rise")
    return result


def _sigmoid(z: Array) -> Array:
    low = np.exp(-np.abs(z))  # never overflows
    result: Array = np.where(z >= 0, 1.0, low) / (1 + low)
    return result
