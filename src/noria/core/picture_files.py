"""Pictures as strangers send them: opened within bounds of bytes and pixels, upright, as RGB."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Image as Picture

from noria.core.errors import DataError
from noria.core.files import read_bytes

MOST_PIXELS = 50_000_000
"""Most pixels of a picture: its header says how many, so that none is decoded beyond."""
MOST_BYTES = 64 << 20
"""Most bytes of a picture's file."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened, by Pillow's names; SVG is none, for it can hold scripts."""


def open_picture(
    source: Path | bytes,
    *,
    where: str = "image",
    most_bytes: int = MOST_BYTES,
    formats: Sequence[str] = FORMATS,
    animated: bool = False,
) -> Picture:
    """Open a picture as RGB, upright by its EXIF orientation; transparency is laid on white.

    Args:
        source: path of a file, or its bytes.
        where: name of the picture in errors; a path names itself.
        most_bytes: most bytes of the file.
        formats: formats that are opened, by Pillow's names.
        animated: whether an animated picture is opened, as its first frame.

    Raises:
        DataError: it is no picture of these formats, damaged, cut off, animated, or too large in bytes or pixels.
    """
    image, name = decoded(source, where, most_bytes=most_bytes, formats=formats, animated=animated)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        ground = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(ground, clear).convert("RGB")
    if image.mode in ("I;16", "I;16L", "I;16B", "I", "F"):
        return _narrowed(image, name)
    return image.convert("RGB")


def decoded(
    source: Path | bytes,
    where: str,
    *,
    most_bytes: int = MOST_BYTES,
    formats: Sequence[str] = FORMATS,
    animated: bool = False,
) -> tuple[Picture, str]:
    """The picture upright, in the mode of its file, and its name; the arguments are those of `open_picture`."""
    name = where if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else read_bytes(source, limit=most_bytes)
    if len(content) > most_bytes:
        raise DataError(f"more than {most_bytes:,} bytes", where=name, mend="scale it down first")
    try:
        with warnings.catch_warnings():
            # the bound below is the one that holds
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=tuple(formats))
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise DataError(
                f"{width}×{height} pixels are more than {MOST_PIXELS:,}",
                where=name,
                mend="scale it down first",
            )
        if not animated and getattr(image, "n_frames", 1) > 1:
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


def check_picture(content: bytes, *, where: str = "image") -> None:
    """Check by its header that a file is a picture of the web within the bound of pixels; nothing is decoded.

    Raises:
        DataError: it is none, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP", "GIF")).size
    except Image.DecompressionBombError:
        raise DataError(f"its pixels are more than {MOST_PIXELS:,}", where=where) from None
    except Exception as error:  # decoders raise whatever they like
        raise DataError(f"no picture that can be read ({type(error).__name__})", where=where) from error
    if width * height > MOST_PIXELS:
        raise DataError(f"{width}×{height} pixels are more than {MOST_PIXELS:,}", where=where)


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
