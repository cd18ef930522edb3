"""Hands drawn as a video of depth and normals: a capsule around each bone, which holds nothing of the garment.

Channel 1 is the inverse depth between two planes that are the same for the whole clip, so that moving away from the
camera shows; channels 2 and 3 are x and y of the normal. All are in -1 .. 1, and -1 where there is no hand. The shape
of these maps is reconstructed; the paper draws HaMeR's meshes, whose hand model may not be passed on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from noria.tryon.hands.track import BONES, HandTrack

RADIUS = 0.009
"""Metres from a bone to the skin."""
PALM = ((0, 5), (5, 9), (9, 13), (13, 17), (17, 0))
"""Edges of the palm, drawn as bones are."""


def depth_planes(track: HandTrack, reach: float = 0.8) -> tuple[float, float]:
    """Nearest and farthest plane of a clip: the median depth of its wrists, plus and minus a reach in metres."""
    depths = track.joints[..., 0, 2][track.valid]
    middle = float(np.median(depths)) if len(depths) else 1.0
    return max(0.05, middle - reach), middle + reach


def render(
    track: HandTrack, size: tuple[int, int], planes: tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Draw a track.

    Args:
        track: the hands.
        size: height and width of the video.
        planes: nearest and farthest plane in metres; `depth_planes` by default.

    Returns:
        The video `[frames, 3, height, width]` in -1 .. 1, and where a hand is `[frames, height, width]`.
    """
    planes = planes or depth_planes(track)
    video = np.full((len(track.joints), 3, *size), -1, np.float32)
    where = np.zeros((len(track.joints), *size), np.bool_)
    for frame in range(len(track.joints)):
        depth = np.full(size, np.inf)
        for side in np.flatnonzero(track.valid[frame]):
            for a, b in (*BONES, *PALM):
                ends = track.joints[frame, side, [a, b]].astype(np.float64)
                _draw(depth, video[frame, 1:], ends, track.camera)
        where[frame] = np.isfinite(depth)
        inverse = (1 / np.clip(depth[where[frame]], *planes) - 1 / planes[1]) / (
            1 / planes[0] - 1 / planes[1]
        )
        video[frame, 0][where[frame]] = 2 * inverse - 1
    return video, where


def _draw(
    depth: NDArray[np.float64],
    normals: NDArray[np.float32],
    ends: NDArray[np.float64],
    camera: NDArray[np.float64],
) -> None:
    """Draw one capsule into a depth buffer, pixel by pixel of the box that it can touch.

    A pixel's ray is met by the ball around the point of the bone that is nearest to it, which is the capsule to first
    order in radius over depth.
    """
    if (ends[:, 2] <= RADIUS).any():
        return
    shown = ends @ camera.T
    pixels = shown[:, :2] / shown[:, 2:]
    margin = camera[0, 0] * RADIUS / ends[:, 2].min() + 1
    low = np.maximum(np.floor(pixels.min(0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(pixels.max(0) + margin) + 1, depth.shape[::-1]).astype(int)
    if (high <= low).any():
        return
    columns, rows = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
    along = pixels[1] - pixels[0]
    length = float(along @ along)
    share = ((columns - pixels[0, 0]) * along[0] + (rows - pixels[0, 1]) * along[1]) / max(length, 1e-9)
    share = np.clip(share, 0, 1)
    inverse = (1 - share) / ends[0, 2] + share / ends[
        1, 2
    ]  # perspective: inverse depth is linear on the screen
    z = 1 / inverse
    across = (columns - pixels[0, 0] - share * along[0]) * z / camera[0, 0]
    down = (rows - pixels[0, 1] - share * along[1]) * z / camera[1, 1]
    bulge = RADIUS**2 - across**2 - down**2
    part = (slice(low[1], high[1]), slice(low[0], high[0]))
    front = z - np.sqrt(np.maximum(bulge, 0))
    nearer = (bulge > 0) & (front < depth[part])
    depth[part][nearer] = front[nearer]
    normals[0][part][nearer] = (across / RADIUS)[nearer]
    normals[1][part][nearer] = (down / RADIUS)[nearer]
