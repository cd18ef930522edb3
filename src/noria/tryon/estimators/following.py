"""One person through a clip: chosen where several are in sight, followed by overlap, with each miss counted.

Nothing is made up where an estimate is missing: a frame without the person has no joints, no mask and no hands. Short
gaps of hands are closed later by `noria.tryon.hands.repair`, where they are counted, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError
from noria.tryon.estimators.crops import Crop
from noria.tryon.estimators.detection import overlap
from noria.tryon.estimators.hands import Hand, HandEstimator, lifted
from noria.tryon.estimators.persons import BODY_JOINTS, Body, PersonEstimator
from noria.tryon.hands.track import JOINTS, HandTrack, checked_track
from noria.tryon.video.clips import Clip

SAME = 0.3
"""Intersection over union of squares around bodies from which a detection is the person that was followed."""
REACH = 0.12
"""Sides of the body's square between a hand's wrist and the body's within which the hand is the person's."""
ARMS = ((13, 15), (14, 16))
"""Elbow and wrist of the left and the right arm among the body's joints."""
HAND_PART = 0.3
"""Side of the square around a wrist in which a hand is looked for, over that of the body's square."""


def clip_camera(size: tuple[int, int], field_of_view: float) -> NDArray[np.float64]:
    """Intrinsics `[3, 3]` of a camera whose longer side spans an angle in degrees."""
    focal = max(size) / 2 / math.tan(math.radians(field_of_view) / 2)
    return np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])


@dataclass(frozen=True)
class BodyTrack:
    """A person through a clip.

    Attributes:
        joints: x, y in pixels and visibility `[frames, 33, 3]`; NaN where the person was missed.
        masks: pixels of the person `[frames, height, width]`; none where the person was missed.
        crops: square around the person in each frame, None where missed.
        others: most other persons that were in sight when the person was chosen.
    """

    joints: NDArray[np.float64]
    masks: NDArray[np.bool_]
    crops: Sequence[Crop | None]
    others: int

    @property
    def missed(self) -> int:
        """Number of frames without the person."""
        return sum(crop is None for crop in self.crops)


def choose(bodies: Sequence[Body], person: str | None, where: str = "") -> Body:
    """The person that a user names among those of a frame.

    Args:
        bodies: persons from left to right.
        person: `largest`, a number from 1 at the left, or a point `X,Y` in pixels; None takes the only one.
        where: name of the frame, for errors.

    Raises:
        DataError: several persons and no choice, or none of them is the one that is named.
    """
    at = "; ".join(f"{n} at {b.crop.centre[0]:.0f},{b.crop.centre[1]:.0f}" for n, b in enumerate(bodies, 1))
    if person is None:
        if len(bodies) > 1:
            raise DataError(
                f"{len(bodies)} persons are in sight ({at})",
                where=where,
                mend="choose one: --person largest, a number, or a point X,Y on the person",
            )
        return bodies[0]
    if person == "largest":
        return max(bodies, key=lambda body: float(body.mask.sum()))
    if "," in person:
        x, y = (math.floor(float(part)) for part in person.split(","))
        on = [b for b in bodies if 0 <= y < len(b.mask) and 0 <= x < b.mask.shape[1] and b.mask[y, x] > 0.5]
        if not on:
            raise DataError(f"no person at {person} ({at})", where=where, mend="name a point on one")
        return max(on, key=lambda body: float(body.mask[y, x]))
    if not 1 <= int(person) <= len(bodies):
        raise DataError(f"no person {person}: {len(bodies)} in sight ({at})", where=where)
    return bodies[int(person) - 1]


def follow(
    clip: Clip, estimator: PersonEstimator, person: str | None, advance: Callable[[], None]
) -> BodyTrack:
    """Follow one person through a clip, frame by frame.

    The person is chosen in the first frame in which anybody is in sight. From then on the square of the frame before
    is looked at first; where the person left it, the detection that overlaps the last square most is taken. A person
    who was alone then, and is alone again, is taken wherever that is: after a cut, or back from behind something.

    Args:
        clip: the clip.
        estimator: the networks.
        person: choice, as in `choose`.
        advance: called after each frame.

    Raises:
        DataError: nobody is in sight, or the choice is ambiguous.
    """
    joints = np.full((len(clip.frames), BODY_JOINTS, 3), np.nan)
    masks = np.zeros(clip.frames.shape[:3], np.bool_)
    crops: list[Crop | None] = []
    last: Crop | None = None
    others = 0
    for number, frame in enumerate(clip.frames):
        body = None
        if last is None:
            bodies = estimator.everyone(frame)
            if bodies:
                body = choose(bodies, person, f"{clip.path.name}, frame {number}")
                others = len(bodies) - 1
        else:
            body = estimator.read(frame, last) or _again(estimator, frame, last, alone=others == 0)
        crops.append(body.crop if body else None)
        if body is not None:
            last = body.crop
            joints[number], masks[number] = body.joints, body.mask > 0.5
        advance()
    if last is None:
        raise DataError(
            f"no person in its {len(clip.frames)} frames",
            where=clip.path.name,
            mend="a face or the shoulders must be in sight; else give --mask and --pose of another estimator",
        )
    return BodyTrack(joints, masks, crops, others)


def _again(estimator: PersonEstimator, frame: NDArray[np.uint8], last: Crop, *, alone: bool) -> Body | None:
    """The person of the last square among those that are detected anew, or None."""
    crops = estimator.detect(frame)
    if not crops:
        return None
    shared = overlap(last.box, np.array([crop.box for crop in crops]))
    best = int(shared.argmax())
    same = shared[best] >= SAME or (alone and len(crops) == 1)
    return estimator.read(frame, crops[best]) if same else None


@dataclass
class HandCounts:
    """Hands of a clip.

    Attributes:
        seen: hands of the person, over all frames.
        others: hands that were seen and belong to nobody's wrist, or to somebody else.
        frames: frames with a hand of the person at least.
    """

    seen: int = 0
    others: int = 0
    frames: int = 0


def follow_hands(
    clip: Clip,
    estimator: HandEstimator,
    camera: NDArray[np.float64],
    body: BodyTrack | None,
    advance: Callable[[], None],
) -> tuple[HandTrack, HandCounts]:
    """Both hands of a person in each frame; a hand that was not seen is invalid.

    Args:
        clip: the clip.
        estimator: the networks.
        camera: intrinsics `[3, 3]`.
        body: the person whose hands they are; None where all hands of the clip are of one person.
        advance: called after each frame.
    """
    joints = np.zeros((len(clip.frames), 2, JOINTS, 3), np.float32)
    valid = np.zeros((len(clip.frames), 2), np.bool_)
    counts, before = HandCounts(), list[Crop]()
    for number, frame in enumerate(clip.frames):
        crop = body.crops[number] if body else None
        seen: list[Hand] = []
        if body is None or crop is not None:
            parts = [] if body is None or crop is None else hand_parts(body.joints[number], crop)
            seen = estimator.hands(frame, parts, before)
        sides = assigned(seen, None if body is None else body.joints[number], crop)
        counts.others += len(seen) - sum(hand is not None for hand in sides)
        for side, hand in enumerate(sides):
            if hand is not None:
                joints[number, side] = lifted(hand.metres, hand.pixels, camera)
                valid[number, side] = True
        before = [hand.crop for hand in sides if hand is not None]
        counts.seen += len(before)
        counts.frames += bool(before)
        advance()
    return checked_track(joints, valid, camera), counts


def hand_parts(joints: NDArray[np.floating], crop: Crop) -> list[Crop]:
    """Squares beyond both wrists in which hands are looked for: in the whole body's square they are too small."""
    parts = []
    for elbow, wrist in ARMS:
        x, y = joints[wrist, :2] + 0.25 * (joints[wrist, :2] - joints[elbow, :2])
        parts.append(Crop((float(x), float(y)), HAND_PART * crop.side))
    return parts


def assigned(
    hands: Sequence[Hand], joints: NDArray[np.floating] | None, crop: Crop | None
) -> tuple[Hand | None, Hand | None]:
    """The left and the right hand among those of a frame.

    With a body, a hand must lie at one of the body's wrists, and nearness and the network's word on the side decide
    together; without one, the network's word decides.

    Args:
        hands: hands of the frame, the surest first.
        joints: the body's joints `[33, 3]`, or None.
        crop: the square around the body, or None.
    """
    costs = np.full((len(hands), 2), np.inf)
    for row, hand in enumerate(hands):
        chance = np.clip([1 - hand.right, hand.right], 1e-3, 1)
        if joints is None or crop is None:
            costs[row] = -np.log(chance)
            continue
        for side, (_, wrist) in enumerate(ARMS):
            far = float(np.linalg.norm(hand.pixels[0] - joints[wrist, :2])) / crop.side
            if far < REACH:
                costs[row, side] = far / REACH - np.log(chance[side])
    return _cheapest(hands, costs)


def _cheapest(hands: Sequence[Hand], costs: NDArray[np.float64]) -> tuple[Hand | None, Hand | None]:
    """The assignment of at most one hand to each side that assigns most and then costs least."""
    choices = [None, *range(len(hands))]
    best: tuple[int, float] = (0, 0.0)
    pair: tuple[int | None, int | None] = (None, None)
    for left in choices:
        for right in choices:
            rows = [(row, side) for side, row in enumerate((left, right)) if row is not None]
            if (left is not None and left == right) or any(np.isinf(costs[place]) for place in rows):
                continue
            rank = (-len(rows), float(sum(costs[place] for place in rows)))
            if rank < best:
                best, pair = rank, (left, right)
    left, right = pair
    return (
        None if left is None else hands[left],
        None if right is None else hands[right],
    )
