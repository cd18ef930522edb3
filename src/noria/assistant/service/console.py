"""The console: what serves now, every trace with why it was answered so, experiments, versions, and data.

Pages are made on the server and work without a script. What changes something is a form that carries the operator's
token: a browser sends a stored password also for a page of another origin, so it is not enough to change anything.
Texts of users and models are data, and escaped.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

from noria.assistant.service.bundles import CHAMPION, EXPERIMENT, SWITCHES, Bundles
from noria.assistant.service.operations import Operations, power_table
from noria.core.chat.outcomes import Failure
from noria.core.errors import DataError, NoriaError
from noria.core.experiments.lifecycle import OPEN, ExperimentConfig
from noria.core.experiments.sequential import SPLIT_ALPHA
from noria.core.learning.schedule import SWITCH
from noria.core.pages.charts import COLORS, Figure, theme
from noria.core.pages.report import environment, page_assets
from noria.core.service.responses import HttpError, html_response
from noria.core.service.serving import Request, Response, Route, asset, route
from noria.core.storage.control import StaleVersion
from noria.core.traces.datasets import SPLITS
from noria.core.traces.store import TraceStore, UnknownTrace
from noria.core.versions.artefacts import Artefact

PAGES = {
    "/": "Now",
    "/traces": "Traces",
    "/experiments": "Experiments",
    "/lineage": "Lineage",
    "/data": "Data",
}
"""Pages of the console by their path."""
LISTED = 50
DAY = 86_400


class Console:
    """The pages of a gateway.

    Args:
        store: traces.
        bundles: bundles, pointers, experiments and switches.
        operations: what a form changes.
    """

    def __init__(self, store: TraceStore, bundles: Bundles, operations: Operations) -> None:
        self.store, self.bundles, self.operations = store, bundles, operations
        self._templates = environment("noria.assistant")

    def routes(self) -> list[Route]:
        """The routes of the pages, of their forms, and of the files that they load."""
        shared = page_assets()
        home = files("noria.assistant") / "templates"
        style = shared["page.css"] + (home / "console.css").read_text(encoding="utf-8")
        pages: dict[str, Callable[[Request], Mapping[str, Any]]] = {
            "/": self.now,
            "/traces": self.traces,
            "/traces/{trace}": self.trace,
            "/experiments": self.experiments,
            "/lineage": self.lineage,
            "/data": self.data,
        }
        return [
            *(route(path, self._page(path, make)) for path, make in pages.items()),
            route(
                "/console/act", self.act, methods=("POST",), access="open", body_bytes=1 << 16, seconds=600.0
            ),
            asset("/assets/console.css", style, "text/css"),
            asset("/assets/vega.js", shared["vega.js"], "text/javascript"),
            asset("/assets/page.js", shared["page.js"], "text/javascript"),
        ]

    def _page(self, path: str, make: Callable[[Request], Mapping[str, Any]]) -> Any:
        template = {"/": "now.html", "/traces/{trace}": "trace.html"}.get(path, f"{path[1:]}.html")

        async def answer(request: Request) -> Response:
            try:
                content = await asyncio.to_thread(make, request)
            except UnknownTrace:
                return self._render("missing.html", status=404, path="/traces")
            return self._render(template, path=path, **content)

        return answer

    def _render(self, template: str, *, status: int = 200, path: str, **content: Any) -> Response:
        text = self._templates.get_template(template).render(
            pages=PAGES,
            path=path,
            themes={mode: theme(mode) for mode in COLORS},
            figures=content.pop("figures", []),
            said=content.pop("said", ""),
            **content,
        )
        return html_response(text, status=status, inline_styles=True)

    # -- pages --------------------------------------------------------------------------------------------------------

    def now(self, request: Request) -> Mapping[str, Any]:
        """What serves, how it goes, and what can be switched off."""
        lately = self.store.index.lately(time.time_ns() - DAY * 10**9)
        move = self.bundles.pointers.present(CHAMPION)
        names = self._names()
        experiments = [one for one in self._experiments() if one["stage"] in OPEN]
        scores = lately.scores
        mean = sum(scores) / len(scores) if scores else None
        spread = (
            1.96 * math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1) / len(scores))
            if mean is not None and len(scores) > 1
            else None
        )
        return {
            "lately": lately,
            "score": mean,
            "spread": spread,
            "move": move,
            "name": names.get(move.bundle) if move else None,
            "route": self.bundles.route_of(move.bundle) if move else None,
            "experiments": experiments,
            "switches": [self._switch(name) for name in SWITCHES],
            "unread": self.store.index.unread,
            "broken": self.store.journal.broken,
            "waiting": self.store.journal.waiting,
            "feedback": self.store.index.feedback_counts(),
        }

    def traces(self, request: Request) -> Mapping[str, Any]:
        """The newest traces."""
        given = {
            name: request.query_params.get(name) or None for name in ("before", "status", "bundle", "user")
        }
        rows = self.store.index.newest(
            limit=LISTED,
            before=given["before"],
            status=given["status"],
            bundle=given["bundle"],
            user=given["user"],
        )
        return {
            "rows": rows,
            "given": given,
            "names": self._names(),
            "more": rows[-1].id if len(rows) == LISTED else None,
        }

    def trace(self, request: Request) -> Mapping[str, Any]:
        """One trace, and why it was answered so."""
        view = self.store.read(request.path_params["trace"])
        trace = view.trace
        length = max(1, trace.ended - trace.began)
        spans = [
            {
                "span": span,
                "left": 100 * (span.began - trace.began) / length,
                "width": max(0.5, 100 * (span.ended - span.began) / length),
                "seconds": (span.ended - span.began) / 1e9,
                "messages": _messages(span.input),
                "answer": _message(span.output),
                "pictures": span.blobs,
            }
            for span in trace.spans
        ]
        try:
            one = self.bundles.route_of(trace.bundle)
        except DataError:
            one = None
        return {
            "view": view,
            "trace": trace,
            "spans": spans,
            "route": one,
            "name": self._names().get(trace.bundle),
            "bundles": [(bundle, name) for bundle, name in self._names().items() if bundle != trace.bundle],
        }

    def experiments(self, request: Request) -> Mapping[str, Any]:
        """Every experiment, with its interval over time."""
        found = self._experiments()
        figures = [self._over_time(one) for one in found if one.get("points")]
        move = self.bundles.pointers.present(CHAMPION)
        return {
            "experiments": found,
            "figures": figures[:3],
            "names": self._names(),
            "version": move.version if move else 0,
            "split_alpha": SPLIT_ALPHA,
        }

    def lineage(self, request: Request) -> Mapping[str, Any]:
        """Versions, where each is from, and every move of the champion."""
        moves = self.bundles.pointers.history(CHAMPION)[::-1]
        tree = descent(self.bundles.artefacts.artefacts())[:100]
        return {
            "moves": [
                {"move": one, "receipt": json.dumps(one.receipt, indent=1) if one.receipt else ""}
                for one in moves[:100]
            ],
            "artefacts": [one for one, _ in tree],
            "depths": {one.digest: depth for one, depth in tree},
            "names": self._names(),
            "version": moves[0].version if moves else 0,
        }

    def data(self, request: Request) -> Mapping[str, Any]:
        """What can be learnt from, and erasing a user."""
        lately = self.store.index.lately(0, most=10_000)
        return {
            "count": self.store.index.count(),
            "lately": lately,
            "feedback": self.store.index.feedback_counts(),
            "splits": [split for split in SPLITS if split != "final"],
        }

    def _names(self) -> dict[str, str]:
        return {bundle: name for name, bundle in self.bundles.named.items()}

    def _switch(self, name: str) -> dict[str, Any]:
        document = self.bundles.control.read(SWITCH, name)
        return {"name": name, "on": self.bundles.is_on(name), "lets": SWITCHES[name],
                "by": document.by if document else "", "at": document.at if document else None}  # fmt: skip

    def _experiments(self) -> list[dict[str, Any]]:
        found = []
        for document in self.bundles.control.read_all(EXPERIMENT):
            value = dict(document.value or {})
            config = ExperimentConfig.model_validate(value["config"])
            history = self.bundles.control.history(EXPERIMENT, document.key)
            found.append(
                value
                | {
                    "name": document.key,
                    "settings": config,
                    "power": power_table(config),
                    "began": history[0].at,
                    "by": history[0].by,
                    "open": value["stage"] in OPEN,
                    "reading": value.get("reading"),
                    "points": value.get("points", []),
                    "history": value.get("history", []),
                    "won": bool(value.get("won")),
                }
            )
        return sorted(found, key=lambda one: -one["began"])

    def _over_time(self, one: Mapping[str, Any]) -> Figure:
        rows = [
            {"units": units, "effect": effect, "low": low, "high": high}
            for units, effect, low, high in one["points"]
        ]
        x = {"field": "units", "type": "quantitative", "title": "users who were read"}
        spec = {
            "data": {"values": rows},
            "height": 220,
            "layer": [
                {"mark": {"type": "area", "opacity": 0.2}, "encoding": {
                    "x": x, "y": {"field": "low", "type": "quantitative", "title": "challenger less champion"},
                    "y2": {"field": "high"}}},
                {"mark": {"type": "line", "point": len(rows) < 60}, "encoding": {
                    "x": x, "y": {"field": "effect", "type": "quantitative"}}},
                {"mark": {"type": "rule", "strokeDash": [4, 4]}, "encoding": {"y": {"datum": 0}}},
            ],
        }  # fmt: skip
        primary = one["settings"].primary
        level = 100 * (1 - one["settings"].alpha / (1 + len(one["settings"].guardrails)))
        return Figure.chart(
            f"{one['name']}: {primary} over time",
            spec,
            f"The band is a confidence sequence: with a probability of {level:g} % it holds the true difference at all "
            "looks together. The test ends when it leaves 0, or at its planned number of users.",
        )

    # -- forms --------------------------------------------------------------------------------------------------------

    async def act(self, request: Request) -> Response:
        """Do what a form asks for, and go back to its page with a word on what came of it."""
        body = (await request.body()).decode("utf-8", "replace")
        fields = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=32))
        caller = request.app.caller_with(fields.get("token", "").strip().encode())
        back = fields.get("back", "/")
        back = back if back in PAGES else "/"
        if caller is None or "operate" not in caller.rights:
            return self._told(back, "This needs the operator's token.", status=401)
        try:
            if fields.get("action") == "replay":
                return await self._replayed(fields)
            said = await asyncio.to_thread(self._act, fields, caller.name)
        except StaleVersion:
            return self._told(back, "Somebody changed it meanwhile: look again, and decide anew.", status=409)
        except (NoriaError, HttpError) as error:
            return self._told(back, str(error), status=400)
        if fields.get("action") == "erase":
            erasure = await self.store.erase(fields.get("key", ""))
            said = f"{erasure.traces} traces of this user were erased, with {erasure.records} records."
        return self._told(back, said)

    async def _replayed(self, fields: Mapping[str, str]) -> Response:
        """The answer that another bundle gives to a trace's request, beside the one that was given; it is not kept."""
        try:
            trace = self.store.read(fields.get("trace", "")).trace
        except UnknownTrace:
            return self._render("missing.html", status=404, path="/traces")
        bundle = fields.get("bundle", "")
        one = await asyncio.to_thread(self.bundles.choice_of, bundle)
        outcome = await self.operations.gateway.replay(trace, one)
        given = next((span.output for span in trace.spans if span.kind == "chat"), None)
        return self._render(
            "replayed.html",
            path="/traces",
            trace=trace,
            bundle=bundle,
            names=self._names(),
            given=_message(given)["text"],
            outcome=outcome,
            failed=isinstance(outcome, Failure),
        )

    def _told(self, back: str, said: str, *, status: int = 200) -> Response:
        return self._render("told.html", status=status, path=back, said=said, failed=status != 200)

    def _act(self, fields: Mapping[str, str], by: str) -> str:
        action, name = fields.get("action"), fields.get("name", "")
        control = self.bundles.control
        if action == "switch" and name in SWITCHES:
            document = control.read(SWITCH, name)
            on = fields.get("on") == "true"
            control.write(SWITCH, name, {"on": on}, based_on=document.version if document else 0, by=by)
            said = f"{name} is {'on' if on else 'off'}."
        elif action == "roll back":
            move = self.bundles.move(None, based_on=_number(fields), by=by, reason=fields.get("reason", ""))
            said = f"Rolled back: move {move.version} serves bundle {move.bundle[:12]}."
        elif action == "promote":
            move = self.bundles.move(
                fields.get("bundle", ""), based_on=_number(fields), by=by, reason=fields.get("reason", "")
            )
            said = f"Promoted: move {move.version} serves bundle {move.bundle[:12]}."
        elif action == "stop":
            document = control.read(EXPERIMENT, name)
            if document is None or (document.value or {}).get("stage") not in OPEN:
                raise DataError("there is no such open experiment", where="experiment")
            value = dict(document.value or {}) | {
                "stage": "stopped",
                "reason": fields.get("reason") or "stopped by hand",
            }
            control.write(EXPERIMENT, name, value, based_on=document.version, by=by)
            said = f"{name} is stopped."
        elif action == "erase":
            return ""
        else:
            raise DataError("no such action", where="form")
        self.operations.refresh()
        return said


def descent(artefacts: Sequence[Artefact]) -> list[tuple[Artefact, int]]:
    """Artefacts below what they were made from, the newest family first, each with its depth."""
    by_digest = {one.digest: one for one in artefacts}
    below: dict[str, list[Artefact]] = {}
    first: list[Artefact] = []
    for one in artefacts:
        parents = [parent for parent in one.lineage.parents if parent in by_digest and parent != one.digest]
        (below.setdefault(parents[0], []) if parents else first).append(one)
    placed: list[tuple[Artefact, int]] = []
    waiting = [(one, 0) for one in first]  # the newest last, which is taken first
    while waiting:
        one, depth = waiting.pop()
        placed.append((one, depth))
        waiting += [(child, depth + 1) for child in below.get(one.digest, [])]
    return placed


def _number(fields: Mapping[str, str]) -> int:
    try:
        return int(fields.get("based_on", ""))
    except ValueError:
        raise DataError("the form lacks the version that it was made of", where="based_on") from None


def _messages(given: Any) -> list[dict[str, str]]:
    messages = given.get("messages") if isinstance(given, Mapping) else None
    return [_message(one) for one in messages or [] if isinstance(one, Mapping)]


def _message(one: Any) -> dict[str, str]:
    """A message as its role and one text; what is no text is named."""
    if not isinstance(one, Mapping):
        return {"role": "", "text": ""}
    content = one.get("content")
    if isinstance(content, list):
        pieces = [
            str(part.get("text", "")) if part.get("type") == "text" else f"[{part.get('type')}]"
            for part in content
            if isinstance(part, Mapping)
        ]
        text = "\n".join(pieces)
    else:
        text = str(content or "")
    if one.get("refusal"):
        text += f"\n[refused] {one['refusal']}"
    for call in one.get("tool_calls") or []:
        function = call.get("function", {}) if isinstance(call, Mapping) else {}
        text += f"\n[calls {function.get('name')}] {function.get('arguments')}"
    return {"role": str(one.get("role", "")), "text": text.strip()}
