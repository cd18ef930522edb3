"""Serving a router from its files: what `noria routing serve` does."""

from __future__ import annotations

from pathlib import Path

from noria.core.hosting import read_token, serve
from noria.routing.jobs import open_router
from noria.routing.pool import PoolConfig, open_pool
from noria.routing.serve import ServeLimits, routing_service

__all__ = ["serve_router"]


def serve_router(
    source: Path,
    pool: PoolConfig,
    *,
    host: str,
    port: int,
    token_file: Path | None = None,
    trade: float | None = None,
    route_only: bool = False,
    cache: Path | None = None,
    budget: float | None = None,
    patience: float = 120.0,
    fallbacks: int = 2,
    in_flight: int = 512,
    allow_download: bool = False,
) -> None:
    """Serve until told to stop.

    Raises:
        NoriaError: anything that a user can mend.
    """
    router = open_router(source, trade=trade)
    opened = open_pool(pool, cache=cache, budget=budget, allow_download=allow_download)
    limits = ServeLimits(
        patience=patience,
        fallbacks=fallbacks,
        in_flight=in_flight,
        seconds=patience * (1 + fallbacks) + 30.0,
    )
    service = routing_service(
        router, opened, token=read_token(token_file), limits=limits, route_only=route_only
    )
    serve(service, host=host, port=port)
