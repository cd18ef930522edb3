"""Opening of pictures that strangers made: bounded pixels, known formats, no scripts."""

from __future__ import annotations

import io
import warnings
from typing import Any

from noria.core.errors import DataError

MOST_PIXELS = 40_000_000
MOST_BYTES = 32_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def open_picture(data: bytes, where: str) -> Any:
    """Decode a picture.

    Returns:
        A Pillow image, loaded; transparent parts are put on white.

    Raises:
        DataError: too large, damaged, or of another format; SVG is one, for it can hold scripts.
    """
    from PIL import Image

    if len(data) > MOST_BYTES:
        raise DataError(f"a picture of more than {MOST_BYTES:,} bytes", where=where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Any = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MOST_PIXELS:
                raise DataError(f"a picture of {image.width} × {image.height} pixels", where=where)
            image.load()
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"too many pixels: {error}", where=where) from None
    except Exception as error:  # Pillow's decoders raise what they like on damaged files
        raise DataError(
            f"no picture of the kinds {', '.join(FORMATS)}: {type(error).__name__}", where=where
        ) from None
    if image.mode in ("RGBA", "LA", "P"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return image.convert("RGB")


def png_of(image: Any) -> bytes:
    """PNG of a picture, without any of the camera's notes; the same bytes for the same pixels."""
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
