"""Hands of a simple shape at given places, for tests, examples and the proof's world; they are scripted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from noria.tryon.hands.track import JOINTS

FINGERS = np.array([0.9, 0.35, 0.05, -0.22, -0.5])
"""Angle of each finger from the middle of the hand, from the thumb on, in radians."""
LENGTHS = (
    np.array([[30, 30, 25, 20], [75, 35, 22, 18], [75, 40, 25, 18], [70, 36, 24, 18], [65, 28, 18, 16]])
    / 1000
)
"""Metres from the wrist to the first joint of each finger, and from joint to joint."""


def hand(
    wrist: NDArray[np.floating],
    *,
    direction: float = -np.pi / 2,
    curl: float = 0.1,
    pinch: float = 0.0,
    mirror: bool = False,
) -> NDArray[np.float32]:
    """The joints `[21, 3]` of a hand.

    Args:
        wrist: place of the wrist in metres.
        direction: angle of the middle finger on the screen, 0 to the right, in radians.
        curl: turn of each finger joint towards the palm, in radians.
        pinch: share by which thumb and index finger close, 0-1.
        mirror: whether it is a left hand.
    """
    joints = np.zeros((JOINTS, 3))
    joints[0] = wrist
    for finger in range(5):
        angle = direction + (-FINGERS[finger] if mirror else FINGERS[finger])
        side, place = np.array([np.cos(angle), np.sin(angle), 0.0]), joints[0]
        for bone in range(4):
            turn = curl * bone
            step = side * np.cos(turn) + np.array([0, 0, -np.sin(turn)])
            place = place + LENGTHS[finger, bone] * step
            joints[1 + 4 * finger + bone] = place
    middle = (joints[4] + joints[8]) / 2
    for tip in (4, 8):
        joints[tip] += pinch * (middle - joints[tip])
    return joints.astype(np.float32)
