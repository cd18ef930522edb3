"""Single-shot detection: anchors, boxes and key points from a network's raw outputs, and one detection for each thing.

These are the rules of MediaPipe's detectors of palms and poses (Bazarevsky et al. 2019, BlazeFace, arXiv 1907.05047):
anchors of one fixed size, so that a box is an offset from the middle of its cell; overlapping boxes are averaged by
their scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERLAP = 0.3
"""Intersection over union from which two boxes are of one thing."""
LARGEST_LOGIT = 100.0


@dataclass(frozen=True)
class Detector:
    """What a detector's raw outputs mean.

    Attributes:
        side: pixels of its input, each way.
        strides: pixels of a cell of each layer; each layer has two anchors a cell.
        points: number of key points of a detection.
        least: least score of a detection, 0-1.
    """

    side: int
    strides: tuple[int, ...]
    points: int
    least: float = 0.5


PALMS = Detector(side=192, strides=(8, 16, 16, 16), points=7)
"""Palms; point 0 is the wrist, point 2 the first joint of the middle finger."""
POSES = Detector(side=224, strides=(8, 16, 32, 32, 32), points=4)
"""Persons; point 0 is the middle of the hips, point 1 is on the circle around the whole body."""


@dataclass(frozen=True)
class Detection:
    """One thing that was detected, in shares of the network's input.

    Attributes:
        box: left, top, right, bottom `[4]`.
        points: key points, x and y `[points, 2]`.
        score: 0-1.
    """

    box: NDArray[np.float64]
    points: NDArray[np.float64]
    score: float


def anchors(detector: Detector) -> NDArray[np.float64]:
    """Middles of the anchors, x and y in shares of the input `[anchors, 2]`, layer by layer and row by row."""
    middles = []
    for stride in sorted(set(detector.strides)):
        cells = -(-detector.side // stride)
        line = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
        middles.append(np.repeat(grid, 2 * detector.strides.count(stride), axis=0))
    return np.concatenate(middles)


def detections(
    raw: NDArray[np.floating], logits: NDArray[np.floating], detector: Detector
) -> list[Detection]:
    """Detections of one frame, the surest first.

    Args:
        raw: for each anchor middle, width, height and key points, as pixels of the input from the anchor's middle
            `[anchors, 4 + 2 points]`.
        logits: logit of the score of each anchor `[anchors]`.
        detector: what the numbers mean.

    Raises:
        ValueError: the shapes are not those of the detector.
    """
    middles = anchors(detector)
    if raw.shape != (len(middles), 4 + 2 * detector.points) or logits.shape != (len(middles),):
        raise ValueError(f"outputs {list(raw.shape)} and {list(logits.shape)} for {len(middles)} anchors")
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -LARGEST_LOGIT, LARGEST_LOGIT)))
    rows = np.flatnonzero(scores >= detector.least)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    values = raw[rows].astype(np.float64) / detector.side
    centre, size = middles[rows] + values[:, :2], values[:, 2:4]
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    points = middles[rows, None] + values[:, 4:].reshape(len(rows), detector.points, 2)
    return _averaged(boxes, points, scores[rows])


def _averaged(
    boxes: NDArray[np.float64], points: NDArray[np.float64], scores: NDArray[np.float64]
) -> list[Detection]:
    """Non-maximum suppression that averages what it suppresses, weighted by score."""
    kept: list[Detection] = []
    rest = np.arange(len(boxes))
    while len(rest):
        same = overlap(boxes[rest[0]], boxes[rest]) > OVERLAP
        same[0] = True  # a box of no area does not overlap itself
        group, rest = rest[same], rest[~same]
        weights = scores[group] / scores[group].sum()
        box = (weights[:, None] * boxes[group]).sum(0)
        mean = (weights[:, None, None] * points[group]).sum(0)
        kept.append(Detection(box, mean, float(scores[group[0]])))
    return kept


def overlap(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of a box `[4]` with boxes `[boxes, 4]`; 0 where both are empty."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
    union = float(np.clip(box[2:] - box[:2], 0, None).prod()) + areas - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), np.float64)
