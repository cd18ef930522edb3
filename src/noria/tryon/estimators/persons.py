"""Persons of a frame: where they are, the joints of one, and which pixels are the person's.

The joints are BlazePose's 33 (Bazarevsky et al. 2020, arXiv 2006.10204). A body is looked at in a square that is turned
so that it stands upright, whose size comes from two key points: of the detector, or of the joints of the frame before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noria.tryon.estimators.crops import Crop, upright_angle, whole
from noria.tryon.estimators.detection import POSES, detections
from noria.tryon.estimators.models import LiteModel, open_lite

BODY_JOINTS = 33
AUXILIARY = (33, 34)
"""Points after the joints: the middle of the hips, and a point of the circle around the body."""
MARGIN = 1.25
"""Side of the square around a body over the diameter of the circle around it."""
LEAST_PRESENCE = 0.5


@dataclass(frozen=True)
class Body:
    """A person in one frame.

    Attributes:
        joints: x, y in pixels of the frame, and whether each is in sight, 0-1 `[33, 3]`.
        mask: share of each pixel that is the person's, 0-1 `[height, width]`.
        crop: where to look for the person in the next frame.
        score: whether there is a person in the crop, 0-1.
    """

    joints: NDArray[np.float64]
    mask: NDArray[np.float32]
    crop: Crop
    score: float


def body_crop(middle: NDArray[np.floating], rim: NDArray[np.floating]) -> Crop:
    """The upright square around a body from the middle of its hips and a point above it on its circle, in pixels."""
    side = 2 * float(np.linalg.norm(np.asarray(rim) - middle)) * MARGIN
    return Crop((float(middle[0]), float(middle[1])), side, upright_angle(middle, rim))


class PersonEstimator:
    """BlazePose's two networks: one finds persons in a frame, one reads the joints and the mask of a person."""

    def __init__(self, detector: LiteModel | None = None, reader: LiteModel | None = None) -> None:
        self._detector = detector or open_lite("poses")
        self._reader = reader or open_lite("pose")

    def detect(self, frame: NDArray[np.uint8]) -> list[Crop]:
        """Where persons may be in a frame `[height, width, 3]`, the surest first."""
        square = whole((frame.shape[0], frame.shape[1]))
        raw, logits = self._detector(2 * square.cut(frame, self._detector.side) - 1)
        every = [square.to_frame(one.points) for one in detections(raw, logits[:, 0], POSES)]
        return [body_crop(points[0], points[1]) for points in every]

    def read(self, frame: NDArray[np.uint8], crop: Crop) -> Body | None:
        """The person in a crop of a frame; None where there is none."""
        side = self._reader.side
        values, presence, logits, _, _ = self._reader(crop.cut(frame, side))
        if not presence[0] >= LEAST_PRESENCE:
            return None
        points = values.reshape(-1, 5).astype(np.float64)
        places = crop.to_frame(points[:, :2] / side)
        seen = 1 / (1 + np.exp(-np.clip(points[:BODY_JOINTS, 3], -50, 50)))
        mask = crop.paste(1 / (1 + np.exp(-np.clip(logits[..., 0], -50, 50))), frame.shape[:2])
        joints = np.concatenate([places[:BODY_JOINTS], seen[:, None]], axis=1)
        return Body(joints, mask, body_crop(*places[list(AUXILIARY)]), float(presence[0]))

    def everyone(self, frame: NDArray[np.uint8]) -> list[Body]:
        """Persons of a frame, from left to right."""
        bodies = [self.read(frame, crop) for crop in self.detect(frame)]
        return sorted((body for body in bodies if body is not None), key=lambda body: body.crop.centre[0])
