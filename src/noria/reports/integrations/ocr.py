"""Text of pictures by RapidOCR, for scanned pages: its models are in its wheel, and nothing is downloaded."""

from __future__ import annotations

import functools
from typing import Any

from noria.core.errors import needing


@functools.cache
def _engine() -> Any:
    with needing("ocr"):
        import onnxruntime  # noqa: F401  rapidocr would name it only when it is first used
        from rapidocr import RapidOCR

        # The level is a parameter: it is set again whenever an engine is made.
        return RapidOCR(params={"Global.log_level": "warning"})


def read_picture(data: bytes, where: str) -> str:
    """Lines of text in a picture, from top to bottom.

    Raises:
        MissingExtra: RapidOCR or its runtime is not installed.
        DataError: the bytes are no picture.
    """
    from noria.reports.figures.pictures import open_picture

    engine = _engine()
    import numpy as np

    result = engine(np.asarray(open_picture(data, where).convert("RGB")))
    texts = getattr(result, "txts", None) or ()
    return "\n".join(str(text) for text in texts)
