"""Pictures and masks of a body: its skeleton in OpenPose's colours, and the region that a garment may cover."""

from __future__ import annotations

import colorsys
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Garment = Literal["upper", "lower", "whole"]

NOSE, EARS, MOUTH = 0, (7, 8), (9, 10)
SHOULDERS, ELBOWS, WRISTS = (11, 12), (13, 14), (15, 16)
HIPS, KNEES, ANKLES = (23, 24), (25, 26), (27, 28)
SEEN = 0.3
"""Least visibility of a joint that is drawn."""
SLACK = 0.25
"""Widths of the shoulders by which a garment's region goes beyond the joints."""

# OpenPose's 17 limbs between its 18 joints (Cao et al. 2017), which pose-guided video models were trained on.
OPENPOSE = (0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
"""BlazePose's joint for each of OpenPose's 18; -1 is the neck, the middle of the shoulders."""
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip


def openpose_joints(joints: NDArray[np.floating]) -> NDArray[np.float64]:
    """OpenPose's 18 joints, x, y and visibility `[18, 3]`, of BlazePose's `[33, 3]`."""
    left, right = joints[list(SHOULDERS)]
    neck = np.array([*(left[:2] + right[:2]) / 2, min(left[2], right[2])])
    return np.stack([neck if place < 0 else joints[place] for place in OPENPOSE]).astype(np.float64)


def skeleton(joints: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A body's skeleton on black `[height, width, 3]`; joints out of sight are left out.

    Args:
        joints: x, y in pixels and visibility `[33, 3]`.
        size: height and width of the picture.
    """
    places = openpose_joints(joints)
    picture = Image.new("RGB", (size[1], size[0]))
    pen = ImageDraw.Draw(picture)
    width = max(2, round(min(size) / 90))
    seen = places[:, 2] >= SEEN
    for number, (a, b) in enumerate(LIMBS):
        if seen[a] and seen[b]:
            pen.line([*places[a, :2], *places[b, :2]], fill=_colour(number, 0.6), width=width)
    for number in np.flatnonzero(seen).tolist():
        x, y = places[number, :2]
        pen.ellipse([x - width, y - width, x + width, y + width], fill=_colour(number, 1.0))
    return np.asarray(picture)


def _colour(number: int, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number / 18, 1.0, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def garment_region(
    joints: NDArray[np.floating], person: NDArray[np.bool_], garment: Garment
) -> NDArray[np.bool_]:
    """Pixels of a person that a garment may cover `[height, width]`, to start a mask from.

    An upper garment covers the trunk and the arms down to the wrists, a lower one the hips and legs. It is a hull of
    the body, not of what is worn: sleeves and hems may end anywhere in it. The head is left out.

    Args:
        joints: x, y in pixels and visibility `[33, 3]`; joints out of sight are used where the network puts them.
        person: pixels of the person `[height, width]`.
        garment: which part of the body it covers.
    """
    height, width = person.shape
    picture = Image.new("L", (width, height))
    pen = ImageDraw.Draw(picture)
    at = joints[:, :2]
    slack = SLACK * max(float(np.linalg.norm(at[SHOULDERS[0]] - at[SHOULDERS[1]])), 1.0)
    if garment in ("upper", "whole"):
        trunk = [SHOULDERS[0], SHOULDERS[1], HIPS[1], HIPS[0]]
        _hull(pen, at[trunk], slack)
        for side in (0, 1):
            _hull(pen, at[[SHOULDERS[side], ELBOWS[side], WRISTS[side]]], slack, closed=False)
    if garment in ("lower", "whole"):
        _hull(pen, at[list(HIPS)], slack)
        for side in (0, 1):
            _hull(pen, at[[HIPS[side], KNEES[side], ANKLES[side]]], slack, closed=False)
    region = np.asarray(picture) > 0
    return region & person & ~head_region(joints, person.shape)


def _hull(pen: ImageDraw.ImageDraw, points: NDArray[np.floating], slack: float, closed: bool = True) -> None:
    """Draw a polygon, or a line, and all that is within `slack` pixels of it."""
    corners = [(float(x), float(y)) for x, y in points]
    if closed and len(corners) > 2:
        pen.polygon(corners, fill=255)
    line = [*corners, corners[0]] if closed else corners
    pen.line(line, fill=255, width=max(1, round(2 * slack)))
    for x, y in corners:
        pen.ellipse([x - slack, y - slack, x + slack, y + slack], fill=255)


def head_region(joints: NDArray[np.floating], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The head with its surroundings `[height, width]`: what is on the head's side of a line below the mouth.

    The line crosses the way from the middle of the shoulders to the mouth in its middle. A raised arm beside the head
    stays out.

    Args:
        joints: x, y in pixels and visibility `[33, 3]`.
        size: height and width of the frame.
    """
    at = joints[:, :2]
    neck, mouth = at[list(SHOULDERS)].mean(0), at[list(MOUTH)].mean(0)
    up = mouth - neck
    limit = neck + 0.5 * up
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    above = (columns - limit[0]) * up[0] + (rows - limit[1]) * up[1] > 0
    ears = float(np.linalg.norm(at[EARS[0]] - at[EARS[1]]))
    length = max(float(np.linalg.norm(up)), 1e-6)
    aside = np.abs((columns - mouth[0]) * up[1] - (rows - mouth[1]) * up[0]) / length
    return np.asarray(above & (aside < max(1.3 * ears, length)))
