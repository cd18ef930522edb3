"""Pictures as they come from users and editors: opened within bounds, brought to RGB, put back onto their source."""

from __future__ import annotations

import hashlib
import io
import warnings
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
from noria.core.files import read_bytes
from noria.editing.data.tasks import MOST_BYTES

MOST_PIXELS = 50_000_000
"""Most pixels of a picture: its header says how many, so that none is decoded beyond."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def open_picture(source: Path | bytes, *, where: str = "image") -> Picture:
    """Open a picture as RGB, upright by its EXIF orientation; transparency is laid on white.

    Args:
        source: path of a file, or its bytes.
        where: name of the picture in errors; a path names itself.

    Raises:
        DataError: it is no picture of a known format, damaged, cut off, animated, or has more than `MOST_PIXELS`.
    """
    image, name = _decoded(source, where)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        ground = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(ground, clear).convert("RGB")
    if image.mode in ("I;16", "I;16L", "I;16B", "I", "F"):
        return _narrowed(image, name)
    return image.convert("RGB")


def open_mask(source: Path | bytes, size: tuple[int, int], *, where: str = "mask") -> Picture:
    """Open a mask as L, 255 where the picture may change: its transparent places, or its white ones without alpha.

    Args:
        source: path of a file, or its bytes.
        size: size that it must have, that of the picture.
        where: name of the mask in errors; a path names itself.

    Raises:
        DataError: `open_picture` would refuse it, or it has another size.
    """
    image, name = _decoded(source, where)
    if image.size != size:
        raise DataError(
            f"the mask has {image.size[0]}×{image.size[1]} pixels, the picture {size[0]}×{size[1]}",
            where=name,
            mend="make both the same size",
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return ImageOps.invert(image.convert("RGBA").getchannel("A"))
    return image.convert("L")


def _decoded(source: Path | bytes, where: str) -> tuple[Picture, str]:
    """The picture upright, in the mode of its file, and its name."""
    name = where if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else read_bytes(source, limit=MOST_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # the bound below is the one that holds
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise DataError(
                f"{width}×{height} pixels are more than {MOST_PIXELS:,}",
                where=name,
                mend="scale it down first",
            )
        if getattr(image, "n_frames", 1) > 1:
            raise DataError("an animated picture", where=name, mend="give one frame of it")
        image.load()
        return ImageOps.exif_transpose(image), name
    except DataError:
        raise
    except Image.DecompressionBombError:
        what = f"its pixels are more than {MOST_PIXELS:,}"
        raise DataError(what, where=name, mend="scale it down first") from None
    except Exception as error:  # decoders raise whatever they like
        raise DataError(f"no picture that can be read ({type(error).__name__})", where=name) from error


def _narrowed(image: Picture, name: str) -> Picture:
    """A picture of one channel of 16 bits or more, as RGB."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all() or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise DataError("its values are out of range", where=name, mend="save it with 8 bits a channel")
    if image.mode.startswith("I;16") or values.max(initial=0) > 255:
        values = values / 257
    return Image.fromarray(np.round(values).astype(np.uint8), "L").convert("RGB")


def png(image: Picture) -> bytes:
    """A picture as a PNG file, lossless, without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


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
