"""Serving a router from its files: what `noria routing serve` does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from noria.core.service.hosting import read_token, serve
from noria.routing.pool.config import PoolConfig
from noria.routing.pool.pool import Pool, open_pool
from noria.routing.routers.baselines import Fixed
from noria.routing.routers.files import open_router
from noria.routing.routers.router import Router
from noria.routing.service.config import ServeLimits
from noria.routing.service.service import routing_service
from noria.routing.tables.table import Route

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
    opened = open_pool(
        pool, cache=cache, budget=budget, in_flight=min(in_flight, 4096), allow_download=allow_download
    )
    router = (
        writer_router(source, opened) if (source / "policy").is_dir() else open_router(source, trade=trade)
    )
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


def writer_router(source: Path, pool: Pool) -> Router:
    """A router that writes, made one of the pool's models and the first choice; the others are what to fall back on."""
    from noria.routing.writer.router import WritingRouter, open_writer

    callable_routes = Pool(pool.models, pool.routes, strategies=pool.strategies, about=pool.about)
    route = Route(source.resolve().name)
    pool.models[route.model] = WritingRouter(open_writer(source), callable_routes)
    pool.add(route)
    return Fixed(pool.routes, np.full(len(pool.routes), np.nan), route=len(pool.routes) - 1)
