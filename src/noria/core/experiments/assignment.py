"""Sticky assignment of units to arms: a pure function of salt and unit, so that nothing is stored and nothing drifts.

An experiment lives in a layer. Experiments of one layer share its units and exclude each other; layers are independent,
since each hashes with a salt of its own. The propensity of the arm goes into the trace: without it no off-policy
estimate can be made later.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from noria.core.errors import ConfigError

__all__ = ["Arms", "Assignment", "assign", "check_layer", "position"]

_SCALE = 2**53  # a float64 holds every position exactly


@dataclass(frozen=True)
class Arms:
    """Shares of a layer's units, by arm.

    Attributes:
        experiment: name of the experiment.
        salt: secret or random text of the layer; another salt deals units out anew.
        shares: by arm, its share of all units; what is left of 1 is not in the experiment.
        start: position in [0, 1) where the experiment's shares begin in its layer.
    """

    experiment: str
    salt: str
    shares: Mapping[str, float]
    start: float = 0.0

    def __post_init__(self) -> None:
        shares = list(self.shares.values())
        if not shares or not all(0 <= share <= 1 for share in shares) or sum(shares) <= 0:
            raise ConfigError("shares are numbers from 0 to 1, not all 0", where=self.experiment)
        if self.start < 0 or self.start + sum(shares) > 1 + 1e-9:
            raise ConfigError(
                f"shares end at {self.start + sum(shares):g} of the layer",
                where=self.experiment,
                mend="they end at 1 at most; lower them or the start",
            )


@dataclass(frozen=True)
class Assignment:
    """The arm that a unit got, and the probability with which any unit gets it."""

    experiment: str
    arm: str
    propensity: float


def position(salt: str, unit: str) -> float:
    """Place of a unit in a layer: uniform in [0, 1), and independent between salts.

    The first 53 bits of SHA-256 over the length of the salt, the salt, and the unit; the length keeps (ab, c) and
    (a, bc) apart.
    """
    text = f"{len(salt)}:{salt}{unit}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 11) / _SCALE


def assign(arms: Arms, unit: str) -> Assignment | None:
    """The arm of a unit; None where it is outside of the experiment.

    Growing the last arm into free space moves no other unit; units are told apart by the whole text of `unit`.
    """
    place, edge = position(arms.salt, unit), arms.start
    if place < edge:
        return None
    for arm, share in arms.shares.items():
        edge += share
        if place < edge:
            return Assignment(arms.experiment, arm, share)
    return None


def check_layer(experiments: Sequence[Arms]) -> None:
    """Refuse experiments of one layer that overlap, or that differ in salt.

    Raises:
        ConfigError: two of them would take the same units.
    """
    if len({arms.salt for arms in experiments}) > 1:
        raise ConfigError("experiments of one layer share its salt", where=experiments[0].experiment)
    ordered = sorted(experiments, key=lambda arms: arms.start)
    for left, right in itertools.pairwise(ordered):
        end = left.start + math.fsum(left.shares.values())
        if end > right.start + 1e-12:
            raise ConfigError(
                f"{left.experiment} ends at {end:g} of the layer and {right.experiment} begins at {right.start:g}",
                where=right.experiment,
                mend="let it begin later, or give it a layer of its own",
            )
