"""Figures of hands and garment in a generated clip, from files by its name; what is unknown is in none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.tryon.actions.reading import Action
from noria.tryon.evaluation.companions import Companions
from noria.tryon.evaluation.interaction import (
    action_timing_accuracy,
    block_flow,
    contact_f1,
    contacts,
    coupling,
    onset_errors,
    penetration,
    widened,
)
from noria.tryon.hands.rendering import render
from noria.tryon.hands.track import HandTrack
from noria.tryon.video.clips import Clip

TIPS = (4, 8)
"""Tips of thumb and index finger: the hand is taken to hold the garment between them."""
BLOCK = 4
"""Pixels from the middle of a block of the garment, whose movement is followed, to its edge."""
FASTEST = 32
"""Pixels a frame of the fastest hand that is compared with the garment."""
GROUP = 16
"""Frames of which the hands are drawn at a time."""


def handling(clip: Clip, given: Companions, reach: int) -> dict[str, Any]:
    """Figures of hands and garment, as far as what they need is given.

    Args:
        clip: the generated clip.
        given: what belongs to it.
        reach: pixels between a hand and the garment that count as contact.

    Returns:
        The figures that can be had, by name; one that is None has no frame to be measured in.
    """
    row: dict[str, Any] = {}
    if given.actions is not None and given.shown is not None:
        numbers = {plain(action): number for number, action in enumerate(given.actions, 1)}
        named, truth = (acting(spans, clip.seconds, numbers) for spans in (given.shown, given.actions))
        row["action_timing"] = action_timing_accuracy(named, truth)
    if given.actions is not None and given.garment is not None:
        motion = garment_motion(clip.frames, given.garment)
        known = np.isfinite(motion)
        if known.any():
            starts = [action.start for action in given.actions]
            found = onset_errors(motion[known], clip.seconds[known], starts)
            row |= {"onset_error": found.mean, "actions_missed": found.missed, "movements_extra": found.extra}
    if given.hands is not None and given.garment is not None:
        drawn = drawn_hands(given.hands, clip.size)
        row["penetration"] = penetration(drawn[0] | drawn[1], given.garment)
        touching = np.stack([contacts(hand, given.garment, reach) for hand in drawn])
        row["coupling"] = hand_coupling(clip.frames, given.hands, drawn, given.garment, touching)
        seen = given.hands.valid[:, 0] | given.hands.valid[:, 1]
        row["frames_without_hand"] = int((~seen).sum())
        if given.contacts is not None:
            labelled = acting(given.contacts, clip.seconds, {}) > 0
            row["contact_f1"] = contact_f1((touching[0] | touching[1])[seen], labelled[seen])
    return row


def plain(action: Action) -> str:
    """Caption of an action as it is compared: without case and spare space."""
    return " ".join(action.caption.casefold().split())


def acting(
    actions: Sequence[Action], seconds: NDArray[np.floating], numbers: Mapping[str, int]
) -> NDArray[np.int64]:
    """Number of the action of each frame `[frames]`: 0 for none; of two at a time, that of the earlier.

    Args:
        actions: actions in order of their start.
        seconds: time of each frame.
        numbers: number of each caption as `plain` gives it; all others have one that no caption has.
    """
    named = np.zeros(len(seconds), np.int64)
    other = len(numbers) + 1
    for action in reversed(actions):
        inside = (action.start <= seconds + 1e-6) & (seconds + 1e-6 < action.end)
        named[inside] = numbers.get(plain(action), other)
    return named


def garment_motion(frames: NDArray[np.uint8], garment: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean change of a pixel of the garment from the frame before `[frames]`, in 0-255.

    A pixel counts that is the garment's in both frames, so that a hand that uncovers it is no movement. NaN
    where there is none, as in the first frame.
    """
    motion = np.full(len(frames), np.nan)
    for t in range(1, len(frames)):
        both = garment[t] & garment[t - 1]
        if both.any():
            now, before = (frames[at][both].astype(np.int16) for at in (t, t - 1))
            motion[t] = np.abs(now - before).mean()
    return motion


def drawn_hands(track: HandTrack, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where each hand is `[2, frames, height, width]`."""
    drawn = np.zeros((2, len(track.joints), *size), np.bool_)
    for side in (0, 1):
        valid = track.valid & (np.arange(2) == side)
        for start in range(0, len(valid), GROUP):
            part = slice(start, start + GROUP)
            drawn[side, part] = render(replace(track, joints=track.joints[part], valid=valid[part]), size)[1]
    return drawn


def hand_coupling(
    frames: NDArray[np.uint8],
    track: HandTrack,
    drawn: NDArray[np.bool_],
    garment: NDArray[np.bool_],
    touching: NDArray[np.bool_],
) -> float | None:
    """Correlation of the velocities of both hands and of the garment beside them, while they touch.

    The garment is followed by the block of it that is nearest to the fingertips, and that no hand covers from
    this frame to the next.

    Args:
        frames: pixels `[frames, height, width, 3]`.
        track: the hands.
        drawn: where each hand is `[2, frames, height, width]`.
        garment: the visible garment `[frames, height, width]`.
        touching: whether each hand touches it `[2, frames]`.
    """
    places = track.projected()[:, :, TIPS].mean(2).swapaxes(0, 1)
    velocities = np.full_like(places, np.nan)
    velocities[:, :-1] = np.diff(places, axis=1)
    fast = np.ceil(np.abs(velocities).max(-1))
    used = touching & (fast <= FASTEST)
    if not used.any():
        return None
    hands, cloth = drawn[0] | drawn[1], np.full_like(places, np.nan)
    for side in (0, 1):
        points = np.full(places.shape[1:], np.nan)
        for t in np.flatnonzero(used[side]):
            covered = widened(hands[t] | hands[t + 1], BLOCK + int(fast[side, t]))
            points[t] = _nearest(places[side, t], ~widened(~garment[t], BLOCK) & ~covered)
        cloth[side] = block_flow(frames, points, block=BLOCK, search=int(fast[used].max()) + 1)
    used &= np.isfinite(cloth).all(-1)
    return coupling(velocities.reshape(-1, 2), cloth.reshape(-1, 2), used.reshape(-1))


def _nearest(place: NDArray[np.floating], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The pixel x, y of a mask `[height, width]` that is nearest to a place; NaN for none."""
    pixels = np.argwhere(where)[:, ::-1].astype(np.float64)
    return pixels[np.square(pixels - place).sum(1).argmin()] if len(pixels) else np.full(2, np.nan)
