"""Names of the system: editors, planners, renderings, and the errors of an editor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from noria.core.errors import NoriaError

if TYPE_CHECKING:
    from PIL.Image import Image

Path: TypeAlias = Literal["cognitive", "visual"]
"""What an item judges: the plan alone, or the picture alone."""
PATHS: tuple[Path, Path] = ("cognitive", "visual")

Rule: TypeAlias = Literal["split", "sum", "weighted", "gdpo", "gate", "lexicographic"]
"""
split          a group of rollouts a stream, each with its own advantages (the paper, eq. 3 to 5)
sum            r_cog + r_vis, then normalised in the group (GRPO)
weighted       w_c r_cog + w_v r_vis, then normalised in the group
gdpo           each reward normalised in the group, added, then normalised over the batch (arXiv 2601.05242)
gate           min(r_cog, r_vis): neither makes up for the other
lexicographic  r_cog first; r_vis decides among equals
"""
RULES: tuple[Rule, ...] = ("split", "sum", "weighted", "gdpo", "gate", "lexicographic")

Failure: TypeAlias = Literal["refused", "timeout", "unreachable", "broken", "size", "unsupported", "gated"]
"""
refused      the editor declines the content
timeout      no picture before the deadline
unreachable  no connection, or the server is overloaded: worth another try
broken       an error, or something that is no picture
size         a picture of another shape, which cannot be put onto the source
unsupported  the editor cannot honour a mask, several pictures or a seed
gated        not rendered: the plan already failed a required item
"""


class EditorError(NoriaError):
    """An editor that made no picture.

    Attributes:
        kind: kind of the failure, such as `timeout`.
        retry: whether the same request may succeed when it is sent again.
    """

    def __init__(
        self,
        what: str,
        *,
        kind: Failure = "broken",
        retry: bool = False,
        where: str | None = None,
        mend: str | None = None,
    ) -> None:
        super().__init__(what, where=where, mend=mend)
        self.kind: Failure = kind
        self.retry = retry


class Editor(Protocol):
    """An editor that is not trained: a pipeline in this process, a server, or a world of a proof.

    Attributes:
        name: names what it would render: model, revision and settings. Equal names mean equal pictures for equal
            requests, which the render cache relies on.
    """

    name: str

    async def edit(
        self, images: Sequence[Image], plan: str, seed: int, *, mask: Image | None = None
    ) -> Image:
        """Render a plan on its source pictures.

        Args:
            images: one or more pictures, RGB; the first is the one that is edited.
            plan: text of the plan.
            seed: seed of the editor's noise; rollouts of one prompt share it.
            mask: L picture of the first image's size, 255 where it may change; None for all of it.

        Raises:
            EditorError: there is no picture, or a field that cannot be honoured. Any other exception counts as
                `broken`.
        """
        ...


class Planner(Protocol):
    """A model that reads pictures and an instruction, and writes a think/answer output."""

    name: str

    async def write(
        self, images: Sequence[Image], instruction: str, *, sample: int = 0, notes: str = ""
    ) -> str:
        """Write one output for a request: thinking and plan.

        Args:
            images: pictures of the request; the first is the one that is edited.
            instruction: what the user asks for.
            sample: number of the draw; equal numbers draw equal outputs.
            notes: what an earlier try got wrong; empty at the first.

        Raises:
            NoriaError: there is no output.
        """
        ...


@dataclass(frozen=True)
class Rendering:
    """Outcome of one render: a picture, or why there is none.

    Attributes:
        image: picture, RGB, of the source's size; None where there is none.
        failure: why there is none.
        message: what the editor said about it.
        seconds: time that it took.
        cached: whether it came from the render cache.
        attempts: calls of the editor that it took; 0 from the cache or when gated.
        registered: shift and scale that put it back onto the source, as one line; empty where it was not moved.
    """

    image: Image | None = field(repr=False)
    failure: Failure | None = None
    message: str = ""
    seconds: float = 0.0
    cached: bool = False
    attempts: int = 1
    registered: str = ""
