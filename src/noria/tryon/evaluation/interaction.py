"""What the garment does under the hands: times of actions, contact, penetration, coupling. The definitions are ours.

The paper judges interaction by a vision-language model alone, with an unpublished protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def action_timing_accuracy(named: NDArray[np.integer], truth: NDArray[np.integer]) -> float | None:
    """Share of the segments with an action that show just that action; None where there is none.

    Args:
        named: action that each segment shows, 0 for none; of any shape.
        truth: action that it should show.
    """
    acts = truth > 0
    return float((named[acts] == truth[acts]).mean()) if acts.any() else None


@dataclass(frozen=True)
class OnsetErrors:
    """Errors of the starts of actions.

    Attributes:
        mean: mean absolute error in seconds of those that were found; None where none was.
        missed: number of actions that do not show.
        extra: number of movements where there is no action.
    """

    mean: float | None
    missed: int
    extra: int


def onset_errors(
    motion: NDArray[np.floating],
    seconds: NDArray[np.floating],
    starts: Sequence[float],
    *,
    window: float = 0.5,
) -> OnsetErrors:
    """Starts of movement of the garment against the starts of actions, each matched once, the nearest first.

    Movement starts where it first exceeds a quarter of its largest value after having been below.

    Args:
        motion: movement of the garment in each frame `[frames]`, in any unit.
        seconds: time of each frame.
        starts: starts of the actions in seconds.
        window: seconds within which a movement counts as an action's.
    """
    high = (
        motion > 0.25 * motion.max() if len(motion) and motion.max() > 0 else np.zeros(len(motion), np.bool_)
    )
    rises = seconds[high & ~np.concatenate([[False], high[:-1]])]
    pairs = sorted((abs(float(r) - s), i, j) for i, s in enumerate(starts) for j, r in enumerate(rises))
    used: tuple[set[int], set[int]] = (set(), set())
    errors = []
    for error, i, j in pairs:
        if error <= window and i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            errors.append(error)
    return OnsetErrors(
        float(np.mean(errors)) if errors else None, len(starts) - len(errors), len(rises) - len(errors)
    )


def contact_f1(shown: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float | None:
    """F1 of frames in which a hand touches the garment; None where neither has any."""
    hits, all_ = int((shown & truth).sum()), int(shown.sum() + truth.sum())
    return 2 * hits / all_ if all_ else None


def contacts(hands: NDArray[np.bool_], garment: NDArray[np.bool_], reach: int = 2) -> NDArray[np.bool_]:
    """Frames in which the garment's mask comes within `reach` pixels of a hand `[frames]`.

    Args:
        hands: masks of the hands `[frames, height, width]`.
        garment: masks of the garment, same shape.
        reach: pixels.
    """
    return np.asarray((widened(hands, reach) & garment).any(axis=(1, 2)))


def widened(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """A mask `[..., height, width]` dilated by a square of `2 pixels + 1`."""
    from scipy.ndimage import maximum_filter

    sides = (1,) * (mask.ndim - 2) + (2 * pixels + 1,) * 2
    wide: NDArray[np.bool_] = maximum_filter(mask, size=sides, mode="constant")
    return wide


def penetration(hands: NDArray[np.bool_], garment: NDArray[np.bool_]) -> float | None:
    """Share of the hands' pixels over which the garment was drawn; None where no hand is.

    Hands of the source are before the garment, so that a garment over them went through them.
    """
    return float((hands & garment).sum() / hands.sum()) if hands.any() else None


def coupling(
    hand: NDArray[np.floating], cloth: NDArray[np.floating], contact: NDArray[np.bool_]
) -> float | None:
    """Correlation of the hand's velocity and the cloth's under it while they touch.

    Args:
        hand: velocities of the hand `[frames, 2]`.
        cloth: velocities of the garment at the hand `[frames, 2]`, of optical flow, say.
        contact: whether they touch `[frames]`.

    Returns:
        -1 .. 1; None with fewer than three frames of contact, or where one of the two does not move.
    """
    a, b = hand[contact].reshape(-1), cloth[contact].reshape(-1)
    if contact.sum() < 3 or np.std(a) < 1e-9 or np.std(b) < 1e-9:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def block_flow(
    frames: NDArray[np.uint8], points: NDArray[np.floating], *, block: int = 4, search: int = 4
) -> NDArray[np.float64]:
    """Movement of the picture around points, from each frame to the next, by block matching `[frames, 2]`.

    Args:
        frames: pixels `[frames, height, width, 3]`.
        points: a place x, y in each frame `[frames, 2]`; NaN gives NaN.
        block: pixels from the middle of a block to its edge.
        search: farthest movement, in pixels.

    Returns:
        Pixels a frame; the last row repeats the one before. A tie goes to the smaller movement.
    """
    edge = block + search
    moves = sorted(
        ((dx, dy) for dx in range(-search, search + 1) for dy in range(-search, search + 1)),
        key=lambda move: move[0] ** 2 + move[1] ** 2,
    )
    columns, rows = (np.array(along) + search for along in zip(*moves, strict=True))

    def around(t: int, x: int, y: int) -> NDArray[np.int32]:
        """Grey values `[2 edge + 1, 2 edge + 1]` around a pixel, three times as large, so that they are whole."""
        grey = np.pad(frames[t].sum(-1, dtype=np.int32), edge, mode="edge")
        return grey[y : y + 2 * edge + 1, x : x + 2 * edge + 1]

    flow = np.full((len(frames), 2), np.nan)
    for t in range(len(frames) - 1):
        if not np.isfinite(points[t]).all():
            continue
        x, y = (
            int(np.clip(round(float(v)), 0, n - 1))
            for v, n in zip(points[t], frames.shape[2:0:-1], strict=True)
        )
        here = around(t, x, y)[search:-search, search:-search]
        there = np.lib.stride_tricks.sliding_window_view(around(t + 1, x, y), here.shape)
        costs = np.abs(there - here).sum(axis=(2, 3))[rows, columns]
        flow[t] = moves[int(np.argmin(costs))]
    if len(frames) > 1:
        flow[-1] = flow[-2]
    return flow
