"""Text of pictures by RapidOCR (PP-OCR models inside its wheel), for scanned pages."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from noria.core.errors import ConfigError


@functools.cache
def _engine() -> Any:
    try:
        return importlib.import_module("rapidocr").RapidOCR()
    except ImportError as error:
        raise ConfigError(
            f"pages that are pictures need {error.name}", mend="pip install rapidocr onnxruntime"
        ) from None


def read_picture(data: bytes, where: str) -> str:
    """Lines of text in a picture, from top to bottom.

    Raises:
        ConfigError: RapidOCR is not installed.
        DataError: the bytes are no picture.
    """
    from noria.reports.figures.pictures import open_picture

    engine = _engine()
    import numpy as np

    result = engine(np.asarray(open_picture(data, where).convert("RGB")))
    texts = getattr(result, "txts", None) or ()
    return "\n".join(str(text) for text in texts)
