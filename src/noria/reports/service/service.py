"""Endpoints of `noria reports serve`.

POST   /v1/reports                    {"request": "…", "plan"?, and settings that narrow the server's}: 202, a job
POST   /v1/reports/plan               the same fields: the plan by rules and its estimated cost; nothing is spent
POST   /v1/reports/{id}/refresh       settings: 202, the job of the same plan over newer sources
POST   /v1/reports/{id}/questions     {"question": "…", "number"?: 5}: an answer from the report's evidence
GET    /v1/jobs, /v1/jobs/{id}, …     the jobs of the core: progress by section, result, cancel
GET    /v1/reports/{id}/{file}        report.html, report.md, report.json, ledger.json, plan.json of a finished job;
                                      changes.json of a refresh; report.pdf, report.docx, report.bib, made on request
"""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from noria.core.completions.jobs import Jobs, Progress, accepted, whose
from noria.core.digests import digest_of
from noria.core.errors import DataError
from noria.core.fetching import offline
from noria.core.files import read_bytes, write_atomic
from noria.core.records import json_object, json_record
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response, Route, route
from noria.reports.agents.asking import Asker, SpentError
from noria.reports.agents.contracts import Plan, requirements
from noria.reports.agents.pipeline import Limits, Watch
from noria.reports.charts.drawing import missing_font, register_fonts
from noria.reports.document.bundle import Bundle, read_bundle
from noria.reports.document.exports import export
from noria.reports.evidence.records import decode, digest, encode
from noria.reports.finished.followup import answer, with_references
from noria.reports.finished.refreshing import finished
from noria.reports.jobs.making import open_job, outcome, plan_report, refresh_report
from noria.reports.service.config import ServeConfig
from noria.reports.service.narrowing import RULES, check_fields, narrowed

JSON = "application/json"
FILES = {
    "report.html": "text/html; charset=utf-8",
    "report.md": "text/markdown; charset=utf-8",
    "report.json": JSON,
    "ledger.json": JSON,
    "plan.json": JSON,
    "changes.json": JSON,
}
RENDERED = {
    "report.pdf": "application/pdf",
    "report.docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "report.bib": "text/plain; charset=utf-8",
}
"""Files that are rendered when they are asked for."""
LONGEST = 20_000
"""Most characters of a request or a question."""
MOST_SENTENCES = 50
"""Most sentences of an answer."""
BODY = 1 << 18
"""Most bytes of a body."""
MOST_QUERIES = 20
"""Most queries of a plan that a caller sends."""


class ReportService:
    """Reports as jobs, one after the other, within the operator's settings.

    Args:
        config: settings; a request narrows them.
        folder: folder of jobs and reports; the same request over the same corpus has the same folder, and
            resumes there.

    Raises:
        NoriaError: what would be wrong for every report: a damaged corpus, no source at all, a missing file or key.
    """

    def __init__(self, config: ServeConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.jobs = Jobs(folder / "jobs", waiting=config.waiting, keep=config.keep_days * 86_400)
        self._asking = (
            asyncio.Lock()
        )  # questions to a model are put one at a time: each adds to the report's costs
        if config.fonts is not None:
            register_fonts(config.fonts)
        with tempfile.TemporaryDirectory() as place:
            plan_report(config, config.index, Path(place), "facts", config.search())
            config.agents(Path(place)), config.countries(), config.style()

    @asynccontextmanager
    async def running(self, service: object = None) -> AsyncIterator[None]:
        """Open the jobs while the context lasts; with `offline` the process opens no connection."""
        async with self.jobs.running(service):
            if not self.config.offline:
                yield
                return
            with offline():
                yield

    def routes(self) -> list[Route]:
        """The routes of reports, and those of their jobs."""
        post = functools.partial(route, methods=("POST",), access="write", body_bytes=BODY)
        own = [
            post("/v1/reports", self._submit),
            post("/v1/reports/plan", self._plan, seconds=120.0),
            post("/v1/reports/{id}/refresh", self._refresh),
            post("/v1/reports/{id}/questions", self._question, seconds=600.0),
            route("/v1/reports/{id}/{file}", self._file, seconds=120.0),
        ]
        return [*own, *self.jobs.routes("write")]

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _submit(self, request: Request) -> Response:
        text, plan, asked = _wanted(json_record(await request.body(), "body"))
        config = narrowed(self.config, asked)
        config.agents(self.folder / "unused")  # a budget without prices is refused now
        work = functools.partial(self._write, config, text, plan, asked)
        return self._accepted("report", request, work)

    async def _plan(self, request: Request) -> Response:
        text, plan, asked = _wanted(json_record(await request.body(), "body"))
        config = narrowed(self.config, asked)

        def make() -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as place:
                if plan is not None:
                    write_atomic(Path(place) / "plan.json", encode(plan), sync=False)
                made, cost = plan_report(config, config.index, Path(place), text, config.search())
            return {"plan": msgspec.to_builtins(made), "estimate": msgspec.to_builtins(cost)}

        return json_response(await asyncio.to_thread(make))

    async def _refresh(self, request: Request) -> Response:
        body = json_record(await request.body() or b"{}", "body")
        report = self._home(request)
        finished(report)  # one that ended before it had a plan is refused now
        settings = report / "settings.json"
        asked = (json_object(settings, "the settings of a report") if settings.is_file() else {}) | body
        config = narrowed(self.config, asked)
        return self._accepted("refresh", request, functools.partial(self._renew, config, report, asked))

    async def _question(self, request: Request) -> Response:
        body = json_record(await request.body(), "body")
        check_fields(body, ("question", "number"))
        question, most = _words(body, "question"), body.get("number", 5)
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST_SENTENCES:
            raise DataError("not a number of sentences", where="number", mend=f"1 to {MOST_SENTENCES}")
        home = self._home(request)

        def given() -> dict[str, Any]:
            bundle, config = read_bundle(home), self.config
            spending = home / "stages" / "spending.json"
            asker = (
                Asker(config.server(), money=config.budget, tokens=config.tokens, file=spending)
                if config.url
                else None
            )
            return with_references(answer(question, bundle, asker, most=most), bundle)

        try:
            async with self._asking:
                return json_response(await asyncio.to_thread(given))
        except SpentError as error:
            raise HttpError(429, "budget_spent", str(error)) from None

    def _accepted(self, kind: str, request: Request, work: Callable[[Limits, Watch], Any]) -> Response:
        self._forget_old()
        return accepted(self.jobs.submit(kind, request.caller.name, functools.partial(self._work, work)))

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def _work(
        self, work: Callable[[Limits, Watch], dict[str, Any]], progress: Progress
    ) -> dict[str, Any]:
        limits, loop = Limits(self.config.seconds), asyncio.get_running_loop()

        def watch(share: float, what: str) -> None:
            loop.call_soon_threadsafe(progress, share, what)

        try:
            return await asyncio.to_thread(work, limits, watch)
        except asyncio.CancelledError:
            limits.stop.set()  # the thread ends at its next section
            raise

    def _write(
        self,
        config: ServeConfig,
        text: str,
        plan: Plan | None,
        asked: Mapping[str, Any],
        limits: Limits,
        watch: Watch,
    ) -> dict[str, Any]:
        home = self._new_home(config, asked, text, "" if plan is None else encode(plan))
        limits.seconds = config.seconds
        if plan is not None and not (home / "plan.json").is_file():
            home.mkdir(parents=True, exist_ok=True)
            write_atomic(home / "plan.json", encode(plan))
        opened = open_job(config, config.index, home, text, config.search(), limits=limits, watch=watch)
        with opened as (job, findings):
            bundle = job.write(text)
        return self._result(config, home, asked, bundle, findings)

    def _renew(
        self, config: ServeConfig, report: Path, asked: Mapping[str, Any], limits: Limits, watch: Watch
    ) -> dict[str, Any]:
        search = config.search()
        # What the web holds changes from day to day; a corpus changes its digest.
        day = date.today().isoformat() if search.wanted else ""
        home = self._new_home(config, asked, "refresh", report.name, day)
        limits.seconds = config.seconds
        bundle, findings, rows = refresh_report(
            config, config.index, report, home, search, limits=limits, watch=watch
        )
        return self._result(config, home, asked, bundle, findings) | {"changes": len(rows)}

    def _new_home(self, config: ServeConfig, asked: Mapping[str, Any], *parts: str) -> Path:
        """Folder of a report by all that it is made from."""
        corpus = "" if config.index is None else digest_of(config.index)
        key = "\x00".join([*parts, json.dumps(asked, sort_keys=True), corpus])
        return self.folder / "reports" / digest(key)[:32]

    def _result(
        self, config: ServeConfig, home: Path, asked: Mapping[str, Any], bundle: Bundle, findings: Any
    ) -> dict[str, Any]:
        write_atomic(home / "settings.json", json.dumps(asked))
        warning = missing_font(
            [bundle.report.title, "中文" if bundle.report.language == "zh" else ""], fonts=config.fonts
        )
        made, _ = outcome(bundle, home, findings)
        warnings = [warning] if warning else []
        return {"report": home.name, "title": bundle.report.title, **made, "warnings": warnings}

    # -- files --------------------------------------------------------------------------------------------------------

    def _home(self, request: Request) -> Path:
        """Folder of the finished report of a job of the caller; an operator sees every job.

        Raises:
            HttpError: 404, the caller has no such job; 409, it is not done; 410, it failed, or its report is there no
                more.
        """
        result = self.jobs.result(request.path_params["id"], whose(request))
        home = self.folder / "reports" / str(result["report"])
        if not (home / "report.json").is_file():
            raise HttpError(410, "gone", "this report is there no more")
        return home

    async def _file(self, request: Request) -> Response:
        name = request.path_params["file"]
        if name not in FILES | RENDERED:
            raise HttpError(404, "no_such_file", f"files: {', '.join(FILES | RENDERED)}")
        home = self._home(request)
        if name in RENDERED:
            kind = name.rpartition(".")[2]
            made = await asyncio.to_thread(lambda: export(read_bundle(home), kind, fonts=self.config.fonts))
            return Response(made, 200, {"content-type": RENDERED[name]})
        path = home / name
        if not path.is_file():
            raise HttpError(404, "no_such_file", f"this report has no {name}")
        raw = await asyncio.to_thread(read_bytes, path, limit=256_000_000)
        # The page brings a policy of its own, which lets its one script run and nothing be fetched.
        return Response(raw, 200, {"content-type": FILES[name]})

    def _forget_old(self) -> None:
        """Remove the folders of reports whose jobs are forgotten."""
        for home in (self.folder / "reports").glob("*"):
            if home.is_dir() and home.stat().st_mtime < time.time() - self.jobs.keep:
                shutil.rmtree(home, ignore_errors=True)


def _wanted(body: Mapping[str, Any]) -> tuple[str, Plan | None, dict[str, Any]]:
    """Request in words, plan and settings of a body.

    Raises:
        DataError: a field that is none, or no request in words.
    """
    check_fields(body, ("request", "plan", *RULES))
    plan = None
    if body.get("plan") is not None:
        plan = decode(json.dumps(body["plan"]), Plan, "plan")
        if len(plan.queries) > MOST_QUERIES or len(requirements(plan)) > 100:
            raise DataError("too many queries or visuals", where="plan", mend=f"at most {MOST_QUERIES}")
    asked = {name: value for name, value in body.items() if name in RULES}
    return _words(body, "request"), plan, asked


def _words(body: Mapping[str, Any], name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
        raise DataError(f"no {name} in words", where=name, mend=f"give 1 to {LONGEST:,} characters")
    return text
