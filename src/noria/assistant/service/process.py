"""Starting the gateway from its settings."""

from __future__ import annotations

from collections.abc import Callable

from noria.assistant.config import AssistantConfig, ServeConfig
from noria.assistant.service.service import GatewayState, Pages, opened_gateway
from noria.core.service.hosting import read_token, serve


def serve_gateway(config: ServeConfig, pages: Callable[[GatewayState], Pages] | None = None) -> None:
    """Serve until the process is told to stop.

    Args:
        config: settings of the gateway, and where it listens.
        pages: makes the pages for people, if any.

    Raises:
        NoriaError: anything that a user can mend.
    """
    token = read_token(config.token_file)
    with opened_gateway(
        config.folder,
        config.part(AssistantConfig),
        token=token,
        companion=config.companion,
        access_log=config.access_log,
        pages=pages,
    ) as service:
        serve(service, host=config.host, port=config.port)
