"""`noria serve`: the gateway as an OpenAI-compatible API."""

from __future__ import annotations

from noria.assistant.config import ServeConfig
from noria.verbs.command import command as make_command


@make_command(ServeConfig, extra="serve")
def command(config: ServeConfig) -> None:
    """Serve chat over your backends: every request traced, answers judged, versions compared and rolled back.

    Start it with --config noria.yaml, which names the backends and the routes over them.
    """
    from noria.assistant.config import AssistantConfig
    from noria.assistant.service.process import serve_gateway
    from noria.assistant.web.page import open_page

    serve_gateway(config, open_page(config.part(AssistantConfig)))
