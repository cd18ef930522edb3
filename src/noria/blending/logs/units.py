"""Whether watch and duration are in seconds, judged by what cannot be: more was watched than time had passed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.logs.gathering import GatherConfig
from noria.core.errors import DataError

SPEED = 20.0
"""Seconds watched in a second that nobody watches."""
LONG_WATCH, LONG_CONTENT = 1_000.0, 14_400.0
"""Seconds, a second and a quarter of a minute as milliseconds, beyond which a figure of a feed is suspected."""
SHARE, LEAST = 0.01, 20
"""Share and number of a source's outcomes from which they are no strays."""

_MEND = "give seconds; where an outcome's time is the beginning of the watch, say gather.skew=SECONDS"


def check_units(rows: Mapping[str, Any], config: GatherConfig) -> None:
    """Refuse outcomes in milliseconds, of any source.

    Args:
        rows: a sample of exposures joined with their outcomes, as columns of `gathering.JOINED`.
        config: rules by which rows become outcomes.

    Raises:
        DataError: watch or duration of a source are no seconds.
    """
    source = rows["source"]
    numbers = {
        name: np.asarray(rows[name], np.float64) for name in ("time", "outcome_time", "watch", "duration")
    }
    for code in np.unique(source.codes).tolist():
        mine = (source.codes == code) & np.isfinite(numbers["watch"])
        name = source.names[code] if code >= 0 else ""
        _check(name, config, *(column[mine] for column in numbers.values()))


def _check(
    source: str,
    config: GatherConfig,
    time: NDArray[np.float64],
    came: NDArray[np.float64],
    watch: NDArray[np.float64],
    duration: NDArray[np.float64],
) -> None:
    passed = np.abs(came - time)
    is_dated = passed > 1
    bound = np.where(is_dated, SPEED * passed + max(60.0, config.skew), 3.6 * LONG_WATCH)
    beyond = int(((watch > bound) & (watch > LONG_WATCH)).sum())
    if beyond >= max(LEAST, SHARE * len(watch)):
        than = "had passed" if is_dated.any() else "an hour"
        raise DataError(
            f"{beyond:,} of {len(watch):,} outcomes say that far longer was watched than {than}, as milliseconds would",
            where=f"outcomes of source {source!r}, column 'watch'",
            mend=_MEND,
        )
    with np.errstate(invalid="ignore"):
        endless = int(((duration > LONG_CONTENT) & (50 * watch < duration)).sum())
    if endless >= max(LEAST, SHARE * len(watch)):
        raise DataError(
            f"{endless:,} of {len(watch):,} durations are over four hours, and hardly any of that was watched, as in "
            "milliseconds",
            where=f"outcomes of source {source!r}, column 'duration'",
            mend="give seconds, and leave out the duration of what does not end",
        )
