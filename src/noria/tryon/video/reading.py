"""Masks, pictures and poses of a clip from files: videos, pictures, `.npz` arrays."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noria.core.errors import DataError
from noria.core.files import decoding, read_bytes
from noria.core.video import LIMITS
from noria.tryon.video.clips import Clip, read_clip
from noria.tryon.video.masks import binary

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LARGEST_ARRAYS = 2**31
"""Most bytes of unpacked arrays."""


def read_source(path: Path) -> Clip:
    """A clip from a video file, or of one frame from a picture.

    Raises:
        DataError: the file cannot be read or passes a limit.
        MissingExtra: there is no PyAV.
    """
    if path.suffix.lower() in PICTURES:
        return Clip(read_picture(path)[None], np.zeros(1), 1.0, path)
    return read_clip(path)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """RGB pixels `[height, width, 3]` of a picture, upright; what is transparent becomes white.

    Raises:
        DataError: the file is no picture, or has more pixels than a frame may have.
    """
    from PIL import Image, ImageOps

    raw = read_bytes(path, limit=LIMITS.file_bytes)
    with decoding(path, "a picture"):
        picture = Image.open(io.BytesIO(raw))
        if picture.width * picture.height > LIMITS.pixels:
            raise DataError(f"{picture.width}×{picture.height} pixels", where=str(path), mend="scale it down")
        upright = ImageOps.exif_transpose(picture).convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))


def read_garment(path: Path) -> NDArray[np.uint8]:
    """A picture of a garment.

    Raises:
        DataError: it is no picture, or shows nothing: one colour all over.
    """
    picture = read_picture(path)
    if int(picture.max(axis=(0, 1)).astype(int).sum() - picture.min(axis=(0, 1)).astype(int).sum()) == 0:
        raise DataError(
            "the picture has one colour all over", where=str(path), mend="give a picture of a garment"
        )
    return picture


def read_mask(path: Path, clip: Clip) -> Tensor:
    """The garment's mask of a clip as booleans `[frames, height, width]`.

    A video has a frame for each of the clip's, a picture stands for all frames, an `.npz` file holds `mask`.

    Raises:
        DataError: the file cannot be read, or is of another number of frames or size.
    """
    kind = path.suffix.lower()
    if kind == ".npz":
        pixels = _array(path, "mask")
        if pixels.ndim not in (3, 4):
            raise DataError(f"mask has {pixels.ndim} axes, not frames, height and width", where=str(path))
    elif kind in PICTURES:
        picture = read_picture(path)
        pixels = np.broadcast_to(picture, (len(clip.frames), *picture.shape))
    else:
        pixels = read_clip(path).frames
    _check_shape(path, pixels, clip)
    return binary(torch.tensor(np.ascontiguousarray(pixels)))


def read_pose(path: Path, clip: Clip) -> NDArray[np.uint8]:
    """A drawn pose, skeleton or DensePose, as a video of the clip's frames and size.

    Raises:
        DataError: the file cannot be read, or is of another number of frames or size.
    """
    pixels = read_clip(path).frames
    _check_shape(path, pixels, clip)
    return pixels


def _check_shape(path: Path, pixels: NDArray[Any], clip: Clip) -> None:
    had, wanted = pixels.shape[:3], clip.frames.shape[:3]
    if had != wanted:
        what = "frames" if had[0] != wanted[0] else "size"
        raise DataError(
            f"{had[0]} frames of {had[2]}×{had[1]}, and the clip has {wanted[0]} of {wanted[2]}×{wanted[1]}",
            where=str(path),
            mend=f"make it of this very clip: the {what} must be the same",
        )


def _array(path: Path, name: str) -> NDArray[Any]:
    """One array of numbers of an `.npz` file; pickled objects are refused."""
    raw = read_bytes(path)
    with decoding(path, "an .npz file of arrays", mend="write it with numpy.savez"):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_ARRAYS:
                raise ValueError(f"more than {LARGEST_ARRAYS:,} bytes unpacked")
        with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
            if name not in stored.files:
                raise ValueError(f"no array {name!r} in it")
            array: NDArray[Any] = stored[name]
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} is not of numbers")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    return array
