"""Hands of a frame: palms, the 21 joints of each, and where the hand is before the camera.

The networks are MediaPipe Hands' (Zhang et al. 2020, arXiv 2006.10214). One gives joints twice: on the screen, and in
metres around the middle of the hand. The way of the hand before the camera is what brings the second onto the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noria.tryon.estimators.crops import Crop, around, upright_angle, whole
from noria.tryon.estimators.detection import PALMS, detections, overlap
from noria.tryon.estimators.models import LiteModel, open_lite
from noria.tryon.hands.track import JOINTS

LEAST_PRESENCE = 0.5
STEADY = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)
"""Joints that say where a hand is however the fingers bend."""
SAME = 0.5
"""Intersection over union from which two crops are of one hand."""


@dataclass(frozen=True)
class Hand:
    """A hand in one frame.

    Attributes:
        pixels: x and y of the joints in the frame `[21, 2]`.
        metres: joints around the middle of the hand, x right, y down, z away from the camera `[21, 3]`.
        right: probability that it is a right hand, in a picture that is not mirrored.
        crop: where to look for it in the next frame.
        score: whether there is a hand in the crop, 0-1.
    """

    pixels: NDArray[np.float64]
    metres: NDArray[np.float64]
    right: float
    crop: Crop
    score: float


def palm_crop(box: NDArray[np.floating], wrist: NDArray[np.floating], middle: NDArray[np.floating]) -> Crop:
    """The square around a hand, fingers up, from a palm's box, wrist and first joint of the middle finger in pixels."""
    centre = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
    side = float(max(box[2] - box[0], box[3] - box[1]))
    return Crop(centre, side, upright_angle(wrist, middle)).moved(0, -0.5, 2.6)


def next_crop(pixels: NDArray[np.floating]) -> Crop:
    """The square in which to look for a hand next, from its joints `[21, 2]`."""
    angle = upright_angle(pixels[0], (2 * pixels[9] + pixels[5] + pixels[13]) / 4)
    return around(pixels[list(STEADY)], angle).moved(0, -0.1, 2.0)


def lifted(
    metres: NDArray[np.floating], pixels: NDArray[np.floating], camera: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Joints before the camera `[21, 3]`: the shift `t` that brings joints in metres onto their pixels.

    With `u = f (x + t_x) / (z + t_z) + c`, each joint gives two equations that are linear in t,
    `f t_x - (u - c) t_z = (u - c) z - f x`, and so for y; they are solved by least squares.

    Args:
        metres: joints around any point `[21, 3]`.
        pixels: joints on the screen `[21, 2]`.
        camera: intrinsics `[3, 3]` without skew.
    """
    focal, centre = np.array([camera[0, 0], camera[1, 1]]), camera[:2, 2]
    offset = np.asarray(pixels, np.float64) - centre
    left = np.zeros((len(metres), 2, 3))
    left[:, 0, 0], left[:, 1, 1] = focal
    left[:, :, 2] = -offset
    right = offset * metres[:, 2:3] - focal * metres[:, :2]
    shift, *_ = np.linalg.lstsq(left.reshape(-1, 3), right.reshape(-1), rcond=None)
    return np.asarray(metres + shift, np.float64)


class HandEstimator:
    """MediaPipe's two networks of hands: one finds palms, one reads the joints of a hand."""

    def __init__(self, detector: LiteModel | None = None, reader: LiteModel | None = None) -> None:
        self._detector = detector or open_lite("palms")
        self._reader = reader or open_lite("hand")

    def detect(self, frame: NDArray[np.uint8], where: Crop) -> list[Crop]:
        """Where hands may be in a part of a frame, the surest first."""
        raw, logits = self._detector(where.cut(frame, self._detector.side))
        crops = []
        for one in detections(raw, logits[:, 0], PALMS):
            corners = where.to_frame(one.box.reshape(2, 2)).reshape(4)
            points = where.to_frame(one.points)
            crops.append(palm_crop(corners, points[0], points[2]))
        return crops

    def read(self, frame: NDArray[np.uint8], crop: Crop) -> Hand | None:
        """The hand in a crop of a frame; None where there is none."""
        side = self._reader.side
        places, presence, right, metres = self._reader(crop.cut(frame, side))
        if not presence[0] >= LEAST_PRESENCE:
            return None
        pixels = crop.to_frame(places.reshape(JOINTS, 3)[:, :2] / side)
        turned = metres.reshape(JOINTS, 3).astype(np.float64)
        turned[:, :2] = turned[:, :2] @ crop.axes
        return Hand(pixels, turned, float(right[0]), next_crop(pixels), float(presence[0]))

    def hands(
        self, frame: NDArray[np.uint8], where: Sequence[Crop] = (), before: Sequence[Crop] = ()
    ) -> list[Hand]:
        """Hands of a frame, the surest first, each once.

        Args:
            frame: pixels `[height, width, 3]`.
            where: parts in which palms are looked for; the whole frame by default.
            before: crops of the hands of the frame before, which are looked at, too: a fist is seldom detected.
        """
        parts = where or [whole((frame.shape[0], frame.shape[1]))]
        crops = [crop for part in parts for crop in self.detect(frame, part)] + list(before)
        seen = [hand for hand in (self.read(frame, crop) for crop in crops) if hand is not None]
        kept: list[Hand] = []
        for hand in sorted(seen, key=lambda hand: -hand.score):
            boxes = np.array([other.crop.box for other in kept]).reshape(-1, 4)
            if not (overlap(hand.crop.box, boxes) > SAME).any():
                kept.append(hand)
        return kept
