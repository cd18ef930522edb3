"""The service: ranks requests, accepts impressions and outcomes, and lets its plans be changed.

```text
POST /rank, /rank/SCENE       a ranked list with the account of every item; ?explain=true for the whole of it
POST /impressions, /outcomes  what was shown, what came of it: on the disk before they are acknowledged
GET  /snapshot, /snapshots    what serves, and its versions
POST /snapshots, /plans, /switches, /rollback      change what serves
GET  /status, /requests, /requests/ID, /what-if
GET  /openapi.json            this, for programs
```

A decision is logged for callers with the token; `shown` in a request says that the first places count as shown at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from noria.blending.plans.plans import Plans
from noria.blending.service.companion import Companion
from noria.blending.service.config import ServeConfig
from noria.blending.service.journal.journal import Journal
from noria.blending.service.metrics import Metrics
from noria.blending.service.publishing import Publisher
from noria.blending.service.recent import ServedRequest
from noria.blending.service.traffic import Traffic, is_on
from noria.blending.service.whatif import what_if, with_plans, with_setting
from noria.blending.service.wire.intake import read_rollback, read_switch
from noria.blending.service.wire.openapi import description
from noria.blending.service.wire.requests import decoded
from noria.blending.snapshot import Snapshot
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
    read_json,
    route,
)

with needing("serve"):
    from prometheus_client import CollectorRegistry

log = logging.getLogger("noria.serving")


class Feed:
    """The blending service around one publisher and, if there is one, a log.

    Args:
        publisher: publisher of snapshots.
        config: settings of the service.
        journal: the log; without one no events are accepted.
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
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry, publisher, journal, skew=config.skew)
        self.traffic = Traffic(publisher, config, journal, metrics, clock)
        self.recent = self.traffic.recent
        self._clock = clock
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
        """The service to run, with further routes."""
        body = int(self.config.body_mib * 2**20)

        def change(path: str, endpoint: Endpoint, body_bytes: int | None = None) -> Route:
            return route(path, endpoint, methods=["POST"], access="write", body_bytes=body_bytes)

        routes = [
            route("/rank", self.traffic.rank, methods=["POST"], body_bytes=body),
            route("/rank/{scene}", self.traffic.rank, methods=["POST"], body_bytes=body),
            change("/impressions", self.traffic.impressions),
            change("/outcomes", self.traffic.outcomes),
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
        ]
        document = json.dumps(description(routes)).encode()

        async def openapi(request: Request) -> Response:
            return json_response(document)

        routes += [route("/openapi.json", openapi), *more]
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
        """Look for new snapshots. Whatever goes wrong, the snapshot that serves stays."""
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

    # what serves

    async def snapshot(self, request: Request) -> Response:
        """GET /snapshot: the whole snapshot that serves."""
        return json_response(self.publisher.snapshot.to_json())

    async def snapshots(self, request: Request) -> Response:
        """GET /snapshots: versions that are kept, and who changed what."""
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
        result = await asyncio.to_thread(_snapshot, await request.body())
        return await self._changed(lambda: self.publisher.adopt(result, who=_actor(request)))

    async def change_plans(self, request: Request) -> Response:
        """POST /plans: a plan file, YAML or JSON; with ?dry=true only what it would do to recent requests."""
        plans = await asyncio.to_thread(parse_config, Plans, await request.body(), where="body")
        if is_on(request.query_params.get("dry", "")):
            return json_response(await asyncio.to_thread(self._dry, plans))
        return await self._changed(lambda: self.publisher.change_plans(plans, who=_actor(request)))

    async def switch(self, request: Request) -> Response:
        """POST /switches: {on, plan}; without a plan all of them."""
        switch = decoded(read_switch, await request.body(), "no switch", where="body")
        if switch.plan is not None:
            _need_plan(switch.plan, self.publisher.base)
        return await self._changed(lambda: self.publisher.switch(switch.plan, switch.on, who=_actor(request)))

    async def roll_back(self, request: Request) -> Response:
        """POST /rollback: {version}."""
        version = decoded(read_rollback, await request.body(), "no version", where="body").version
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
        """GET /status: the state of the service."""
        return json_response(self.state())

    def state(self) -> dict[str, Any]:
        """State of the service: what serves, its plans, the loop, the log."""
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
                    "resting": snapshot.resting(plan.id),
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
                "set_aside": self.journal.found.aside,
            },
        }

    async def requests(self, request: Request) -> Response:
        """GET /requests: those that can be explained."""
        return json_response([one.to_json() for one in self.recent.all()])

    async def explain(self, request: Request) -> Response:
        """GET /requests/ID: its list with the whole account, ranked again by the snapshot that ranked it."""
        served = self.find(request.path_params["request"])
        return json_response(await asyncio.to_thread(served.explained))

    def find(self, name: str) -> ServedRequest:
        """A request that was sampled lately.

        Raises:
            HttpError: it is none.
        """
        served = self.recent.find(name)
        if served is None:
            raise HttpError(404, "no_such_request", "it is not among the sampled requests of late")
        return served

    async def what_if(self, request: Request) -> Response:
        """GET /what-if?plan=P&weight=W&bias=B&on=true: recent requests with a plan changed."""
        return json_response(await asyncio.to_thread(self.supposed, request.query_params))

    def supposed(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Recent requests ranked with another weight, bias or switch of a plan.

        Raises:
            HttpError: there is no such plan.
            DataError: a weight or bias is no number within bounds.
        """
        plan = query.get("plan", "")
        weight, bias = _number(query.get("weight"), "weight"), _number(query.get("bias"), "bias")
        before = self.publisher.blender
        _need_plan(plan, before.snapshot.plans)
        after = with_setting(before, plan, weight, bias, on=is_on(query.get("on", "true")))
        return what_if(self.recent.all(), before, after)

    def _dry(self, plans: Plans) -> dict[str, Any]:
        before = self.publisher.blender
        return what_if(self.recent.all(), before, with_plans(before, self.publisher.switches.applied(plans)))


def _number(text: str | None, where: str) -> float | None:
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


def _need_plan(plan: str, plans: Plans) -> None:
    if plan not in plans.ids:
        raise HttpError(404, "no_such_plan", f"there is no plan {plan[:80]!r}", param="plan")


def _actor(request: Request) -> str:
    """Who says that they are changing something; the token says only that they may."""
    text = request.headers.get("x-actor", "")
    return text if text.isprintable() and len(text) <= 64 else ""


def _snapshot(body: bytes) -> Snapshot:
    values = read_json(body)
    if not isinstance(values, dict):
        raise DataError("not a JSON object", where="body")
    return Snapshot.from_json(values, where="body")
