"""Figures of the units of an experiment, and their moments by arm: of one service, or of several that share a database.

A unit (a user, say) may be seen by several services. Each publishes its sums and counts of a unit; the value of a unit
is the sum over services by the sum of counts, so that no unit counts twice and no router has to be sticky.

Where a caller names no users nobody knows how many people its units are. They are a crowd, whose units weigh together
at most as much as a given number of other units: a person with a thousand conversations is not a thousand people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from noria.core.experiments.lifecycle import Estimate
from noria.core.storage.control import SQLControl

_AT_ONCE = 500


Figure = tuple[str, str, str, float, int] | tuple[str, str, str, float, int, str]
"""A figure of a unit: the unit, its arm, the name of the figure, the sum and the number of its values, and the crowd
that the unit belongs to, where it belongs to one."""
_IN_CROWD = "\x1f"  # parts the arm and the crowd in the column of arms


class Moments(NamedTuple):
    """Number, mean and variance (by n − 1) of the values of units; NaN where there are too few."""

    number: int = 0
    mean: float = math.nan
    variance: float = math.nan


ByArm = Mapping[tuple[str, str], Moments]
"""Moments by arm and name of the figure."""


def moments(figures: Iterable[Figure], *, most_unnamed: float = math.inf) -> dict[tuple[str, str], Moments]:
    """Moments of the units' values by arm and name.

    Args:
        figures: figures of the units.
        most_unnamed: units as much as which those of one crowd weigh together in an arm at most.
    """
    sums: dict[tuple[str, str, str], tuple[float, int]] = {}
    for unit, arm, name, total, number, *crowd in figures:
        key = _place(arm, *crowd), name, unit
        before, count = sums.get(key, (0.0, 0))
        sums[key] = before + total, count + number
    values: dict[tuple[str, str], list[float]] = {}
    for (arm, name, _), (total, count) in sums.items():
        if count:
            values.setdefault((arm, name), []).append(total / count)
    return _together({key: _moments(column) for key, column in values.items()}, most_unnamed)


def _place(arm: str, crowd: str = "") -> str:
    """An arm, or the crowd's part of it, as one text."""
    return f"{arm}{_IN_CROWD}{crowd}" if crowd else arm


def _together(apart: ByArm, most_unnamed: float) -> dict[tuple[str, str], Moments]:
    """Moments by arm and name of units that were counted apart by crowd, each crowd with its weight.

    With n units and w the weight of each, 1 or what its crowd leaves it, the mean is m = Σ w x / Σ w, and its variance
    n / (n − 1) · Σ w² (x − m)² / (Σ w)², which is that of the plain mean where no crowd is too large.
    """
    parts: dict[tuple[str, str], list[tuple[float, Moments]]] = {}
    for (place, name), one in apart.items():
        arm, _, crowd = place.partition(_IN_CROWD)
        weight = min(1.0, most_unnamed / one.number) if crowd else 1.0
        parts.setdefault((arm, name), []).append((weight, one))
    return {key: _weighted(strata) for key, strata in parts.items()}


def _weighted(strata: Sequence[tuple[float, Moments]]) -> Moments:
    if len(strata) == 1:
        return strata[0][1]
    number = sum(one.number for _, one in strata)
    whole = math.fsum(weight * one.number for weight, one in strata)
    mean = math.fsum(weight * one.number * one.mean for weight, one in strata) / whole
    squares = math.fsum(
        weight**2
        * ((one.variance * (one.number - 1) if one.number > 1 else 0.0) + one.number * (one.mean - mean) ** 2)
        for weight, one in strata
    )
    return Moments(number, mean, number**2 / (number - 1) * squares / whole**2)


def difference(by_arm: ByArm, name: str, control: str, treatment: str) -> Estimate:
    """Difference of the means, treatment less control, with Welch's standard error; NaN below two units an arm."""
    one, two = by_arm.get((control, name), Moments()), by_arm.get((treatment, name), Moments())
    if min(one.number, two.number) < 2:
        return Estimate(math.nan, math.nan)
    error = math.sqrt(one.variance / one.number + two.variance / two.number)
    return Estimate(two.mean - one.mean, error)


def mean_of(by_arm: ByArm, name: str, arm: str) -> Estimate:
    """Mean of a figure in one arm with its standard error, as of paired differences; not known below two units."""
    one = by_arm.get((arm, name), Moments())
    if one.number < 2:
        return Estimate(math.nan, math.nan)
    return Estimate(one.mean, math.sqrt(one.variance / one.number))


def _moments(values: list[float]) -> Moments:
    count = len(values)
    mean = math.fsum(values) / count
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Moments(count, mean, squares / (count - 1) if count > 1 else math.nan)


_TABLE = """
CREATE TABLE IF NOT EXISTS figures (
    experiment TEXT NOT NULL, since BIGINT NOT NULL, service TEXT NOT NULL, unit TEXT NOT NULL, arm TEXT NOT NULL,
    name TEXT NOT NULL, total DOUBLE PRECISION NOT NULL, count BIGINT NOT NULL,
    PRIMARY KEY (experiment, service, unit, arm, name))
"""
_WRITE = (
    "INSERT INTO figures (experiment, since, service, unit, arm, name, total, count) VALUES {}"
    " ON CONFLICT (experiment, service, unit, arm, name) DO UPDATE SET since = excluded.since,"
    " total = excluded.total, count = excluded.count"
)
_READ = """
WITH units AS (
    SELECT arm, name, sum(total) / sum(count) AS value FROM figures WHERE experiment = ? AND since = ?
    GROUP BY arm, name, unit HAVING sum(count) > 0),
means AS (SELECT arm, name, count(*) AS number, avg(value) AS mean FROM units GROUP BY arm, name)
SELECT m.arm, m.name, m.number, m.mean, sum((u.value - m.mean) * (u.value - m.mean))
FROM means AS m JOIN units AS u ON u.arm = m.arm AND u.name = m.name GROUP BY m.arm, m.name, m.number, m.mean
"""


def forget_unit(control: SQLControl, unit: str) -> None:
    """Remove the figures of a unit, such as a user who is erased, from every experiment of every service.

    Raises:
        RunError: the database refuses.
    """
    control.execute(_TABLE, ())
    control.execute("DELETE FROM figures WHERE unit = ?", (unit,))


class SharedFigures:
    """Figures of several services in the database of their control state.

    Args:
        control: control state that the services share.
        service: name of this service among them.
    """

    def __init__(self, control: SQLControl, service: str) -> None:
        self.control, self.service = control, service
        control.execute(_TABLE, ())
        self._published: dict[str, tuple[int, dict[tuple[str, str, str], tuple[float, int]]]] = {}

    def publish(self, experiment: str, since: int, figures: Iterable[Figure]) -> int:
        """Make this service's figures of an experiment these; the number of rows that changed.

        Args:
            experiment: name of the experiment.
            since: nanoseconds since 1970 at which its stage began; figures of an earlier stage are replaced.
            figures: figures of the units that this service has seen since then.
        """
        present = {
            (unit, _place(arm, *crowd), name): (float(total), count)
            for unit, arm, name, total, count, *crowd in figures
        }
        stage, before = self._published.get(experiment, (0, {}))
        if stage != since:  # the first time, or another stage: nothing of ours stays
            self._delete("experiment = ? AND service = ?", (experiment, self.service))
            before = {}
        changed = [(key, value) for key, value in present.items() if before.get(key) != value]
        for first in range(0, len(changed), _AT_ONCE):
            chunk = changed[first : first + _AT_ONCE]
            rows = [(experiment, since, self.service, *key, *value) for key, value in chunk]
            places = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * len(rows))
            self.control.execute(_WRITE.format(places), [cell for row in rows for cell in row])
        gone = before.keys() - present.keys()
        for key in gone:  # of users that were erased, and ratings that were withdrawn
            where = "experiment = ? AND service = ? AND unit = ? AND arm = ? AND name = ?"
            self._delete(where, (experiment, self.service, *key))
        self._published[experiment] = since, present
        return len(changed) + len(gone)

    def moments(
        self, experiment: str, since: int, *, most_unnamed: float = math.inf
    ) -> dict[tuple[str, str], Moments]:
        """Moments of the units' values by arm and name, over all services; arguments as of :func:`moments`."""
        apart = {
            (place, name): Moments(
                number, float(mean), float(squares) / (number - 1) if number > 1 else math.nan
            )
            for place, name, number, mean, squares in self.control.execute(_READ, (experiment, since))
        }
        return _together(apart, most_unnamed)

    def _delete(self, where: str, values: tuple[str, ...]) -> None:
        self.control.execute(f"DELETE FROM figures WHERE {where}", values)
