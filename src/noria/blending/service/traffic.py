"""The traffic of the service: ranks requests, logs decisions, accepts impressions and outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence

from noria.blending.service.config import ServeConfig
from noria.blending.service.journal.events import Event, Impression, Outcome, Sample, decision_of, pack
from noria.blending.service.journal.journal import Journal
from noria.blending.service.metrics import Metrics
from noria.blending.service.publishing import Publisher
from noria.blending.service.recent import Recent, ServedRequest
from noria.blending.service.wire import intake, requests as wire
from noria.blending.service.wire.answers import answer
from noria.blending.service.wire.streams import candidates_to_arrow
from noria.core.errors import DataError, RunError
from noria.core.service.serving import HttpError, Request, Response, json_response
from noria.core.storage.write_queue import JournalFull

LARGE = 1 << 18
"""Size of a body above which a request is ranked in a thread, so that the others need not wait."""


class Traffic:
    """The endpoints that clients of the feed call.

    Args:
        publisher: the source of what ranks.
        config: settings of the service.
        journal: the log; without one no events are accepted.
        metrics: counts what passes.
        clock: seconds since 1970.

    Attributes:
        recent: requests sampled lately.
    """

    def __init__(
        self,
        publisher: Publisher,
        config: ServeConfig,
        journal: Journal | None,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.publisher = publisher
        self.config = config
        self.journal = journal
        self.recent = Recent(config.recent)
        self._metrics = metrics
        self._clock = clock
        self._last = 0.0

    def now(self) -> float:
        """The service's clock. It never goes back, so that events are in the order of their arrival."""
        result = self._clock()
        if result < self._last:
            self._metrics.backward.inc()
        self._last = max(self._last, result)
        return self._last

    async def rank(self, request: Request) -> Response:
        """POST /rank: a ranked list in the form of its request."""
        body = await request.body()
        trusted = request.app.is_trusted(request)
        if len(body) > LARGE:
            response, events, wait = await asyncio.to_thread(self._rank, request, body, trusted)
        else:
            response, events, wait = self._rank(request, body, trusted)
        if events:
            await self._write(events, wait=wait)
        return response

    def _rank(self, request: Request, body: bytes, trusted: bool) -> tuple[Response, list[Event], bool]:
        """Rank a request: its response, what is to be logged, and whether the response waits for the log."""
        began = time.perf_counter()
        query = self._read(request, body, trusted)
        served = self._served(query, request.scope["noria.exchange"].id)
        ranked = served.ranked()
        logged = trusted and self.journal is not None
        head = {
            "id": served.request,
            "version": ranked.version,
            "snapshot": ranked.snapshot,
            "control": served.control,
            "logged": logged,
            "took": round(1e3 * (time.perf_counter() - began), 3),
        }
        if self.publisher.stale:
            head["stale"] = True
        explain = bool(request.scope["query_string"]) and is_on(request.query_params.get("explain", ""))
        answered = answer(query, ranked, head, served.blender, explain=explain)
        self._metrics.ranked(query.form, ranked, len(query.candidates))
        sampled = _share(b"sample", served.request) < self.config.sample
        if sampled:
            self.recent.add(served)
        events: list[Event] = []
        if logged:
            decision = decision_of(
                served.candidates,
                ranked,
                at=served.at,
                request=served.request,
                user=query.user or "",
                control=served.control,
                shown=query.shown,
            )
            events.append(decision)
            if sampled:
                stream = candidates_to_arrow(served.candidates)
                events.append(Sample(served.at, served.request, served.candidates.scene, stream))
        return answered, events, query.shown > 0

    def _read(self, request: Request, body: bytes, trusted: bool) -> wire.RankRequest:
        """Read a request to rank, and refuse what its caller may not ask for."""
        scene = request.scope["path_params"].get("scene", "")
        if len(scene) > wire.MAX_NAME:
            raise DataError("a scene's name is too long", where="scene")
        media_type = request.scope["noria.exchange"].headers.get(b"content-type", b"").decode("latin-1")
        with self._counting_malformed():
            query = wire.read_request(body, media_type, scene=scene)
        if query.shown and not trusted:
            raise HttpError(401, "wrong_token", "`shown` is taken in with the service's token only")
        if query.shown:
            self._need_log()
        return query

    def _served(self, request: wire.RankRequest, exchange: str) -> ServedRequest:
        """The request with all that its ranking depends on."""
        at = self.now()
        self._metrics.skew(request.time, at)
        name = request.id or exchange
        size = self.config.size if request.size is None else request.size
        control = _share(b"control", request.user or name) < self.config.control
        return ServedRequest(name, at, size, control, request.candidates, self.publisher.blender)

    @contextlib.contextmanager
    def _counting_malformed(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            self._metrics.malformed.inc()
            raise

    async def impressions(self, request: Request) -> Response:
        """POST /impressions: {request, items, timestamp}, one or a list."""
        return await self._take_in(intake.impressions, request)

    async def outcomes(self, request: Request) -> Response:
        """POST /outcomes: {request, item, watch, duration, gain, timestamp}, one or a list."""
        return await self._take_in(intake.outcomes, request)

    async def _take_in(
        self, read: Callable[[bytes, float], Sequence[Impression | Outcome]], request: Request
    ) -> Response:
        body, at = await request.body(), self.now()
        with self._counting_malformed():
            events = read(body, at)
        skewed = sum(self._metrics.skew(event.client, at) for event in events)
        self._need_log()
        if events:
            await self._write(events, wait=True)
        return json_response({"accepted": len(events), "skewed": skewed})

    def _need_log(self) -> None:
        if self.journal is None:
            raise HttpError(409, "no_log", "the service keeps no log; start it with --state")

    async def _write(self, events: Sequence[Event], *, wait: bool) -> None:
        """Write events into the log; with `wait`, they are on the disk when this returns.

        Raises:
            HttpError: 507 where the disk is full, 503 where it fails.
        """
        assert self.journal is not None
        try:
            if wait:
                await self.journal.append(pack(events))
            else:
                self.journal.post(pack(events))
        except RunError as error:
            self._metrics.unlogged.inc()
            if not wait:  # the decision was not acknowledged
                return
            full = isinstance(error, JournalFull)
            raise HttpError(
                507 if full else 503,
                "log_full" if full else "log_failed",
                "nothing was taken in: the log cannot be written",
                headers={"retry-after": "5"},
            ) from None
        for event in events:
            self._metrics.events.labels(type(event).__name__.lower()).inc()


def _share(lot: bytes, key: str) -> float:
    """A number in [0, 1) that is the key's own on every machine; those of different lots are independent.

    Two checksums such as CRC-32 of one key differ by a constant, so that whoever is in one lot is in the other, or not.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=lot).digest()
    return int.from_bytes(digest, "little") / 2**64


def is_on(text: str) -> bool:
    """Whether a query's flag is set; a browser's checkbox sends "on"."""
    return text in ("true", "1", "on")
