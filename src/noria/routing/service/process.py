"""Starting the service of a router from its files."""

from __future__ import annotations

from noria.core.service.hosting import read_token, serve
from noria.routing.pool.config import read_pool
from noria.routing.pool.pool import open_pool
from noria.routing.routers.files import open_router
from noria.routing.service.config import BackendLimits, ServeConfig, ServeLimits
from noria.routing.service.service import routing_service


def serve_router(config: ServeConfig) -> None:
    """Serve until the process is told to stop.

    Raises:
        NoriaError: anything that a user can mend.
    """
    opened = open_pool(
        read_pool(config.pool),
        cache=config.cache,
        budget=config.budget,
        in_flight=min(config.in_flight, 4096),
        allow_download=config.allow_download,
    )
    pool = opened.live(attempts=config.attempts, patience=config.patience)  # also for a router that writes
    if (config.router / "policy").is_dir():
        from noria.routing.writer.router import writer_router

        router = writer_router(config.router, pool)
    else:
        router = open_router(config.router, trade=config.trade)
    limits = ServeLimits(
        **config.part(BackendLimits).model_dump(),
        seconds=config.patience * config.attempts * (1 + config.fallbacks) + 30.0,
    )
    token = read_token(config.token_file)
    service = routing_service(router, pool, token=token, limits=limits, route_only=config.route_only)
    serve(service, host=config.host, port=config.port)
