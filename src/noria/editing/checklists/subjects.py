"""What a judge sees: the request with the plan as data, or the request with both pictures.

It never sees the thinking, nor the reference.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from noria.core.chat import Image as ImagePart, Part, Text
from noria.editing.safety import harmless

if TYPE_CHECKING:
    from PIL.Image import Image


def png(image: Image) -> bytes:
    """A picture as a PNG file, lossless."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def cognitive_subject(instruction: str, sources: Sequence[Image], plan: str) -> tuple[Part, ...]:
    """Parts for the judge of a plan: request, sources, and the plan last, made harmless."""
    pictures = [ImagePart(png(one)) for one in sources]
    return (Text(f"Request:\n{instruction}"), *pictures, Text(f"Plan:\n{harmless(plan)}"))


def visual_subject(instruction: str, sources: Sequence[Image], edited: Image) -> tuple[Part, ...]:
    """Parts for the judge of a picture: request, sources, and the edited picture last; the plan is not among them."""
    pictures = [ImagePart(png(one)) for one in sources]
    return (
        Text(f"Request:\n{instruction}"),
        Text("Before the edit:"),
        *pictures,
        Text("After the edit:"),
        ImagePart(png(edited)),
    )
