"""The service: ranks requests, takes in what was shown and what came of it, and lets its plans be changed.

```text
POST /rank, /rank/SCENE       a ranked list with the account of every item; ?explain=true for the whole of it
POST /impressions, /outcomes  what was shown, what came of it: on the disk before they are acknowledged
GET  /snapshot, /snapshots    what serves, and its versions
POST /snapshots, /plans, /switches, /rollback      change what serves
GET  /status, /requests, /requests/ID, /what-if
```

A decision is logged for callers with the token; `shown` in a request says that the first places count as shown at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from noria.blending.blender import Blender
from noria.blending.plans.plans import Plans
from noria.blending.service import wire
from noria.blending.service.answers import Answered, answer, explanation
from noria.blending.service.companion import Companion
from noria.blending.service.config import ServeConfig
from noria.blending.service.journal.events import Event, Impression, Outcome, Sample, decision_of, pack
from noria.blending.service.journal.journal import Journal, JournalFull
from noria.blending.service.publishing import Publisher
from noria.blending.service.streams import candidates_to_arrow
from noria.blending.service.whatif import Recent, Served, what_if
from noria.blending.snapshot import Setting, Snapshot
from noria.core.config import parse_config
from noria.core.errors import DataError, NoriaError, RunError, needing
from noria.core.service.serving import (
    Endpoint,
    HttpError,
    Limits,
    Request,
    Response,
    Route,
    Service,
    json_response,
    route,
)

with needing("serve"):
    import msgspec
    from prometheus_client import CollectorRegistry, Counter, Gauge

__all__ = ["Feed", "explained", "number_of"]

log = logging.getLogger("noria.serving")

LARGE = 1 << 18
"""Bytes of a body above which a request is ranked beside the loop, so that the others need not wait."""
MOST_EVENTS = 10_000
"""Impressions or outcomes in one body."""


class _Shown(msgspec.Struct):
    request: str | int
    items: list[str | int]
    timestamp: str | float | None = None


class _Came(msgspec.Struct):
    request: str | int
    item: str | int
    watch: float | None = None
    duration: float | None = None
    gain: float | None = None
    timestamp: str | float | None = None


_shown = msgspec.json.Decoder(list[_Shown] | _Shown).decode
_came = msgspec.json.Decoder(list[_Came] | _Came).decode


class _Switch(msgspec.Struct, forbid_unknown_fields=True):
    on: bool
    plan: str | None = None


class _Version(msgspec.Struct, forbid_unknown_fields=True):
    version: int


@dataclass
class _Done:
    """A ranked request: what is answered, and what is to be logged."""

    answered: Answered
    events: list[Event]
    shown: bool


class Feed:
    """The blending service around one publisher and, if there is one, a log.

    Args:
        publisher: of snapshots.
        config: settings.
        journal: the log; without one nothing is taken in.
        companion: the loop that learns from the log.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        publisher: Publisher,
        config: ServeConfig,
        *,
        journal: Journal | None = None,
        companion: Companion | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.publisher = publisher
        self.config = config
        self.journal = journal
        self.companion = companion
        self.recent = Recent(config.recent)
        self.registry = CollectorRegistry()
        self._clock = clock
        self._last = 0.0
        self._metrics = _Metrics(self)
        if companion is not None:
            self.registry.register(companion)

    def service(
        self,
        *,
        token: str | None,
        hosts: Sequence[str] = (),
        access_log: bool = True,
        more: Sequence[Route] = (),
    ) -> Service:
        """As a service, with further routes."""
        body = int(self.config.body_mib * 2**20)

        def change(path: str, endpoint: Endpoint, body_bytes: int | None = None) -> Route:
            return route(path, endpoint, methods=["POST"], access="write", body_bytes=body_bytes)

        routes = [
            route("/rank", self.rank, methods=["POST"], body_bytes=body),
            route("/rank/{scene}", self.rank, methods=["POST"], body_bytes=body),
            change("/impressions", self.impressions),
            change("/outcomes", self.outcomes),
            route("/snapshot", self.snapshot),
            route("/snapshots", self.snapshots),
            change("/snapshots", self.adopt, 64 << 20),
            change("/plans", self.change_plans),
            change("/switches", self.switch),
            change("/rollback", self.roll_back),
            route("/status", self.status),
            route("/requests", self.requests),
            route("/requests/{request:path}", self.explain),
            route("/what-if", self.what_if),
            *more,
        ]
        return Service(
            "blending",
            routes,
            token=token,
            hosts=hosts,
            registry=self.registry,
            access_log=access_log,
            limits=Limits(body_bytes=8 << 20, in_flight=self.config.in_flight),
            around=self._around,
        )

    @contextlib.asynccontextmanager
    async def _around(self, service: Service) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._watch())]
        if self.companion is not None:
            tasks.append(asyncio.create_task(self.companion.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        """Look for new snapshots. Whatever goes wrong, what serves goes on serving."""
        while True:
            await asyncio.sleep(self.config.poll)
            try:
                await asyncio.to_thread(self.look)
            except NoriaError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("looking for a new snapshot failed")

    def look(self) -> None:
        """One look for whatever is to be served next."""
        trouble = self.publisher.trouble
        if self.publisher.poll():
            log.info("snapshot %d serves", self.publisher.snapshot.version)
        elif self.publisher.trouble not in (None, trouble):
            log.warning("a snapshot was refused, the last good one serves: %s", self.publisher.trouble)
        if self.companion is not None:
            self.companion.look(self.publisher)
            oldest, keep = self.companion.oldest, self.config.keep_log_gib
            if self.journal is not None and oldest is not None and keep is not None:
                self.journal.prune(oldest, keep_bytes=int(keep * 2**30))

    def now(self) -> float:
        """The service's clock. It never goes back, so that events are in the order in which they were taken in."""
        found = self._clock()
        if found < self._last:
            self._metrics.backward.inc()
        self._last = max(self._last, found)
        return self._last

    # ranking

    async def rank(self, request: Request) -> Response:
        """POST /rank."""
        body = await request.body()
        trusted = request.app.is_trusted(request)
        if len(body) > LARGE:
            done = await asyncio.to_thread(self._rank, request, body, trusted)
        else:
            done = self._rank(request, body, trusted)
        if done.events:
            await self._write(done.events, wait=done.shown)
        if done.answered.media_type == "application/json":
            return json_response(done.answered.body)
        kind = {"content-type": done.answered.media_type, "cache-control": "no-store"}
        return Response(done.answered.body, 200, kind)

    def _rank(self, request: Request, body: bytes, trusted: bool) -> _Done:
        began = time.perf_counter()
        metrics = self._metrics
        scope = request.scope
        exchange = scope["noria.exchange"]
        scene = scope["path_params"].get("scene", "")
        if len(scene) > wire.MAX_NAME:
            raise DataError("a scene's name is too long", where="scene")
        try:
            asked = wire.read_request(
                body, exchange.headers.get(b"content-type", b"").decode("latin-1"), scene=scene
            )
        except DataError:
            metrics.malformed.inc()
            raise
        if asked.shown and not trusted:
            raise HttpError(401, "wrong_token", "`shown` is taken in with the service's token only")
        if asked.shown and self.journal is None:
            raise HttpError(409, "no_log", "the service keeps no log; start it with --state")
        at = self.now()
        metrics.skew(asked.time, at)
        name = asked.id or exchange.id
        blender = self.publisher.blender
        size = self.config.size if asked.size is None else asked.size
        control = _share(b"control", asked.user or name) < self.config.control
        candidates = asked.candidates
        mask = np.zeros(len(candidates), np.uint64) if control else None
        ranked = blender.rank(candidates, size, at=at, mask=mask)
        logged = trusted and self.journal is not None
        head = {
            "id": name,
            "version": ranked.version,
            "snapshot": ranked.snapshot,
            "control": control,
            "logged": logged,
            "took": round(1e3 * (time.perf_counter() - began), 3),
        }
        if self.publisher.stale:
            head["stale"] = True
        explain = bool(scope["query_string"]) and request.query_params.get("explain", "") in ("true", "1")
        answered = answer(asked, ranked, head, blender, explain=explain)
        metrics.ranked(asked.form, ranked, len(candidates))
        events: list[Event] = []
        sampled = _share(b"sample", name) < self.config.sample
        if sampled:
            self.recent.add(Served(name, at, size, control, candidates, blender))
        if logged:
            events.append(
                decision_of(
                    candidates,
                    ranked,
                    at=at,
                    request=name,
                    user=asked.user or "",
                    control=control,
                    shown=asked.shown,
                )
            )
            if sampled:
                events.append(Sample(at, name, scene, candidates_to_arrow(candidates)))
        return _Done(answered, events, asked.shown > 0)

    # taking in

    async def impressions(self, request: Request) -> Response:
        """POST /impressions: {request, items, timestamp}, one or a list."""
        rows = self._rows(_shown, await request.body())
        at = self.now()
        events: list[Event] = []
        skewed = 0
        for row in rows:
            client = wire.seconds(row.timestamp)
            skewed += self._metrics.skew(client, at)
            items = [_text(item, "items") for item in row.items]
            if len(items) > MOST_EVENTS:
                raise DataError(f"{len(items):,} items of one list", where="items")
            events.append(Impression(at, _text(row.request, "request"), items, client))
        return await self._taken(events, skewed)

    async def outcomes(self, request: Request) -> Response:
        """POST /outcomes: {request, item, watch, duration, gain, timestamp}, one or a list."""
        rows = self._rows(_came, await request.body())
        at = self.now()
        events: list[Event] = []
        skewed = 0
        for row in rows:
            client = wire.seconds(row.timestamp)
            skewed += self._metrics.skew(client, at)
            request_id, item = _text(row.request, "request"), _text(row.item, "item")
            events.append(Outcome(at, request_id, item, row.watch, row.duration, row.gain, client))
        return await self._taken(events, skewed)

    def _rows(self, decode: Callable[[bytes], Any], body: bytes) -> list[Any]:
        try:
            found = decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            self._metrics.malformed.inc()
            raise DataError(f"not what is taken in here: {error}") from None
        rows = found if isinstance(found, list) else [found]
        if len(rows) > MOST_EVENTS:
            raise DataError(f"{len(rows):,} in one body", mend=f"send at most {MOST_EVENTS:,} at once")
        return rows

    async def _taken(self, events: list[Event], skewed: int) -> Response:
        if self.journal is None:
            raise HttpError(409, "no_log", "the service keeps no log; start it with --state")
        if events:
            await self._write(events, wait=True)
        return json_response({"accepted": len(events), "skewed": skewed})

    async def _write(self, events: list[Event], *, wait: bool) -> None:
        """Into the log; what somebody waits for is there when this returns.

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
            if not wait:  # nobody was told that the decision is there
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

    # what serves

    async def snapshot(self, request: Request) -> Response:
        """GET /snapshot."""
        return json_response(self.publisher.snapshot.to_json())

    async def snapshots(self, request: Request) -> Response:
        """GET /snapshots."""
        publisher = self.publisher
        return json_response(
            {
                "version": publisher.snapshot.version,
                "kept": (await asyncio.to_thread(publisher.versions))[:1000],
                "audit": await asyncio.to_thread(publisher.audit),
            }
        )

    async def adopt(self, request: Request) -> Response:
        """POST /snapshots: a whole snapshot."""
        values = _json(await request.body())
        found = Snapshot.from_json(values, where="body")
        return await self._changed(lambda: self.publisher.adopt(found, who=_actor(request)))

    async def change_plans(self, request: Request) -> Response:
        """POST /plans: a plan file, YAML or JSON; with ?dry=true only what it would do to recent requests."""
        plans = parse_config(Plans, await request.body(), where="body")
        if request.query_params.get("dry", "") in ("true", "1"):
            return json_response(await asyncio.to_thread(self._dry, plans))
        return await self._changed(lambda: self.publisher.change_plans(plans, who=_actor(request)))

    async def switch(self, request: Request) -> Response:
        """POST /switches: {on, plan}; without a plan all of them."""
        asked = _typed(_Switch, await request.body())
        if asked.plan is not None and asked.plan not in self.publisher.base.ids:
            raise HttpError(404, "no_such_plan", f"there is no plan {asked.plan[:80]!r}", param="plan")
        return await self._changed(lambda: self.publisher.switch(asked.plan, asked.on, who=_actor(request)))

    async def roll_back(self, request: Request) -> Response:
        """POST /rollback: {version}."""
        version = _typed(_Version, await request.body()).version
        if version not in await asyncio.to_thread(self.publisher.versions):
            raise HttpError(404, "no_such_version", f"version {version} is not kept", param="version")
        return await self._changed(lambda: self.publisher.roll_back(version, who=_actor(request)))

    async def _changed(self, change: Callable[[], Snapshot]) -> Response:
        try:
            snapshot = await asyncio.to_thread(change)
        except RunError as error:
            log.warning("%s", error)
            raise HttpError(
                507,
                "not_kept",
                "nothing was changed: the new snapshot cannot be written",
                headers={"retry-after": "5"},
            ) from None
        log.info("snapshot %d serves", snapshot.version)
        return json_response({"version": snapshot.version, "snapshot": snapshot.digest})

    # looking

    async def status(self, request: Request) -> Response:
        """GET /status."""
        return json_response(self.told())

    def told(self) -> dict[str, Any]:
        """What a person wants to know of it."""
        publisher = self.publisher
        snapshot = publisher.snapshot
        active = snapshot.plans.active(self._clock())
        return {
            "version": snapshot.version,
            "snapshot": snapshot.digest,
            "created": snapshot.created,
            "age": publisher.age,
            "stale": publisher.stale,
            "rejected": publisher.rejected,
            "trouble": publisher.trouble,
            "all_off": publisher.switches.everything,
            "mean_value": snapshot.alignment.mean_value,
            "plans": [
                {
                    "id": plan.id,
                    "owner": plan.owner,
                    "note": plan.note,
                    "when": plan.when,
                    "weight": snapshot.weight_and_bias(plan.id)[0],
                    "bias": snapshot.weight_and_bias(plan.id)[1],
                    "target": plan.target.model_dump(exclude_none=True) if plan.target else None,
                    "on": on,
                    "switched_off": plan.id in publisher.switches.off,
                    "resting": bool(plan.id in snapshot.settings and snapshot.settings[plan.id].resting),
                }
                for plan, on in zip(snapshot.plans.plans, active, strict=True)
            ],
            "nearline": None
            if self.companion is None
            else {"status": self.companion.status, "failing": self.companion.failing},
            "log": None
            if self.journal is None
            else {
                "waiting": self.journal.waiting,
                "failed": self.journal.failed,
                "torn": self.journal.found.torn,
            },
        }

    async def requests(self, request: Request) -> Response:
        """GET /requests: those that can be explained."""
        return json_response([one.to_json() for one in self.recent.all()])

    async def explain(self, request: Request) -> Response:
        """GET /requests/ID: its list with the whole account, ranked again by the snapshot that ranked it."""
        served = self.recent.find(request.path_params["request"])
        if served is None:
            raise HttpError(404, "no_such_request", "it is not among the sampled requests of late")
        return json_response(await asyncio.to_thread(explained, served))

    async def what_if(self, request: Request) -> Response:
        """GET /what-if?plan=P&weight=W&bias=B&on=true: recent requests with a plan changed."""
        query = request.query_params
        return json_response(
            await asyncio.to_thread(
                self.supposed,
                query.get("plan", ""),
                number_of(query.get("weight"), "weight"),
                number_of(query.get("bias"), "bias"),
                query.get("on", "true") in ("true", "1"),
            )
        )

    def supposed(self, plan: str, weight: float | None, bias: float | None, on: bool) -> dict[str, Any]:
        """What recent requests would come to with another weight, bias or switch of a plan.

        Raises:
            HttpError: there is no such plan.
        """
        before = self.publisher.blender
        now = before.snapshot
        if plan not in now.plans.ids:
            raise HttpError(404, "no_such_plan", f"there is no plan {plan[:80]!r}", param="plan")
        old = now.weight_and_bias(plan)
        setting = Setting(old[0] if weight is None else weight, old[1] if bias is None else bias)
        changed = tuple(
            one.model_copy(update={"enabled": on}) if one.id == plan else one for one in now.plans.plans
        )
        plans = now.plans.model_copy(update={"plans": changed})
        after = Blender(now.next(created=now.created, plans=plans, settings={**now.settings, plan: setting}))
        return what_if(self.recent.all(), before, after)

    def _dry(self, plans: Plans) -> dict[str, Any]:
        before = self.publisher.blender
        now = before.snapshot
        settings = {plan: one for plan, one in now.settings.items() if plan in plans.ids}
        applied = self.publisher.switches.applied(plans)
        after = Blender(now.next(created=now.created, plans=applied, settings=settings))
        return what_if(self.recent.all(), before, after)


def explained(served: Served) -> dict[str, Any]:
    """A served request's list with the account of every item."""
    ranked = served.ranked()
    item = served.candidates.item
    return {
        "request": served.request,
        "at": served.at,
        "scene": served.candidates.scene,
        "candidates": len(served.candidates),
        "control": served.control,
        "version": ranked.version,
        "snapshot": ranked.snapshot,
        "dropped": dict(ranked.dropped),
        "slot_cost": ranked.slot_cost,
        "items": [
            {"item": item[ranked.order[place]]}
            | explanation(served.candidates, ranked, served.blender, place)
            for place in range(len(ranked))
        ],
    }


# -- helpers ----------------------------------------------------------------------------------------------------------


class _Metrics:
    """What the service counts beside what every service does."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        registry = feed.registry

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"noria_blending_{name}", what, list(labels), registry=registry)

        def gauge(name: str, what: str, value: Callable[[], float]) -> None:
            Gauge(f"noria_blending_{name}", what, registry=registry).set_function(value)

        publisher = feed.publisher
        gauge("snapshot_version", "Version that serves.", lambda: publisher.snapshot.version)
        gauge("snapshot_age_seconds", "Since it was made.", lambda: publisher.age)
        gauge("snapshot_stale", "1 if it is older than it may be.", lambda: float(publisher.stale))
        gauge("snapshots_rejected", "Snapshots refused since the start.", lambda: publisher.rejected)
        gauge(
            "mean_value", "Expected completions an exposure.", lambda: publisher.snapshot.alignment.mean_value
        )
        if feed.journal is not None:
            journal = feed.journal
            gauge("log_waiting_bytes", "Waiting for the disk.", lambda: journal.waiting)
            gauge("log_failed_frames", "Refused by the disk since the start.", lambda: journal.failed)
            gauge("log_torn_bytes", "Cut off at the start.", lambda: journal.found.torn)
        self._requests = counter("requests", "Ranked requests.", "form")
        self._by_form = {form: self._requests.labels(form) for form in ("rows", "columns", "arrow")}
        self._candidates = counter("candidates", "Candidates of ranked requests.")
        self._dropped = counter("dropped", "Candidates left out.", "reason")
        self._fallback = counter("fallback", "Candidates that another key's aligner stood in for.")
        self._absent = counter("requests_without_column", "Requests that lack a column a plan asks for.")
        self._clipped = counter("guard_clips", "Places of answered lists whose boost a guard changed.")
        self.events = counter("events", "Written into the log.", "kind")
        self.unlogged = counter("unlogged", "Requests whose events the log did not take.")
        self.malformed = counter("malformed", "Bodies that could not be read.")
        self._skewed = counter("clock_skew", "Events whose client's clock differs too much.")
        self.backward = counter("clock_backward", "Times that the service's own clock went back.")

    def ranked(self, form: str, ranked: Any, candidates: int) -> None:
        self._by_form[form].inc()
        self._candidates.inc(candidates)
        for reason, count in ranked.dropped.items():
            self._dropped.labels(reason).inc(count)
        if ranked.fallback:
            self._fallback.inc(ranked.fallback)
        if ranked.absent:
            self._absent.inc()
        clipped = int(np.count_nonzero(ranked.guard))
        if clipped:
            self._clipped.inc(clipped)

    def skew(self, client: float | None, at: float) -> bool:
        far = client is not None and abs(client - at) > self._feed.config.skew
        if far:
            self._skewed.inc()
        return far


def _share(lot: bytes, key: str) -> float:
    """A number in [0, 1) that is the key's own on every machine; those of different lots are independent.

    Two checksums such as CRC-32 of one key differ by a constant, so that whoever is in one lot is in the other, or not.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=lot).digest()
    return int.from_bytes(digest, "little") / 2**64


def number_of(text: str | None, where: str) -> float | None:
    """A weight or bias of a query; None where there is none.

    Raises:
        DataError: it is no number within bounds.
    """
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= 1e6:
        raise DataError(f"{text[:40]!r} is no weight or bias", where=where)
    return value


def _text(value: str | int, where: str) -> str:
    text = str(value)
    if not text or len(text) > wire.MAX_NAME:
        raise DataError(f"an id has 1 to {wire.MAX_NAME} characters", where=where)
    return text


def _actor(request: Request) -> str:
    """Who says that they are changing something; the token says only that they may."""
    text = request.headers.get("x-actor", "")
    return text if text.isprintable() and len(text) <= 64 else ""


def _json(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise DataError("not JSON", where="body") from None
    if not isinstance(values, dict):
        raise DataError("not a JSON object", where="body")
    return cast("dict[str, Any]", values)


def _typed(kind: Any, body: bytes) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DataError(str(error), where="body") from None
