"""The shop's editor of pictures: the packaged planner and the micro-world's editor behind `noria editing`'s service.

`python -m noria.assistant.world.editor_server PORT [VERSIONS]` serves /v1/images/edits; plans that wait are written in
one batch. With a folder of versions, a request may name a planner there by its content hash.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

from noria.core.service.hosting import read_token, serve
from noria.core.service.serving import Limits, Service
from noria.core.versions.served import ServedVersions
from noria.editing.environment.rendering import Renderer, RenderSettings
from noria.editing.planner.planning import PolicyPlanner
from noria.editing.service.service import BODY, EditService
from noria.editing.types import Planner
from noria.editing.use.session import ThinkThenEdit
from noria.editing.world.editor import AsyncWorldEditor

PLANNER = Path(str(files("noria.editing"))) / "assets" / "planner"
"""Folder of the packaged planner."""
SECONDS = 60.0
LONGEST = 80
"""Most tokens of a plan."""


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[ThinkThenEdit]:
    """Planner and editor while the service runs."""
    renderer = Renderer(AsyncWorldEditor(), RenderSettings(in_flight=64, register=False))
    async with planning(PLANNER) as planner:
        yield ThinkThenEdit(planner, renderer)


@contextlib.asynccontextmanager
async def planning(folder: Path) -> AsyncIterator[Planner]:
    """The planner of a folder while it writes plans."""
    planner = PolicyPlanner.open(folder, max_tokens=LONGEST)
    async with planner.running():
        yield planner


def main() -> None:
    """Serve until a signal comes."""
    import torch

    torch.set_num_threads(1)
    versions = ServedVersions(Path(sys.argv[2]), "planner", planning) if len(sys.argv) > 2 else None
    edits = EditService(opened, "think-then-edit", in_flight=64, seconds=SECONDS, versions=versions)
    service = Service(
        "editing",
        edits.routes(),
        token=read_token(),
        limits=Limits(body_bytes=BODY, seconds=SECONDS),
        around=edits.around,
    )
    serve(service, port=int(sys.argv[1]) if len(sys.argv) > 1 else 0)


if __name__ == "__main__":
    main()
