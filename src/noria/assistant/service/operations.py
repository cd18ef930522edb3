"""Endpoints of operators: bundles, the champion, experiments, switches, replays, and data sets to take out."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from noria.assistant.folder import data_salt, dataset_rows
from noria.assistant.service.bundles import CHAMPION, EXPERIMENT, SWITCHES, Bundles
from noria.assistant.service.extras import all_off
from noria.assistant.service.gateway import Gateway
from noria.core.config import load_config
from noria.core.errors import DataError, MissingExtra, require
from noria.core.experiments.lifecycle import OPEN
from noria.core.learning.routes.route import Route
from noria.core.learning.scheduling.schedule import SWITCH
from noria.core.service.responses import HttpError, json_response, read_json
from noria.core.service.serving import Request, Response, Route as HttpRoute, route
from noria.core.storage.control import StaleVersion
from noria.core.traces.datasets import SPLITS, Layout, write_dataset
from noria.core.traces.store import UnknownTrace


class Operations:
    """Endpoints that change what serves; each change says which version it is based on.

    Args:
        bundles: bundles, pointers and experiments.
        gateway: takes over what was changed.
    """

    def __init__(self, bundles: Bundles, gateway: Gateway) -> None:
        self.bundles, self.gateway = bundles, gateway

    def routes(self) -> list[HttpRoute]:
        """The routes of the endpoints."""
        return [
            route("/v1/bundles", self.list_bundles),
            route("/v1/bundles", self.add_bundle, methods=("POST",), access="write"),
            route("/v1/champion", self.champion),
            route("/v1/promote", self.promote, methods=("POST",), access="write"),
            route("/v1/rollback", self.roll_back, methods=("POST",), access="write"),
            route("/v1/experiments", self.list_experiments),
            route("/v1/experiments", self.start, methods=("POST",), access="write"),
            route("/v1/experiments/{name}/stop", self.stop, methods=("POST",), access="write"),
            route("/v1/tools", self.list_tools),
            route("/v1/off", self.list_off),
            route("/v1/switches", self.list_switches),
            route("/v1/switches/{name}", self.turn, methods=("PUT",), access="write"),
            route("/v1/traces/{trace}/replay", self.replay, methods=("POST",), access="write", seconds=600.0),
            route("/v1/datasets/{file}", self.dataset, access="write", seconds=600.0),
        ]

    async def list_tools(self, request: Request) -> Response:
        """The tools and started backends, those that are off with the reason, and the servers that were started."""
        return json_response(self.tools())

    def tools(self) -> dict[str, Any]:
        """The tools by name, as JSON values."""
        tools, started = self.gateway.tools, self.gateway.started.listed()
        off = {} if tools is None else tools.off()
        servers = {one["name"]: one for one in started}
        data = [
            {"name": name, "kind": one.kind, "off": off.get(name), "server": servers.get(name)}
            for name, one in self.gateway.config.parts.tools.items()
        ]
        data += [
            {"name": name, "kind": "backend", "server": servers[name],
             "off": None if servers[name]["state"] == "serving" else servers[name]["state"]}
            for name in self.gateway.config.start
        ]  # fmt: skip
        return {"object": "list", "data": data}

    async def list_off(self, request: Request) -> Response:
        """What of the configuration is off since an extra is not installed, with what mends it."""
        data = [{"name": name, "why": why} for name, why in self.off().items()]
        return json_response({"object": "list", "data": data})

    def off(self) -> dict[str, str]:
        """What of the configuration is off since an extra is not installed, by its name, with what mends it."""
        serving = self.gateway.serving
        return all_off(self.gateway.config, {} if serving is None else serving.champion.off)

    # -- bundles ------------------------------------------------------------------------------------------------------

    async def list_bundles(self, request: Request) -> Response:
        """Every bundle that is kept, newest last; one that cannot serve here says why."""

        def read() -> list[dict[str, Any]]:
            names = {bundle: name for name, bundle in self.bundles.named.items()}
            made = {one.digest: one.lineage for one in self.bundles.artefacts.artefacts()}
            found = []
            for bundle in self.bundles.artefacts.bundles():
                lineages = [made[one] for one in bundle.artefacts.values() if one in made]
                if len(lineages) < len(bundle.artefacts):
                    continue  # removed meanwhile
                route, fault = None, None
                try:
                    route = self.bundles.route_of(bundle.digest).model_dump(mode="json")
                except DataError as error:
                    fault = str(error)
                found.append(
                    {
                        "bundle": bundle.digest,
                        "name": names.get(bundle.digest),
                        "route": route,
                        "fault": fault,
                        "artefacts": dict(bundle.artefacts),
                        "lineage": asdict(max(lineages, key=lambda one: one.at)),
                    }
                )
            return sorted(found, key=lambda one: (one["lineage"]["at"], one["bundle"]))

        return json_response({"object": "list", "data": await asyncio.to_thread(read)})

    async def add_bundle(self, request: Request) -> Response:
        """Keep a route as a bundle, without serving it."""
        one = load_config(Route, options={n: (n, v) for n, v in (await _fields(request)).items()})
        if one.backend not in self.bundles.config.backends:
            raise HttpError(400, "no_backend", f"there is no backend {one.backend!r}", param="backend")
        bundle = await asyncio.to_thread(self.bundles.keep, one, by=request.caller.name)
        return json_response({"bundle": bundle.digest}, status=201)

    async def champion(self, request: Request) -> Response:
        """The serving bundle, and every promotion and roll-back that led to it."""
        history = await asyncio.to_thread(self.bundles.pointers.history, CHAMPION)
        return json_response({"present": history[-1] if history else None, "history": history})

    async def promote(self, request: Request) -> Response:
        """Let a bundle serve."""
        fields = await _fields(request)
        bundle, reason = fields.get("bundle"), fields.get("reason", "")
        if not isinstance(bundle, str) or not isinstance(reason, str):
            raise HttpError(400, "bad_bundle", "bundle is a content hash, and reason a text", param="bundle")
        bundle = self.bundles.named.get(bundle, bundle)
        return await self._move(bundle, fields, reason, request.caller.name)

    async def roll_back(self, request: Request) -> Response:
        """Go back to the bundle before."""
        fields = await _fields(request)
        return await self._move(None, fields, str(fields.get("reason", "")), request.caller.name)

    async def _move(self, bundle: str | None, fields: Mapping[str, Any], reason: str, by: str) -> Response:
        based_on = fields.get("based_on")
        if type(based_on) is not int or based_on < 0:
            raise HttpError(
                400,
                "bad_based_on",
                "based_on is the version that you have seen; see /v1/champion",
                param="based_on",
            )
        try:
            move = await asyncio.to_thread(
                self.bundles.move_by_hand, bundle, based_on=based_on, by=by, reason=reason[:1000]
            )
        except StaleVersion as error:
            raise HttpError(409, "stale", str(error), param="based_on") from None
        self.refresh()
        return json_response(move)

    def refresh(self) -> None:
        """Let the gateway serve the bundles that the control documents name now."""
        self.gateway.serving = self.bundles.serving()

    # -- experiments --------------------------------------------------------------------------------------------------

    async def list_experiments(self, request: Request) -> Response:
        """Every experiment with its stage, its last reading, and why it is there."""
        documents = self.bundles.control.read_all(EXPERIMENT)
        data = [
            {"name": one.key, "version": one.version, "at": one.at, **(one.value or {})} for one in documents
        ]
        return json_response({"object": "list", "data": data})

    async def start(self, request: Request) -> Response:
        """Start an experiment; the answer has its power, to be read before the traffic is spent."""
        fields = await _fields(request)
        config = await asyncio.to_thread(self.bundles.start, fields, by=request.caller.name)
        self.refresh()
        return json_response(
            {"experiment": config.model_dump(mode="json"), "power": power_table(config)}, status=201
        )

    async def stop(self, request: Request) -> Response:
        """End an experiment without a winner."""
        fields = await _fields(request)
        name = request.path_params["name"]
        document = self.bundles.control.read(EXPERIMENT, name)
        if document is None or document.value is None:
            raise HttpError(404, "no_such_experiment", "there is no such experiment")
        if document.value.get("stage") not in OPEN:
            raise HttpError(409, "not_open", f"it is {document.value.get('stage')}")
        reason = str(fields.get("reason", "")) or "stopped by hand"
        value = document.value | {"stage": "stopped", "reason": reason[:1000]}
        self.bundles.control.write(EXPERIMENT, name, value, based_on=document.version, by=request.caller.name)
        self.refresh()
        return json_response({"name": name, "stage": "stopped"})

    def comparison(self) -> dict[str, Any]:
        """The serving bundle, and the readings of the experiments with its challengers."""
        move = self.bundles.pointers.present(CHAMPION)
        names = {bundle: name for name, bundle in self.bundles.named.items()}
        experiments = [
            {
                "name": one.key,
                **{k: v for k, v in (one.value or {}).items() if k not in ("points", "history")},
            }
            for one in self.bundles.control.read_all(EXPERIMENT)
        ]
        return {
            "champion": None if move is None else asdict(move),
            "names": names,
            "experiments": experiments,
        }

    # -- switches -----------------------------------------------------------------------------------------------------

    async def list_switches(self, request: Request) -> Response:
        """The switches, and what each lets happen."""
        data = [{"name": n, "on": self.bundles.is_on(n), "lets": what} for n, what in SWITCHES.items()]
        return json_response({"object": "list", "data": data})

    async def turn(self, request: Request) -> Response:
        """Turn a switch on or off."""
        name, fields = request.path_params["name"], await _fields(request)
        if name not in SWITCHES:
            raise HttpError(404, "no_such_switch", f"switches are {', '.join(SWITCHES)}")
        if not isinstance(fields.get("on"), bool):
            raise HttpError(400, "bad_switch", "on is true or false", param="on")
        document = self.bundles.control.read(SWITCH, name)
        based_on = 0 if document is None else document.version
        self.bundles.control.write(
            SWITCH, name, {"on": fields["on"]}, based_on=based_on, by=request.caller.name
        )
        self.refresh()
        return json_response({"name": name, "on": fields["on"]})

    # -- replays and data ---------------------------------------------------------------------------------------------

    async def replay(self, request: Request) -> Response:
        """Answer a trace's request by another bundle; nobody but the caller sees the answer, and nothing is kept."""
        bundle = request.query_params.get("bundle", "")
        bundle = self.bundles.named.get(bundle, bundle)
        one = await asyncio.to_thread(self.bundles.choice_of, bundle)
        try:
            trace = self.gateway.store.read(request.path_params["trace"]).trace
        except UnknownTrace:
            raise HttpError(404, "no_such_trace", "there is no such trace") from None
        outcome = await self.gateway.replay(trace, one)
        return json_response({"trace": trace.id, "bundle": bundle, "outcome": outcome})

    async def dataset(self, request: Request) -> Response:
        """Rows to learn from, as `sft.jsonl`, `preferences.parquet`, `prompts.jsonl`; `?split=train`."""
        stem, _, ending = request.path_params["file"].rpartition(".")
        split = request.query_params.get("split", "train")
        if stem not in get_args(Layout) or ending not in ("jsonl", "parquet"):
            names = ", ".join(get_args(Layout))
            raise HttpError(404, "no_such_dataset", f"data sets are {names}, as .jsonl or .parquet")
        if split not in SPLITS or split == "final":
            raise HttpError(
                400, "bad_split", f"splits are {', '.join(s for s in SPLITS if s != 'final')}", param="split"
            )

        def make() -> tuple[bytes, str, int]:
            salt = data_salt(self.bundles.control)
            chosen, _, lost = dataset_rows(self.gateway.store.folder, salt, stem, split)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{stem}.{ending}"
                digest = write_dataset(path, chosen)
                return path.read_bytes(), digest, lost

        try:
            if ending == "parquet":
                require("pyarrow", "traces")
            content, digest, lost = await asyncio.to_thread(make)
        except DataError as error:
            raise HttpError(409, "no_rows", str(error)) from None
        except MissingExtra as error:
            raise HttpError(501, "not_installed", str(error)) from None
        kind = "application/jsonl" if ending == "jsonl" else "application/vnd.apache.parquet"
        headers = {"content-type": kind, "x-noria-sha256": digest, "cache-control": "no-store"}
        return Response(content, 200, headers | {"x-noria-chats-in-no-split": str(lost)})


def power_table(config: Any) -> list[dict[str, Any]]:
    """Chance that an experiment finds an effect of each size by its end, for a rate of one half."""
    from noria.core.experiments.power import proportion_variance, sequential_power

    variance = proportion_variance(0.5)
    return [
        {
            "effect": effect,
            "power": sequential_power(
                config.planned, effect, (variance, variance), share=config.share, alpha=config.alpha
            ),
        }
        for effect in (0.01, 0.02, 0.05, 0.1)
    ]


async def _fields(request: Request) -> dict[str, Any]:
    body = await request.body()
    fields = read_json(body) if body else {}
    if not isinstance(fields, dict):
        raise HttpError(400, "bad_json", "the body is not a JSON object")
    return fields
