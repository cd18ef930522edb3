"""The table of aligners that serves: one for each (scene, source, model version), and what to fall back on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from noria.blending.alignment.aligners import Affine, Aligner, Mean, aligner_from_json, aligner_to_json
from noria.blending.alignment.tallies import Key
from noria.blending.columns import Candidates, NameColumn
from noria.core.errors import DataError

__all__ = ["AlignedValues", "Alignment", "Entry", "Origin"]

ANY = "*"
"""The scene or version of an aligner that stands in for all of them."""

Origin = Literal["own", "parent", "held", "last"]
"""Where an aligner is from: its own outcomes; its parent's; held back, since it jumped; the last good one."""


@dataclass(frozen=True)
class Entry:
    """An aligner, where it is from, and the exposures (weighted) behind it."""

    aligner: Aligner
    origin: Origin = "own"
    exposures: float = 0.0


@dataclass(frozen=True, eq=False)
class AlignedValues:
    """Candidates with values.

    Attributes:
        value: [candidates] y; NaN where there is none.
        fallback: [candidates] whether another key's aligner stood in.
        unknown: [candidates] whether there is no aligner at all.
    """

    value: NDArray[np.float64]
    fallback: NDArray[np.bool_]
    unknown: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Aligners by key.

    Attributes:
        entries: aligners by key; a scene or version of "*" stands in for all.
        mean_value: ȳ, effective completions an exposure over all keys: the unit of caps.
        fitted_at: seconds since 1970 UTC.
    """

    entries: Mapping[Key, Entry]
    mean_value: float
    fitted_at: float = 0.0
    _keys: dict[tuple[Any, ...], NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not np.isfinite(self.mean_value) or self.mean_value <= 0:
            raise DataError(
                f"a mean value of {self.mean_value}", where="alignment", mend="fit it on outcomes"
            )

    @classmethod
    def of_scales(cls, scales: Mapping[str, float], *, mean_value: float = 0.5) -> Alignment:
        """Mean aligners by source, for all scenes and versions."""
        entries = {Key(ANY, source, ANY): Entry(Mean(scale)) for source, scale in scales.items()}
        return cls(entries, mean_value)

    def find(self, scene: str, source: str, version: str) -> tuple[Key, bool] | None:
        """The key whose aligner serves a key, and whether it stands in for another; None if there is none."""
        wanted = Key(scene, source, version)
        for key in (wanted, Key(scene, source, ANY), Key(ANY, source, version), Key(ANY, source, ANY)):
            if key in self.entries:
                return key, key != wanted and bool(
                    (scene and key.scene == ANY) or (version and key.version == ANY)
                )
        return None

    def align(self, candidates: Candidates) -> AlignedValues:
        """Values of a request's candidates; a missing score or source gives NaN."""
        rows, standing_in = self._rows(candidates)
        known = rows >= 0
        if self._linear is not None:
            scale, offset = self._linear
            value = scale[rows] * candidates.score + offset[rows]  # row −1 is NaN
        else:
            value = np.full(len(candidates), np.nan)
            for row in np.unique(rows[known]).tolist():
                chosen = rows == row
                value[chosen] = self._aligners[row].transform(candidates.score[chosen])
        return AlignedValues(value, standing_in, ~known)

    def _rows(self, candidates: Candidates) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """[candidates] the number of the aligner, −1 if none; and whether it stands in."""
        source = candidates.source
        version = candidates.columns.get("version")
        versions = version.names if isinstance(version, NameColumn) else ()
        known = self._keys.get((candidates.scene, source.names, versions))
        if known is None:
            known = self._lookup(candidates.scene, source.names, versions)
            if len(self._keys) < 256:  # names come from outside: the memory of them is bounded
                self._keys[candidates.scene, source.names, versions] = known
        codes = version.codes if isinstance(version, NameColumn) else np.full(len(source), -1)
        result = known[:, source.codes, codes]
        return result[0], result[1].astype(np.bool_)

    def _lookup(self, scene: str, sources: tuple[str, ...], versions: tuple[str, ...]) -> NDArray[np.int64]:
        """[2, sources + 1, versions + 1] aligner and stand-in; the last of each is the missing one."""
        numbers = {key: row for row, key in enumerate(self.entries)}
        table = np.zeros((2, len(sources) + 1, len(versions) + 1), np.int64)
        table[0] = -1
        for s, source in enumerate(sources):
            for v, version in enumerate((*versions, "")):
                result = self.find(scene, source, version)
                if result is not None:
                    table[:, s, v] = numbers[result[0]], result[1]
        return table

    @cached_property
    def _aligners(self) -> list[Aligner]:
        return [entry.aligner for entry in self.entries.values()]

    @cached_property
    def _linear(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """[aligners + 1] scale and offset with a NaN at the end, if all are linear."""
        if not all(isinstance(one, Mean | Affine) for one in self._aligners):
            return None
        scale = [one.scale for one in self._aligners if isinstance(one, Mean | Affine)]
        offset = [one.offset if isinstance(one, Affine) else 0.0 for one in self._aligners]
        return np.array([*scale, np.nan]), np.array([*offset, np.nan])

    def to_json(self) -> dict[str, Any]:
        """{mean_value, fitted_at, entries: [{scene, source, version, origin, exposures, aligner}]}."""
        return {
            "mean_value": self.mean_value,
            "fitted_at": self.fitted_at,
            "entries": [
                {
                    **key._asdict(),
                    "origin": e.origin,
                    "exposures": e.exposures,
                    "aligner": aligner_to_json(e.aligner),
                }
                for key, e in sorted(self.entries.items())
            ],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Alignment:
        """Read what `to_json` gave.

        Raises:
            DataError: something else.
        """
        try:
            entries = {
                Key(str(one["scene"]), str(one["source"]), str(one["version"])): Entry(
                    aligner_from_json(one["aligner"]), one["origin"], float(one["exposures"])
                )
                for one in values["entries"]
            }
            return cls(entries, float(values["mean_value"]), float(values["fitted_at"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"no alignment ({error})") from None
