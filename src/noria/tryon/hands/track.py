"""Hands of a clip: 21 joints each in the camera's space, read from `.npz` files that any estimator can write."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError
from noria.core.files import decoding, read_bytes

JOINTS = 21
"""Joints of a hand in OpenPose's order: the wrist, then four of each finger from the thumb on, the tip last."""
BONES = tuple((0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, JOINTS))
"""The 20 bones, as pairs of joints."""
LARGEST = 256 * 2**20
NEAREST, FARTHEST = 0.05, 20.0
"""Metres from the camera within which a hand is believed."""


@dataclass(frozen=True)
class HandTrack:
    """Both hands of a person in each frame; left is 0 and right is 1.

    Attributes:
        joints: places in metres, x right, y down, z away from the camera `[frames, 2, 21, 3]`; 0 where invalid.
        valid: whether the hand was seen `[frames, 2]`.
        camera: intrinsics in pixels of the clip `[3, 3]`.
        dropped: number of hands that a file called valid and that are none: not finite, or not before the camera.
    """

    joints: NDArray[np.float32]
    valid: NDArray[np.bool_]
    camera: NDArray[np.float64]
    dropped: int = 0

    def projected(self) -> NDArray[np.float64]:
        """Places in pixels `[frames, 2, 21, 2]`; NaN where invalid."""
        points = self.joints.astype(np.float64) @ self.camera.T
        with np.errstate(invalid="ignore", divide="ignore"):
            pixels = points[..., :2] / points[..., 2:]
        pixels[~self.valid] = np.nan
        return pixels


def no_hands(frames: int, size: tuple[int, int]) -> HandTrack:
    """A track without a hand, for a clip of a height and width."""
    empty = np.zeros((frames, 2, JOINTS, 3), np.float32)
    return HandTrack(empty, np.zeros((frames, 2), np.bool_), usual_camera(size))


def usual_camera(size: tuple[int, int]) -> NDArray[np.float64]:
    """Intrinsics where a file has none: HaMeR's focal length, 5000/256 times the longer side, the middle as centre."""
    focal = 5000 / 256 * max(size)
    return np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])


def read_hands(path: Path, frames: int, size: tuple[int, int]) -> HandTrack:
    """Read `joints [frames, 2, 21, 3]`, and optionally `valid [frames, 2]` and `K [3, 3]`, from an `.npz` file.

    Values that are not finite, or lie behind the camera, count as no hand and are counted.

    Args:
        path: the file.
        frames: number of frames of the clip.
        size: height and width of the clip.

    Raises:
        DataError: the file is none, holds Python objects, or belongs to a clip of another length.
    """
    arrays = _arrays(path)
    joints = arrays.get("joints")
    if joints is None or joints.ndim != 4 or joints.shape[1:] != (2, JOINTS, 3):
        had = "no joints" if joints is None else f"joints of shape {list(joints.shape)}"
        raise DataError(f"{had}", where=str(path), mend="give joints [frames, 2, 21, 3] in metres")
    if len(joints) != frames:
        raise DataError(
            f"hands of {len(joints)} frames, and the clip has {frames}",
            where=str(path),
            mend="estimate the hands on this very clip",
        )
    valid = arrays.get("valid", np.ones((frames, 2), np.bool_))
    if valid.shape != (frames, 2):
        raise DataError(f"valid has the shape {list(valid.shape)}, not {[frames, 2]}", where=str(path))
    camera = arrays.get("K", usual_camera(size)).astype(np.float64)
    if camera.shape != (3, 3) or not np.isfinite(camera).all() or camera[0, 0] <= 0 or camera[1, 1] <= 0:
        raise DataError("K is not a camera matrix in pixels", where=str(path))
    return checked_track(joints, valid, camera)


def checked_track(joints: NDArray[Any], valid: NDArray[Any], camera: NDArray[np.float64]) -> HandTrack:
    """A track in which no valid hand has a value that cannot be."""
    depth = joints[..., 2]
    with np.errstate(invalid="ignore"):
        possible = np.isfinite(joints).all((2, 3)) & (depth > NEAREST).all(2) & (depth < FARTHEST).all(2)
    claimed = valid.astype(np.bool_)
    kept = claimed & possible
    clean = np.where(kept[..., None, None], joints, 0).astype(np.float32)
    return HandTrack(clean, kept, camera, int((claimed & ~possible).sum()))


def write_hands(track: HandTrack) -> bytes:
    """Content of an `.npz` file that `read_hands` reads."""
    file = io.BytesIO()
    np.savez_compressed(file, joints=track.joints, valid=track.valid, K=track.camera)
    return file.getvalue()


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Numeric arrays of an `.npz` file, no larger unpacked than `LARGEST`; pickled objects are refused."""
    raw = read_bytes(path, limit=LARGEST)
    with decoding(path, "an .npz file of arrays", mend="write it with numpy.savez"):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise ValueError(f"more than {LARGEST:,} bytes unpacked")
        with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name in ("joints", "valid", "K")}
        if any(array.dtype.kind not in "fiub" for array in arrays.values()):
            raise ValueError("an array is not of numbers")
    return arrays
