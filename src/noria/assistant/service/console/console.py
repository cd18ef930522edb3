"""The pages of the console and their routes.

Pages are made on the server and work without a script. Texts of users and models are data, and escaped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from noria.assistant.service.bundles import Bundles
from noria.assistant.service.console.experiments import ExperimentPages
from noria.assistant.service.console.forms import BODY_BYTES, HOME, SECONDS, Forms
from noria.assistant.service.console.judges import JudgePages
from noria.assistant.service.console.pages import GatewayPages
from noria.assistant.service.console.parts import PartPages
from noria.assistant.service.console.skills import SkillPages
from noria.assistant.service.feedback import Conversations
from noria.assistant.service.operations import Operations
from noria.core.pages.charts import COLORS, theme
from noria.core.pages.report import environment, page_assets
from noria.core.service.responses import html_response
from noria.core.service.serving import Request, Response, Route, asset, route
from noria.core.traces.store import TraceStore, UnknownTrace

Make = Callable[[Request], Mapping[str, Any]]
"""Makes the content of a page."""


class Console:
    """The pages of a gateway.

    Args:
        store: traces.
        bundles: bundles, pointers, experiments and switches.
        operations: what a form changes.
        conversations: traces at all gateways, for an erasure.
    """

    def __init__(
        self, store: TraceStore, bundles: Bundles, operations: Operations, conversations: Conversations
    ) -> None:
        gateway, skills = GatewayPages(store, bundles, operations), SkillPages(store, bundles)
        self._pages: dict[str, tuple[str, str, Make]] = {
            HOME: ("Now", "now.html", gateway.now),
            "/traces": ("Traces", "traces.html", gateway.traces),
            "/skills": ("Skills", "skills.html", skills.skills),
            "/parts": ("Parts", "contributions.html", PartPages(store, bundles).parts),
            "/experiments": ("Experiments", "experiments.html", ExperimentPages(bundles).experiments),
            "/judges": ("Judges", "judges.html", JudgePages(store, bundles.config).judges),
            "/lineage": ("Lineage", "lineage.html", gateway.lineage),
            "/data": ("Data", "data.html", gateway.data),
        }
        self._trace = gateway.trace
        self._forms = Forms(bundles, operations, conversations, self._render, self._pages)
        self._templates = environment("noria.assistant")

    def routes(self) -> list[Route]:
        """The routes of the pages, of their forms, and of the files that they load."""
        shared = page_assets()
        home = files("noria.assistant") / "templates"
        style = shared["page.css"] + (home / "console.css").read_text(encoding="utf-8")
        act = self._forms.act
        return [
            *(route(path, self._page(path, file, make)) for path, (_, file, make) in self._pages.items()),
            route("/traces/{trace}", self._page("/traces/{trace}", "trace.html", self._trace)),
            route(
                "/console/act", act, methods=("POST",), access="open", body_bytes=BODY_BYTES, seconds=SECONDS
            ),
            asset("/assets/console.css", style, "text/css"),
            asset("/assets/vega.js", shared["vega.js"], "text/javascript"),
            asset("/assets/page.js", shared["page.js"], "text/javascript"),
        ]

    def _page(self, path: str, template: str, make: Make) -> Any:
        async def answer(request: Request) -> Response:
            try:
                content = await asyncio.to_thread(make, request)
            except UnknownTrace:
                return self._render("missing.html", status=404, path="/traces")
            return self._render(template, path=path, **content)

        return answer

    def _render(self, template: str, *, status: int = 200, path: str, **content: Any) -> Response:
        text = self._templates.get_template(template).render(
            pages={where: name for where, (name, *_) in self._pages.items()},
            path=path,
            themes={mode: theme(mode) for mode in COLORS},
            figures=content.pop("figures", []),
            said=content.pop("said", ""),
            **content,
        )
        return html_response(text, status=status, inline_styles=True)
