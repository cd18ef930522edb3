"""Position-based cloth (Mueller et al. 2007), many pieces at once: a jacket's front with a zipper over a torso.

Units: the picture is 2 wide and 2 high, x to the right, y down, z towards the camera; time is in frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 12, 12
SEAM = COLUMNS // 2
"""The zipper is between columns `SEAM - 1` and `SEAM`."""
WIDTH, TOP, BOTTOM = 0.9, -0.65, 0.55
GRAVITY = 0.9
SUBSTEPS, ITERATIONS = 10, 8
DAMPING = 0.85
GAP = 0.03
"""Least distance of cloth from the torso."""

Points = NDArray[np.float32]


def rest_shape() -> Points:
    """Particles of the garment at rest `[rows, columns, 3]`."""
    x = np.linspace(-WIDTH / 2, WIDTH / 2, COLUMNS)
    y = np.linspace(TOP, BOTTOM, ROWS)
    grid = np.stack(np.broadcast_arrays(x[None], y[:, None], torso(x)[None] + GAP), axis=-1)
    return grid.astype(np.float32)


def torso(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Depth of the torso's surface, an elliptic cylinder: 0 at the middle, behind that at the sides."""
    depth: NDArray[np.float64] = 0.3 * np.sqrt(np.clip(1 - (x / 0.62) ** 2, 0, None)) - 0.3
    return depth


@dataclass
class Cloth:
    """Pieces of cloth `[pieces, rows, columns, 3]`, all of the same rest shape.

    Attributes:
        points, before: places now and one substep ago.
        open_to: rows of the zipper that are open, from the top, for each piece.
        held: where a hand holds a particle `[pieces, rows, columns]`.
    """

    points: Points
    before: Points
    open_to: NDArray[np.int64]
    held: NDArray[np.bool_]

    @classmethod
    def at_rest(cls, pieces: int) -> Cloth:
        """Closed garments that hang still and that nobody holds."""
        points = np.repeat(rest_shape()[None], pieces, axis=0)
        held = np.zeros(points.shape[:3], np.bool_)
        return cls(points, points.copy(), np.zeros(pieces, np.int64), held)

    def step(self, hand_moves: Points) -> None:
        """One substep: inertia and gravity, what is held moves by `hand_moves [pieces, 3]`, then all constraints."""
        speed = DAMPING * (self.points - self.before)
        self.before = self.points.copy()
        self.points = self.points + speed
        self.points[..., 1] += GRAVITY / SUBSTEPS**2
        self.points = np.where(self.held[..., None], self.before + hand_moves[:, None, None], self.points)
        free = ~self.held
        free[:, 0, : SEAM - 2] = free[:, 0, SEAM + 2 :] = False  # the shoulders carry it
        self.points[:, 0, : SEAM - 2], self.points[:, 0, SEAM + 2 :] = (
            rest_shape()[0, : SEAM - 2],
            rest_shape()[0, SEAM + 2 :],
        )
        weight = free.astype(np.float32)
        for _ in range(ITERATIONS):
            for rows, columns, length in _PAIRS:
                self._project(rows, columns, length, weight)
            floor = torso(self.points[..., 0]) + GAP
            self.points[..., 2] = np.where(free, np.maximum(self.points[..., 2], floor), self.points[..., 2])

    def _project(
        self, one: tuple[slice, slice], other: tuple[slice, slice], length: Points, weight: Points
    ) -> None:
        """Move both ends of disjoint pairs to their rest length; an open zipper has no pairs across it."""
        a, b = self.points[:, one[0], one[1]], self.points[:, other[0], other[1]]
        wa, wb = weight[:, one[0], one[1]], weight[:, other[0], other[1]]
        difference = b - a
        distance = np.sqrt((difference**2).sum(-1)) + 1e-9
        total = wa + wb
        pull = np.where(total > 0, (distance - length) / np.maximum(total, 1e-9) / distance, 0)
        pull = pull * self._joined(one, other)
        a += (wa * pull)[..., None] * difference
        b -= (wb * pull)[..., None] * difference

    def _joined(self, one: tuple[slice, slice], other: tuple[slice, slice]) -> NDArray[np.bool_]:
        rows = np.arange(ROWS)[one[0]]
        left, right = np.arange(COLUMNS)[one[1]], np.arange(COLUMNS)[other[1]]
        crosses = (np.minimum(left, right) < SEAM) & (np.maximum(left, right) >= SEAM)
        return ~(crosses[None, None] & (rows[None, :, None] < self.open_to[:, None, None]))


def _pairs() -> list[tuple[tuple[slice, slice], tuple[slice, slice], Points]]:
    """Colour classes of structural and shear constraints: within a class, no particle is in two pairs."""
    rest, classes = rest_shape(), []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for offset in (0, 1):
            if down:
                first = slice(offset, ROWS - 1, 2)
                second = slice(offset + 1, ROWS, 2)
            else:
                first = second = slice(0, ROWS)
            if right == 0:
                left = there = slice(0, COLUMNS)
            elif down:
                left = slice(0, COLUMNS - 1) if right == 1 else slice(1, COLUMNS)
                there = slice(1, COLUMNS) if right == 1 else slice(0, COLUMNS - 1)
            else:
                left, there = slice(offset, COLUMNS - 1, 2), slice(offset + 1, COLUMNS, 2)
            n = len(range(*first.indices(ROWS))), len(range(*second.indices(ROWS)))
            first = slice(first.start, first.start + 2 * (min(n) - 1) + 1, first.step) if down else first
            length = np.sqrt(((rest[first, left] - rest[second, there]) ** 2).sum(-1))
            classes.append(((first, left), (second, there), length.astype(np.float32)))
    return classes


_PAIRS = _pairs()
