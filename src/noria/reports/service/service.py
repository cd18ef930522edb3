"""Endpoints of `noria reports serve`.

POST   /v1/reports                    {"request": "…", "seconds": 60}: 202, a job
GET    /v1/jobs, /v1/jobs/{id}, …     the jobs of the core: progress, result, cancel
GET    /v1/reports/{id}/{file}        report.html, report.md, report.json, ledger.json of a finished job
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from noria.core.completions.jobs import Jobs, Progress, accepted
from noria.core.errors import DataError
from noria.core.files import read_bytes
from noria.core.records import json_record
from noria.core.service.responses import HttpError
from noria.core.service.serving import Request, Response, Route, Service, route
from noria.reports.agents.pipeline import Job, Limits
from noria.reports.checking.verify import verify_bundle
from noria.reports.document.blocks import figures
from noria.reports.evidence.records import digest
from noria.reports.search.index import Index

FILES = {
    "report.html": "text/html; charset=utf-8",
    "report.md": "text/markdown; charset=utf-8",
    "report.json": "application/json",
    "ledger.json": "application/json",
}
LONGEST = 20_000
"""Most characters of a request."""


class ReportService:
    """Reports as jobs over one index.

    Args:
        index: file of the index.
        folder: folder of jobs and reports; the same request has the same folder, and resumes there.
        seconds: most seconds of a report.
    """

    def __init__(self, index: Path, folder: Path, *, seconds: float = 600.0) -> None:
        with Index(index):
            pass  # a damaged index is refused before anything listens
        self.index, self.folder, self.seconds = index, folder, seconds
        self.jobs = Jobs(folder / "jobs")
        self._folders: dict[str, Path] = {}

    def routes(self) -> list[Route]:
        """The routes of reports, and those of their jobs."""
        own = [
            route("/v1/reports", self._submit, methods=("POST",), access="write", body_bytes=1 << 18),
            route("/v1/reports/{id}/{file}", self._file),
        ]
        return [*own, *self.jobs.routes("write")]

    @contextlib.asynccontextmanager
    async def around(self, service: Service) -> AsyncIterator[None]:
        """Open the jobs while the service runs."""
        self.jobs.open()
        try:
            yield
        finally:
            await self.jobs.close()

    async def _submit(self, request: Request) -> Response:
        body = json_record(await request.body(), "body")
        text, seconds = body.get("request"), body.get("seconds", self.seconds)
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
            raise DataError("no request in words", where="request", mend=f"give 1 to {LONGEST:,} characters")
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not 0 < seconds <= self.seconds
        ):
            raise DataError(
                "seconds out of range", where="seconds", mend=f"above 0, at most {self.seconds:g}"
            )
        if unknown := sorted(body.keys() - {"request", "seconds"}):
            raise DataError(f"no field {unknown[0]!r}", where="body", mend="fields: request, seconds")
        job = self.jobs.submit(
            "report", request.caller.name, functools.partial(self._work, text, float(seconds))
        )
        return accepted(job)

    async def _work(self, text: str, seconds: float, progress: Progress) -> dict[str, Any]:
        limits = Limits(seconds)
        progress(0.05, "writing")
        try:
            return await asyncio.to_thread(self._write, text, limits)
        except asyncio.CancelledError:
            limits.stop.set()  # the thread ends at its next section
            raise

    def _write(self, text: str, limits: Limits) -> dict[str, Any]:
        home = self.folder / "reports" / digest(text)[:32]
        home.mkdir(parents=True, exist_ok=True)
        with Index(self.index) as index:
            bundle = Job(home, index, limits=limits).write(text)
        findings = verify_bundle(home).findings
        return {
            "report": home.name,
            "title": bundle.report.title,
            "figures": len(figures(bundle.report)),
            "sources": len(bundle.book.sources),
            "missing": [f"{one.what}: {one.why}" for one in bundle.report.missing],
            "stopped": bundle.report.stopped,
            "findings": len(findings),
        }

    async def _file(self, request: Request) -> Response:
        name = request.path_params["file"]
        if name not in FILES:
            raise HttpError(404, "no_such_file", f"files: {', '.join(FILES)}")
        result = self.jobs.result(request.path_params["id"])
        raw = read_bytes(self.folder / "reports" / str(result["report"]) / name, limit=256_000_000)
        # The page brings a policy of its own, which lets its one script run and nothing be fetched.
        return Response(raw, 200, {"content-type": FILES[name]})
