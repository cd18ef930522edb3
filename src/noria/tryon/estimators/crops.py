"""Turned square crops of a frame, and the way back: what a network says of its crop is put into the frame's pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Crop:
    """A square part of a frame, in pixels of the frame, whose upper left corner's middle is (.5, .5).

    Attributes:
        centre: x and y of the middle.
        side: length of a side.
        angle: turn clockwise on the screen, in radians.
    """

    centre: tuple[float, float]
    side: float
    angle: float = 0.0

    @property
    def axes(self) -> NDArray[np.float64]:
        """Unit vectors of the crop's right and down in the frame `[2, 2]`, one a row."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, sin], [-sin, cos]])

    @property
    def box(self) -> NDArray[np.float64]:
        """Left, top, right and bottom of the square as if it were not turned `[4]`."""
        half = self.side / 2
        x, y = self.centre
        return np.array([x - half, y - half, x + half, y + half])

    def to_frame(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Pixels of the frame of points in shares of the crop `[..., 2]`."""
        turned = (np.asarray(points, np.float64) - 0.5) @ self.axes
        return np.asarray(np.array(self.centre, np.float64) + self.side * turned, np.float64)

    def from_frame(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Shares of the crop of points in pixels of the frame `[..., 2]`; the inverse of `to_frame`."""
        turned = (np.asarray(points, np.float64) - self.centre) @ self.axes.T
        return np.asarray(turned / self.side + 0.5, np.float64)

    def moved(self, right: float, down: float, scale: float) -> Crop:
        """The crop moved along its own axes by shares of its side, and then scaled around its middle."""
        step = self.side * np.array([right, down]) @ self.axes
        centre = (self.centre[0] + float(step[0]), self.centre[1] + float(step[1]))
        return Crop(centre, self.side * scale, self.angle)

    def cut(self, frame: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
        """Pixels of the crop in 0-1 `[size, size, 3]`, black beyond the frame."""
        image = Image.fromarray(frame)
        shrink = max(1, int(self.side / size))  # averages pixels first, so that a large crop is not aliased
        if shrink > 1:
            image = image.reduce(shrink)
        matrix = self._matrix(size, shrink)
        cut = image.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return np.asarray(np.asarray(cut, np.float32) / 255, np.float32)

    def paste(self, values: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
        """Values of the crop `[side, side]` on a frame of a height and width, 0 beyond the crop."""
        side = len(values)
        zero, right, down = self.from_frame(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])) * side
        across, below = right - zero, down - zero
        matrix = (across[0], below[0], zero[0], across[1], below[1], zero[1])
        image = Image.fromarray(np.asarray(values, np.float32))
        on = image.transform((size[1], size[0]), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return np.asarray(on, np.float32)

    def _matrix(self, size: int, shrink: int) -> tuple[float, ...]:
        """The affine map from pixels of the crop to those of a frame that was reduced by `shrink`."""
        zero, right, down = self.to_frame(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])) / shrink
        across, below = (right - zero) / size, (down - zero) / size
        return (across[0], below[0], zero[0], across[1], below[1], zero[1])


def whole(size: tuple[int, int]) -> Crop:
    """The least square around a frame of a height and width."""
    return Crop((size[1] / 2, size[0] / 2), float(max(size)))


def upright_angle(low: NDArray[np.floating], high: NDArray[np.floating]) -> float:
    """Angle of the crop in which the way from `low [2]` to `high [2]` points straight up."""
    across, down = float(high[0] - low[0]), float(high[1] - low[1])
    return math.atan2(across, -down)


def around(points: NDArray[np.floating], angle: float) -> Crop:
    """The least turned square around points in pixels `[points, 2]`."""
    turned = Crop((0.0, 0.0), 1.0, angle)
    shares = turned.from_frame(points)
    low, high = shares.min(0), shares.max(0)
    x, y = turned.to_frame((low + high) / 2)
    return Crop((float(x), float(y)), float((high - low).max()), angle)
