"""Pictures of reports: opened within bounds, and written without a camera's notes."""

from __future__ import annotations

import io
from typing import Any

from noria.core import picture_files

MOST_BYTES = 32_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def open_picture(data: bytes, where: str) -> Any:
    """Decode a picture of a source.

    Returns:
        A Pillow image, upright, RGB; transparent parts are put on white, and of an animation there is the first frame.

    Raises:
        DataError: too large, damaged, or of another format; SVG is one, for it can hold scripts.
    """
    return picture_files.open_picture(
        data, where=where, most_bytes=MOST_BYTES, formats=FORMATS, animated=True
    )


def png_of(image: Any) -> bytes:
    """PNG of a picture, without any of the camera's notes; the same bytes for the same pixels."""
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
