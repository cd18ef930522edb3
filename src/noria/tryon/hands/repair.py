"""Repair of hand tracks: swapped sides, short gaps, jitter; each repair is counted, and long gaps stay gaps."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from noria.tryon.hands.track import HandTrack

ALONE = 0.1
"""Distance in metres that a lone hand is taken to have from a side that was never seen. Nearer than half of it to where
the hand that was seen has been, it is that hand."""
STRAY = 0.005
"""Distance in metres that a hand may have moved during each frame in which only the other hand was seen."""


@dataclass(frozen=True)
class RepairResult:
    """A repaired track and what was done to it.

    Attributes:
        track: the repaired track.
        swapped: number of frames in which left and right were exchanged.
        filled: number of hands that were interpolated.
        missing: number of hands that are missing still.
    """

    track: HandTrack
    swapped: int
    filled: int
    missing: int


def repair(track: HandTrack, seconds: NDArray[np.float64], *, longest_gap: int = 5) -> RepairResult:
    """Exchange swapped hands, fill gaps of at most `longest_gap` frames, and smooth jitter, in this order.

    Args:
        track: the track.
        seconds: time of each frame, rising.
        longest_gap: most frames in a row that are interpolated.
    """
    joints, valid, swapped = _unswapped(track.joints, track.valid)
    joints, valid, filled = _filled(joints, valid, seconds, longest_gap)
    joints = one_euro(joints, valid, seconds)
    repaired = replace(track, joints=joints, valid=valid)
    return RepairResult(repaired, swapped, filled, int((~valid).sum()))


def _unswapped(
    joints: NDArray[np.float32], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Exchange the sides in the frames in which they are the wrong way round."""
    joints, valid = joints.copy(), valid.copy()
    wrong = _exchanged(np.where(valid[..., None], joints[:, :, 0], np.nan))
    joints[wrong], valid[wrong] = joints[wrong, ::-1], valid[wrong, ::-1]
    return joints, valid, int(wrong.sum())


def _exchanged(wrists: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Frames with exchanged sides `[frames]`: the sides of a run of linked frames are those of most of it.

    Args:
        wrists: places in metres `[frames, 2, 3]`; NaN where a hand was not seen.
    """
    exchanged = np.zeros(len(wrists), np.bool_)
    runs: list[list[int]] = []
    last, seen = np.full((2, 3), np.nan), np.zeros(2, np.intp)
    for frame in np.flatnonzero(np.isfinite(wrists[:, :, 0]).any(1)).tolist():
        way = _way(last, wrists[frame], seen.max() - seen)
        if way is None:
            runs.append([])
            last = np.full((2, 3), np.nan)
        runs[-1].append(frame)
        exchanged[frame] = bool(way)
        here = wrists[frame, ::-1] if way else wrists[frame]
        there = np.isfinite(here[:, 0])
        last[there], seen[there] = here[there], frame
    for run in runs:
        if 2 * exchanged[run].sum() > len(run):
            exchanged[run] = ~exchanged[run]
    return exchanged


def _way(last: NDArray[np.floating], here: NDArray[np.floating], unseen: NDArray[np.integer]) -> bool | None:
    """Whether the sides are exchanged against where the hands were: one way moves them less than half as far.

    Args:
        last: where each hand was last seen `[2, 3]`; NaN if never.
        here: where the hand of each side is `[2, 3]`; NaN if not seen, one of the two at least is.
        unseen: for how many frames the other hand was seen without this one `[2]`.

    Returns:
        None where neither way is that much nearer, or the nearer one takes a lone hand for one never seen.
    """
    lone = np.flatnonzero(np.isfinite(here[:, 0]))
    if len(lone) == 2:
        stay, cross = (float(np.nansum(np.linalg.norm(way - last, axis=1))) for way in (here, here[::-1]))
    else:
        side = int(lone[0])
        far = np.linalg.norm(here[side] - last, axis=1) + STRAY * unseen
        stay, cross = np.where(np.isnan(far), ALONE, far)[[side, 1 - side]].tolist()
        if np.isnan(far[1 - side]) and cross < stay:
            return None
    if cross < 0.5 * stay:
        return True
    return False if stay < 0.5 * cross else None


def _filled(
    joints: NDArray[np.float32], valid: NDArray[np.bool_], seconds: NDArray[np.float64], longest: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Interpolate short gaps: the wrist in a line, each bone along an arc, its length in a line."""
    joints, valid, count = joints.copy(), valid.copy(), 0
    for side in (0, 1):
        seen = np.flatnonzero(valid[:, side])
        for first, last in itertools.pairwise(seen.tolist()):
            if not 1 < last - first <= longest + 1:
                continue
            for frame in range(first + 1, last):
                share = (seconds[frame] - seconds[first]) / (seconds[last] - seconds[first])
                joints[frame, side] = between(joints[first, side], joints[last, side], float(share))
                valid[frame, side] = True
                count += 1
    return joints, valid, count


def between(one: NDArray[np.float32], other: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """The hand `[21, 3]` at a share of the way between two; the length of a bone that only turns stays what it is."""
    result = np.zeros_like(one)
    result[0] = (1 - share) * one[0] + share * other[0]
    for joint in range(1, len(one)):
        parent = 0 if joint % 4 == 1 else joint - 1
        result[joint] = result[parent] + _arc(one[joint] - one[parent], other[joint] - other[parent], share)
    return result


def _arc(one: NDArray[np.float32], other: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Spherical interpolation of directions, linear interpolation of lengths."""
    lengths = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    if min(lengths) < 1e-6:
        return ((1 - share) * one + share * other).astype(np.float32)
    a, b = one / lengths[0], other / lengths[1]
    angle = math.acos(float(np.clip(a @ b, -1, 1)))
    if angle < 1e-4 or angle > math.pi - 1e-3:
        direction = (1 - share) * a + share * b
        direction = direction / max(float(np.linalg.norm(direction)), 1e-6)
    else:
        direction = (math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle)
    return (direction * ((1 - share) * lengths[0] + share * lengths[1])).astype(np.float32)


def one_euro(
    joints: NDArray[np.float32],
    valid: NDArray[np.bool_],
    seconds: NDArray[np.float64],
    *,
    cutoff: float = 4.0,
    slope: float = 20.0,
) -> NDArray[np.float32]:
    """The one-euro filter (Casiez et al. 2012): slow movement is smoothed, fast movement passes.

    Args:
        joints: places `[frames, 2, 21, 3]`; where invalid, the filter starts anew after it.
        valid: whether a hand is there `[frames, 2]`.
        seconds: time of each frame.
        cutoff: cut-off of a hand at rest, in hertz.
        slope: hertz that are added for each metre a second.
    """
    result = joints.copy()
    for side in (0, 1):
        speed = np.zeros_like(joints[0, 0])
        for frame in range(1, len(joints)):
            if not (valid[frame, side] and valid[frame - 1, side]):
                speed = np.zeros_like(speed)
                continue
            step = float(seconds[frame] - seconds[frame - 1])
            raw = (joints[frame, side] - result[frame - 1, side]) / step
            speed = speed + _alpha(1.0, step) * (raw - speed)
            hertz = cutoff + slope * np.linalg.norm(speed, axis=-1, keepdims=True)
            alpha = _alpha(hertz, step)
            result[frame, side] = result[frame - 1, side] + alpha * (
                joints[frame, side] - result[frame - 1, side]
            )
    return result


def _alpha(hertz: NDArray[np.floating] | float, step: float) -> NDArray[np.floating] | float:
    ratio = 2 * math.pi * hertz * step
    return ratio / (ratio + 1)


def misaligned(track: HandTrack, person: NDArray[np.bool_]) -> list[tuple[int, int, float]]:
    """Hands that lie off the person: frame, side, and the share of joints outside of a mask, where it is above half.

    Args:
        track: the track.
        person: mask of the person, with hands `[frames, height, width]`.
    """
    found = []
    height, width = person.shape[1:]
    pixels = track.projected()
    for frame, side in np.argwhere(track.valid):
        at = np.floor(pixels[frame, side]).astype(int)
        inside = (at[:, 0] >= 0) & (at[:, 0] < width) & (at[:, 1] >= 0) & (at[:, 1] < height)
        on = inside.copy()
        on[inside] = person[frame, at[inside, 1], at[inside, 0]]
        if on.mean() < 0.5:
            found.append((int(frame), int(side), float(1 - on.mean())))
    return found
