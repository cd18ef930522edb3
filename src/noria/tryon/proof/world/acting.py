"""Actions: the path of a hand, what it grips, and what the cloth does then. Paths and grips are scripted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noria.tryon.hands.synthetic import hand
from noria.tryon.proof.world.cloth import COLUMNS, GAP, ROWS, SEAM, SUBSTEPS, Cloth, Points, rest_shape, torso

IDLE = "idle"
FRAMES = 2
"""Frames of an action."""
REACH = 0.12
"""Farthest that a pinch grips, from the finger tips."""
HOVER = 0.45
"""Distance of a hand that hovers on the same path, from the cloth towards the camera. Each of its joints is on the same
ray as that of a hand that touches, so that the two look the same in two dimensions."""
SCALE = 0.5
"""Metres of one unit of the picture."""
CAMERA_AT = 3.0
"""Distance of the camera from the torso, in units."""


@dataclass(frozen=True)
class Script:
    """One action: places are row and column of the garment, the move is in units of the picture."""

    row: int
    column: int
    move: tuple[float, float, float]
    zips: bool = False
    pinches: bool = True


SCRIPTS = {
    "collar": Script(0, SEAM, (0.1, -0.3, 0.15)),
    "hem": Script(ROWS - 1, SEAM - 1, (0.0, -0.55, 0.25)),
    "unzip": Script(0, SEAM - 1, (0.0, 0.85, 0.05), zips=True),
    "stretch": Script(5, COLUMNS - 1, (0.42, 0.0, 0.05)),
    "roll": Script(7, 0, (-0.12, -0.45, 0.12)),
    "pat": Script(5, 3, (0.0, 0.0, -0.1), pinches=False),
}
"""The six actions; a pat holds nothing."""


@dataclass(frozen=True)
class Motions:
    """Variations of actions, simulated.

    Attributes:
        names: action of each `[motions]`.
        contact: whether the hand grips; otherwise it hovers on the same path `[motions]`.
        points: the cloth `[motions, frames, rows, columns, 3]`.
        joints: the hand in metres, for a camera at the origin `[motions, frames, 21, 3]`.
        touched: distance in units of the finger tips from the nearest particle, at the end of each frame
            `[motions, frames]`.
    """

    names: NDArray[np.str_]
    contact: NDArray[np.bool_]
    points: Points
    joints: NDArray[np.float32]
    touched: NDArray[np.float32]


def simulate(names: list[str], contact: NDArray[np.bool_], generator: np.random.Generator) -> Motions:
    """Simulate an action for each name, from a garment at rest; sizes of moves and grips vary.

    Args:
        names: actions, or `idle`.
        contact: whether the hand is at the cloth; where not, it hovers before it on the same rays, and nothing happens.
        generator: draws the variations.
    """
    number, rest = len(names), rest_shape()
    cloth = Cloth.at_rest(number)
    scripts = [SCRIPTS.get(name, Script(5, 5, (0, 0, 0), pinches=False)) for name in names]
    acts = np.array([name != IDLE for name in names])
    jitter = generator.integers(-1, 2, (number, 2))
    rows = np.clip(
        [s.row for s in scripts] + jitter[:, 0] * (np.array([s.row for s in scripts]) % (ROWS - 1) > 0),
        0,
        ROWS - 1,
    )
    columns = np.clip(
        [s.column for s in scripts] + jitter[:, 1] * np.array([not s.zips for s in scripts]), 0, COLUMNS - 1
    )
    size = generator.uniform(0.85, 1.15, (number, 1))
    total = np.array([s.move for s in scripts]) * size
    tips = rest[rows, columns].astype(np.float64) + np.array([0, 0, 0.02])
    pinches = np.array([s.pinches for s in scripts]) & acts
    reach = np.linalg.norm(cloth.points - tips[:, None, None], axis=-1)
    zips = np.array([s.zips for s in scripts])
    cloth.held = (reach < REACH) & (contact & pinches & ~zips)[:, None, None]
    grips = contact & pinches
    frames, joints, touched = [], [], []
    travelled = np.zeros((number, 3))
    for _ in range(FRAMES):
        for _ in range(SUBSTEPS):
            move = total / (FRAMES * SUBSTEPS)
            travelled += move
            if zips.any():
                slider = travelled[:, 1] / np.maximum(rest[-1, 0, 1] - rest[0, 0, 1], 1e-9) * ROWS
                cloth.open_to = np.where(zips & grips, np.floor(slider).astype(int) + 1, 0)
                _spread(cloth)
            cloth.step((move * grips[:, None]).astype(np.float32))
        frames.append(cloth.points.copy())
        at = tips + travelled * acts[:, None]
        at = np.where(zips[:, None], at * [1, 1, 0] + [0, 0, 1] * (torso(at[:, :1]) + GAP + 0.02), at)
        nearer = np.where(contact, 1.0, 1 - HOVER / (CAMERA_AT - at[:, 2]))
        fingers = (at - [0, 0, CAMERA_AT]) * nearer[:, None] + [0, 0, CAMERA_AT]
        near = np.linalg.norm(cloth.points - fingers[:, None, None], axis=-1).reshape(number, -1).min(1)
        joints.append(_hands(at, pinches, acts) * nearer[:, None, None].astype(np.float32))
        touched.append(near)
    return Motions(
        np.array(names),
        grips,
        np.stack(frames, 1).astype(np.float32),
        np.stack(joints, 1),
        np.stack(touched, 1).astype(np.float32),
    )


def _spread(cloth: Cloth) -> None:
    """Open flaps fall to the sides: a small push away from the seam on the rows that are open."""
    is_open = np.arange(ROWS)[None] < cloth.open_to[:, None]
    push = (0.035 * is_open)[:, :, None] * np.linspace(0.2, 1, SEAM)[None, None]
    cloth.points[:, :, :SEAM, 0] -= push.astype(np.float32)
    cloth.points[:, :, SEAM:, 0] += push[:, :, ::-1].astype(np.float32)


def _hands(
    tips: NDArray[np.float64], pinches: NDArray[np.bool_], acts: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Hands whose thumb and index finger meet at the tips; where nobody acts, far below the picture."""
    joints = np.zeros((len(tips), 21, 3), np.float32)
    for number, (tip, pinch, act) in enumerate(zip(tips, pinches, acts, strict=True)):
        place = to_camera(tip if act else np.array([0.0, 3.0, 0.0]))
        shape = hand(np.zeros(3), pinch=float(pinch), curl=0.25)
        middle = (shape[4] + shape[8]) / 2
        joints[number] = shape - middle + place
    return joints


def to_camera(point: NDArray[np.floating]) -> NDArray[np.float64]:
    """Metres from the camera of a place in units of the picture."""
    return np.array([point[0], point[1], CAMERA_AT - point[2]]) * SCALE


def camera(size: int) -> NDArray[np.float64]:
    """Intrinsics of a square picture that shows 2 x 2 units at the torso."""
    focal = size / 2 * CAMERA_AT
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
