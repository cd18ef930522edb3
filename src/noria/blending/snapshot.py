"""All that a ranking depends on, in one immutable, hashed file: alignment, plans, and what the controllers set.

A request and a snapshot give one answer, online and in a replay, to the bit. The file carries its own digest, so
that half of one is never served.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from noria.blending.alignment.alignment import Alignment
from noria.blending.plans.plans import Plans
from noria.core.errors import DataError
from noria.core.files import write_atomic
from noria.core.records import json_object

FORMAT = "noria-blending-snapshot-1"
MAX_BYTES = 64 * 2**20
"""Most bytes of a snapshot's file."""


@dataclass(frozen=True)
class Setting:
    """Weight and bias that a controller or the solver set for a plan, in place of its file's; or that it rests."""

    weight: float
    bias: float
    resting: bool = False


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that a ranking depends on besides the request.

    Attributes:
        alignment: map from scores to values.
        plans: the plan file.
        settings: weights and biases that controllers set, by plan.
        version: counts up with every publication.
        created: seconds since 1970 UTC.
    """

    alignment: Alignment
    plans: Plans
    settings: Mapping[str, Setting]
    version: int = 1
    created: float = 0.0

    @classmethod
    def of(
        cls,
        alignment: Alignment,
        plans: Plans,
        *,
        settings: Mapping[str, Setting] | None = None,
        version: int = 1,
        created: float = 0.0,
    ) -> Snapshot:
        """A snapshot; settings of unknown plans are refused.

        Raises:
            ConfigError: a setting for no plan.
        """
        for plan in settings or {}:
            plans.place(plan)
        return cls(alignment, plans, dict(settings or {}), version, created)

    def next(self, *, created: float, **changes: Any) -> Snapshot:
        """The one to publish after this: the same but for `changes`, with the next version."""
        return replace(self, version=self.version + 1, created=created, **changes)

    def weight_and_bias(self, plan: str) -> tuple[float, float]:
        """The weight and bias that a plan is served with when it is on."""
        result = self.plans.plans[self.plans.place(plan)]
        setting = self.settings.get(plan)
        return (result.weight, result.bias) if setting is None else (setting.weight, setting.bias)

    def resting(self, plan: str) -> bool:
        """Whether a plan boosts nobody, since its budget is spent."""
        return plan in self.settings and self.settings[plan].resting

    def settings_for(self, plans: Plans) -> dict[str, Setting]:
        """Settings of the plans that another plan file still has."""
        return {plan: setting for plan, setting in self.settings.items() if plan in plans.ids}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content; two snapshots that rank alike in everything they hold have one digest."""
        return hashlib.sha256(_canonical(self._content()).encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": self.version,
            "created": self.created,
            "alignment": self.alignment.to_json(),
            "plans": self.plans.model_dump(mode="json", exclude_defaults=True),
            "settings": {plan: vars(setting) for plan, setting in sorted(self.settings.items())},
        }

    def to_json(self) -> dict[str, Any]:
        """The file's content, with its digest."""
        return self._content() | {"digest": self.digest}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str | None = None) -> Snapshot:
        """Read what `to_json` gave.

        Raises:
            DataError: something else, or something that was changed since.
        """
        if values.get("format") != FORMAT:
            raise DataError(
                "no snapshot of this version", where=where, mend="write it with noria blending fit"
            )
        try:
            snapshot = cls.of(
                Alignment.from_json(values["alignment"]),
                Plans.model_validate(values["plans"]),
                settings={plan: Setting(**setting) for plan, setting in values["settings"].items()},
                version=_version(values["version"]),
                created=float(values["created"]),
            )
            digest = snapshot.digest
        except ValidationError as error:
            raise DataError(f"plans that are not valid: {error.errors()[0]['msg']}", where=where) from None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise DataError(f"a damaged snapshot ({str(error)[:200]})", where=where) from None
        if digest != values.get("digest"):
            raise DataError("the snapshot's digest is not that of its content", where=where)
        return snapshot

    def save(self, path: Path) -> None:
        """Write the file; a reader sees all of the old one or all of the new one.

        Raises:
            RunError: the disk refuses; the old file stays.
        """
        write_atomic(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """Read a snapshot's file.

        Raises:
            DataError: it cannot be read, is half-written, damaged, or something else.
        """
        return cls.from_json(json_object(path, "a snapshot", limit=MAX_BYTES), where=str(path))


def _version(value: Any) -> int:
    number = int(value)
    if not 0 <= number < 2**53:  # what every reader of JSON takes
        raise ValueError("its version is no number from 0 to 2⁵³")
    return number


def _canonical(value: Any) -> str:
    """JSON with sorted keys; floats in their shortest exact form.

    Raises:
        DataError: a number is not finite, as scores of 1e308 make one.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise DataError(
            "the snapshot holds a number that is not finite", mend="check the scores that it is made of"
        ) from None
