"""The service with all that belongs to it: its snapshots, its log, the loop that learns, the console."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from noria.blending.columns import Candidates
from noria.blending.service.companion import Companion
from noria.blending.service.config import ServeConfig
from noria.blending.service.console import console
from noria.blending.service.journal.journal import Journal
from noria.blending.service.publishing import Publisher
from noria.blending.service.service import Feed
from noria.blending.service.wire.answers import answer
from noria.blending.service.wire.requests import ARROW, read_request
from noria.blending.service.wire.streams import candidates_to_arrow
from noria.core.errors import MissingExtra, require
from noria.core.service.hosting import read_token, serve


@contextlib.contextmanager
def open_feed(
    source: Path | None, state: Path | None, config: ServeConfig, *, clock: Callable[[], float] = time.time
) -> Iterator[Feed]:
    """The service's parts, opened together and closed together.

    Args:
        source: a snapshot file, watched for a new one.
        state: folder of the service; without one there is no log, and versions are kept nowhere.
        config: settings of the service.
        clock: seconds since 1970.

    Raises:
        DataError: there is no good snapshot.
        RunError: another service has the folder, or the disk refuses.
    """
    with contextlib.ExitStack() as stack:
        if state is not None:
            require("pyarrow", "blending")  # for the sampled requests in the log
        journal = stack.enter_context(Journal(state / "log")) if state is not None else None
        publisher = Publisher.open(state, source, clock)
        stack.callback(publisher.close)
        companion = None
        if state is not None and config.nearline.on:
            companion = Companion(state, config.nearline)
        yield Feed(publisher, config, journal=journal, companion=companion, clock=clock)


def serve_feed(source: Path | None, state: Path | None, config: ServeConfig) -> None:
    """Serve until the process is stopped.

    Args:
        source: a snapshot file, watched for a new one.
        state: folder of the service.
        config: settings, with where to listen.

    Raises:
        NoriaError: what keeps it from starting.
    """
    token = read_token(config.token_file)
    with open_feed(source, state, config) as feed:
        _warm(feed)
        service = feed.service(
            token=token, hosts=config.hosts, access_log=config.access_log, more=console(feed)
        )
        serve(service, host=config.host, port=config.port)


def _warm(feed: Feed) -> None:
    """Rank an empty request once, so that the first real one need not wait for imports."""
    nobody = Candidates.of({"item": [], "score": [], "source": []})
    with contextlib.suppress(MissingExtra):
        body = candidates_to_arrow(nobody)
        request = read_request(body, ARROW)
        answer(
            request, feed.publisher.blender.rank(nobody, 1, at=feed.traffic.now()), {}, feed.publisher.blender
        )
