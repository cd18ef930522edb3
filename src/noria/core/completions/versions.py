"""The version that a request names as its model: the server's own by name, others by content hash."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TypeVar

from noria.core.errors import NoriaError, caller_line
from noria.core.service.responses import HttpError
from noria.core.versions.served import ServedVersions, is_version

T = TypeVar("T")
log = logging.getLogger("noria.serving")


@contextlib.asynccontextmanager
async def named_version(model: str, own: str, versions: ServedVersions[T] | None) -> AsyncIterator[T | None]:
    """Hold the version that a request names open while the context lasts; None for the server's own.

    Args:
        model: model of the request; empty for the server's own.
        own: name of the server's own model.
        versions: versions that a request may name by content hash; None where the server has none.

    Raises:
        HttpError: 404, there is no such model or version, or it cannot be opened.
    """
    if model in ("", own):
        yield None
        return
    if versions is None or not is_version(model):
        raise HttpError(404, "model_not_found", f"this serves {own!r}", param="model")
    async with contextlib.AsyncExitStack() as stack:
        try:
            version = await stack.enter_async_context(versions.using(model))
        except NoriaError as error:
            log.warning("the version %s cannot be opened: %s", model[:12], error)
            raise HttpError(404, "model_not_found", caller_line(error), param="model") from None
        yield version


def version_field(model: str, own: str) -> dict[str, str]:
    """Field `version` of an answer by a version; empty for the server's own model."""
    return {"version": model} if is_version(model) and model != own else {}
