"""Pictures that people send: opened within bounds, upright, without a camera's notes, no larger than models need."""

from __future__ import annotations

import io

from noria.core.errors import DataError
from noria.core.picture_files import open_picture, png

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""Formats that are taken, by Pillow's names."""
LONGEST = 2048
"""Most pixels of a side; a larger picture is scaled down."""


def taken(content: bytes, *, most_bytes: int) -> bytes:
    """A picture as it is asked about: written anew, so that nothing but its pixels is left of the file.

    Raises:
        DataError: it is no picture of these formats, damaged, or too large in bytes or pixels.
    """
    picture = open_picture(content, where="picture", most_bytes=most_bytes, formats=FORMATS, animated=True)
    if min(picture.size) < 1:
        raise DataError("it has no pixels", where="picture")
    small = content.startswith(b"\x89PNG") and max(picture.size) <= 1024
    picture.thumbnail((LONGEST, LONGEST))
    if small:  # drawings and screenshots lose nothing
        return png(picture)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, optimize=True)
    return buffer.getvalue()
