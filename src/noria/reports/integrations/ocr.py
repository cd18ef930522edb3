"""Text of pictures by RapidOCR (PP-OCR models inside its wheel), for scanned pages."""

from __future__ import annotations

import functools
from typing import Any

from noria.core.errors import require


@functools.cache
def _engine() -> Any:
    return require("rapidocr", "ocr").RapidOCR()


def read_picture(data: bytes, where: str) -> str:
    """Lines of text in a picture, from top to bottom.

    Raises:
        MissingExtra: RapidOCR is not installed.
        DataError: the bytes are no picture.
    """
    from noria.reports.figures.pictures import open_picture

    engine = _engine()
    import numpy as np

    result = engine(np.asarray(open_picture(data, where).convert("RGB")))
    texts = getattr(result, "txts", None) or ()
    return "\n".join(str(text) for text in texts)
