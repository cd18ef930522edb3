"""`noria routing serve`: a router as an OpenAI-compatible API."""

from __future__ import annotations

from noria.routing.service.config import ServeConfig
from noria.verbs.command import command as make_command

__all__ = ["command"]


@make_command(ServeConfig, extra="serve")
def command(config: ServeConfig) -> None:
    """Serve /v1/chat/completions and /v1/models: `model: auto` goes where ROUTER says."""
    from noria.routing.service.process import serve_router

    serve_router(config)
