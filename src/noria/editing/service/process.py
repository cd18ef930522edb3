"""The process of `noria editing serve`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from noria.core.service.hosting import read_token, serve
from noria.core.service.serving import Limits, Service
from noria.editing.service.service import BODY, EditService
from noria.editing.use.session import ThinkThenEdit


def serve_edits(
    opened: Callable[[], AbstractAsyncContextManager[ThinkThenEdit]],
    model: str,
    *,
    in_flight: int,
    seconds: float,
    token_file: Path | None,
    host: str,
    port: int,
) -> None:
    """Serve until the process is stopped.

    Args:
        opened: opens planner, editor and judges.
        model: name that the service answers to.
        in_flight: edits under way at once.
        seconds: longest time of an edit.
        token_file: file of the token; the environment variable NORIA_TOKEN by default.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Raises:
        NoriaError: what keeps it from starting.
    """
    edits = EditService(opened, model, in_flight=in_flight, seconds=seconds)
    limits = Limits(body_bytes=BODY, seconds=seconds)
    service = Service(
        "editing", edits.routes(), token=read_token(token_file), limits=limits, around=edits.around
    )
    serve(service, host=host, port=port)
