"""What a judge sees: the request with the plan as data, or the request with both pictures.

It never sees the thinking, nor the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from noria.core.chat import Image as ImagePart, Part, Text
from noria.core.picture_files import png
from noria.editing.safety import harmless

if TYPE_CHECKING:
    from PIL.Image import Image


def cognitive_subject(instruction: str, sources: Sequence[Image | ImagePart], plan: str) -> tuple[Part, ...]:
    """Parts for the judge of a plan: request, sources, and the plan last, made harmless."""
    return (Text(f"Request:\n{instruction}"), *map(_part, sources), Text(f"Plan:\n{harmless(plan)}"))


def visual_subject(instruction: str, sources: Sequence[Image | ImagePart], edited: Image) -> tuple[Part, ...]:
    """Parts for the judge of a picture: request, sources, and the edited picture last; the plan is not among them."""
    return (
        Text(f"Request:\n{instruction}"),
        Text("Before the edit:"),
        *map(_part, sources),
        Text("After the edit:"),
        _part(edited),
    )


def _part(picture: Image | ImagePart) -> ImagePart:
    """The picture as a part; one that is encoded already stays as it is."""
    return picture if isinstance(picture, ImagePart) else ImagePart(png(picture))
