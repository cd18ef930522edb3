"""Actions from hands alone: spans in which a hand is at the garment, for clips that nobody captioned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from noria.tryon.actions.reading import MOST_ACTIONS, Action


def contact_actions(
    touching: NDArray[np.bool_],
    seconds: Sequence[float],
    duration: float,
    *,
    least: float = 0.25,
    caption: str = "A hand handles the garment",
) -> list[Action]:
    """Spans of contact, closed over short gaps, then without short spans: the paper's smoothing of labels.

    Args:
        touching: whether a hand is at the garment `[frames]`.
        seconds: time of each frame.
        duration: length of the clip in seconds.
        least: seconds of the longest gap that is closed and of the shortest span that is kept.
        caption: caption of every action, which says nothing of its kind.

    Returns:
        At most 50 actions, the longest ones, in order of their start.
    """
    times = np.append(np.asarray(seconds, dtype=np.float64), duration)
    runs = _runs(touching, times)
    closed: list[tuple[float, float]] = []
    for start, end in runs:
        if closed and start - closed[-1][1] <= least:
            closed[-1] = (closed[-1][0], end)
        else:
            closed.append((start, end))
    kept = [span for span in closed if span[1] - span[0] >= least]
    longest = sorted(kept, key=lambda span: span[0] - span[1])[:MOST_ACTIONS]
    return [Action(start, end, caption) for start, end in sorted(longest)]


def _runs(flags: NDArray[np.bool_], times: NDArray[np.float64]) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(float(times[start]), float(times[end])) for start, end in edges.reshape(-1, 2)]
