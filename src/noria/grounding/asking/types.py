"""Names of the protocols and the controls under which a model is asked."""

from __future__ import annotations

from typing import Literal, TypeAlias

Protocol: TypeAlias = Literal["unified", "staged", "per-item", "permute"]
Control: TypeAlias = Literal[
    "none", "blind", "transcript", "black", "shuffled", "reversed", "cropped-box", "oracle"
]
"""
none         the clip's frames, and its transcript
blind        nothing at all: what the questions' own words give away
transcript   the words that are spoken, no frames
black        frames of the right number and size, all black
shuffled     the frames of a clip from another source
reversed     the clip's frames in the opposite order under the same time stamps
cropped-box  of the questions with a box, the frame at their time cut to the box
oracle       the verified observations as text
"""
WITHOUT_CLIP: tuple[Control, ...] = ("blind", "transcript", "oracle")
"""Controls that need no clip."""
