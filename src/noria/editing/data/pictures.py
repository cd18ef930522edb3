"""Pictures as they come from users and editors: opened within bounds, brought to RGB, put back onto their source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Image as Picture

from noria.core.chat import Image as ImagePart
from noria.core.errors import DataError
from noria.core.picture_files import decoded, open_picture, png


def open_mask(source: Path | bytes, size: tuple[int, int], *, where: str = "mask") -> Picture:
    """Open a mask as L, 255 where the picture may change: its transparent places, or its white ones without alpha.

    Args:
        source: path of a file, or its bytes.
        size: size that it must have, that of the picture.
        where: name of the mask in errors; a path names itself.

    Raises:
        DataError: `open_picture` would refuse it, or it has another size.
    """
    image, name = decoded(source, where)
    if image.size != size:
        raise DataError(
            f"the mask has {image.size[0]}×{image.size[1]} pixels, the picture {size[0]}×{size[1]}",
            where=name,
            mend="make both the same size",
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return ImageOps.invert(image.convert("RGBA").getchannel("A"))
    return image.convert("L")


def digest(image: Picture) -> str:
    """SHA-256 of a picture's mode, size and pixels."""
    head = f"{image.mode} {image.size[0]} {image.size[1]} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


@dataclass(frozen=True)
class Scene:
    """Pictures of one request, with what is computed from them once for all rollouts.

    Attributes:
        images: pictures, RGB; the first is the one that is edited.
        mask: L picture of the first one's size, 255 where it may change; None for all of it.
    """

    images: tuple[Picture, ...]
    mask: Picture | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError("a request has at least one picture", where="images")
        if self.mask is not None and self.mask.size != self.images[0].size:
            raise DataError("mask and picture differ in size", where="mask", mend="make both the same size")

    @property
    def source(self) -> Picture:
        """The picture that is edited."""
        return self.images[0]

    @cached_property
    def digests(self) -> list[str]:
        """Digests of the pictures, then of the mask if there is one."""
        return [digest(image) for image in (*self.images, *([self.mask] if self.mask else []))]

    @cached_property
    def parts(self) -> tuple[ImagePart, ...]:
        """The pictures as parts of a message, encoded once."""
        return tuple(ImagePart(png(image)) for image in self.images)


def open_scene(paths: Sequence[Path], mask: Path | None = None) -> Scene:
    """Open the pictures of a request.

    Raises:
        DataError: a picture cannot be used, or the mask has another size than the first.
    """
    images = tuple(open_picture(path) for path in paths)
    if not images:
        raise DataError("a request has at least one picture", where="images")
    return Scene(images, None if mask is None else open_mask(mask, images[0].size))


def kept_outside(source: Picture, edited: Picture, mask: Picture) -> Picture:
    """The edited picture inside of the mask, the source outside of it: where the mask is 0, no bit differs."""
    return Image.composite(edited, source, mask)


def changed_share(one: Picture, other: Picture, *, tolerance: int = 8) -> float:
    """Share of pixels in which two pictures of one size differ by more than `tolerance` of 255 in a channel."""
    gap: Any = np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16))
    return float((gap.max(axis=2) > tolerance).mean())
