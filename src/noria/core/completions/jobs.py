"""Long work over HTTP: a job is accepted with 202, tells its progress, can be cancelled, and keeps its result.

A job's state is a file, written whole: after a restart its callers learn that it was interrupted, and finished results
are still there. Work runs in the event loop of the service, and what computes must leave the loop by itself.

    GET    /v1/jobs               the caller's jobs, newest first
    GET    /v1/jobs/{id}          state and progress
    GET    /v1/jobs/{id}/result   the result; 409 while there is none
    DELETE /v1/jobs/{id}          cancel it, or remove what is finished
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from noria.core.errors import DataError, NoriaError, caller_line
from noria.core.files import write_atomic
from noria.core.records import read_json as read_file
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Access, Request, Response, Route, route
from noria.core.traces.ids import is_id, new_id

T = TypeVar("T")
State = Literal["queued", "running", "done", "failed", "cancelled"]
Work = Callable[["Progress"], Awaitable[Any]]
"""Work of a job: it takes the means to tell its progress, and returns JSON values."""

PATIENCE = 5.0
"""Seconds for which a cancelled job is waited for before its state is told."""
log = logging.getLogger("noria.serving")


@dataclass(frozen=True)
class Job:
    """State of a job.

    Attributes:
        id: UUID of version 7.
        kind: kind of work, such as `report`.
        caller: name of the caller who submitted the job.
        state: how far it is.
        created: second since 1970.
        ended: second since 1970; None while it runs.
        progress: share that is done, from 0 to 1.
        message: present step of the work, or the reason of its failure, in a line.
    """

    id: str
    kind: str
    caller: str
    state: State
    created: float
    ended: float | None = None
    progress: float = 0.0
    message: str = ""


class Progress:
    """Receiver of a job's progress."""

    def __init__(self, set_: Callable[[float, str], None]) -> None:
        self._set = set_

    def __call__(self, share: float, message: str = "") -> None:
        """Tell the share that is done, from 0 to 1, and what is done now."""
        self._set(min(1.0, max(0.0, share)), " ".join(message.split())[:300])


class Jobs:
    """The jobs of a service, to be used from its event loop.

    Args:
        folder: folder of their files.
        at_once: number of jobs that run at once; the others wait in order.
        waiting: most jobs that may wait; one more is refused.
        keep: seconds for which a finished job is kept.
    """

    def __init__(
        self, folder: Path, *, at_once: int = 1, waiting: int = 64, keep: float = 7 * 86400.0
    ) -> None:
        self.folder, self.keep, self.waiting = Path(folder), keep, waiting
        self._places = asyncio.Semaphore(at_once)
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def open(self) -> None:
        """Read the jobs of the folder; those that an earlier process left unfinished are marked as failed.

        Raises:
            RunError: the disk refuses.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("*.json")):
            if path.name.endswith(".result.json"):
                continue
            try:
                job = Job(**read_file(path))
            except (DataError, TypeError):
                log.warning("%s holds no job, and is left alone", path)
                continue
            if job.state in ("queued", "running"):
                job = replace(
                    job, state="failed", ended=time.time(), message="the service ended before it was done"
                )
                self._write(job)
            self._jobs[job.id] = job
        self._forget_old()

    @contextlib.asynccontextmanager
    async def running(self, service: object = None) -> AsyncIterator[None]:
        """Open the jobs while the context lasts, as a service's `around`."""
        self.open()
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop what runs. It is marked as interrupted."""
        for task in self._tasks.values():
            task.cancel("stopping")
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def submit(self, kind: str, caller: str, work: Work) -> Job:
        """Accept a job, and run it when a place is free.

        Raises:
            HttpError: 503, too many wait.
            RunError: the disk refuses.
        """
        self._forget_old()
        if len(self._tasks) >= self.waiting:
            raise HttpError(
                503, "busy", f"{len(self._tasks)} jobs are waiting", headers={"retry-after": "60"}
            )
        job = Job(new_id(time.time_ns()), kind, caller, "queued", time.time())
        self._write(job)
        self._jobs[job.id] = job
        task = self._tasks[job.id] = asyncio.create_task(self._run(job.id, work))
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))
        return job

    def get(self, number: str, caller: str | None = None) -> Job:
        """The job with an id.

        Args:
            number: id of the job.
            caller: name of who asks; None for an operator, who sees every job.

        Raises:
            HttpError: 404, there is no such job of this caller.
        """
        job = self._jobs.get(number)
        if job is None or (caller is not None and job.caller != caller):
            raise HttpError(404, "no_such_job", "there is no such job")
        return job

    def result(self, number: str, caller: str | None = None) -> Any:
        """The result of a job.

        Raises:
            HttpError: 404, there is no such job; 409, it is not done; 410, it failed or was cancelled.
        """
        job = self.get(number, caller)
        if job.state in ("failed", "cancelled"):
            raise HttpError(410, f"job_{job.state}", job.message or f"the job was {job.state}")
        if job.state != "done":
            raise HttpError(409, "not_done", f"the job is {job.state}", headers={"retry-after": "2"})
        return read_file(self._result(number))

    async def cancel(self, number: str, caller: str | None = None) -> Job:
        """Cancel a job that waits or runs, or remove one that ended.

        A job that cannot end at once is still `running` then, and keeps its place until it has ended.
        """
        job = self.get(number, caller)
        task = self._tasks.get(number)
        if task is None:
            self._remove(job)
            return job
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)
        return self._jobs[number]

    async def _run(self, number: str, work: Work) -> None:
        def set_progress(share: float, message: str) -> None:
            self._jobs[number] = replace(self._jobs[number], progress=share, message=message)

        try:
            async with self._places:
                self._change(number, state="running")
                result = await work(Progress(set_progress))
                text = json.dumps(result, allow_nan=False)
                await asyncio.to_thread(write_atomic, self._result(number), text)
            self._change(number, state="done", progress=1.0, message="", ended=time.time())
        except asyncio.CancelledError as error:
            stopping = "stopping" in error.args
            state: State = "failed" if stopping else "cancelled"
            message = "the service ended before it was done" if stopping else "cancelled by its caller"
            with contextlib.suppress(NoriaError):
                self._change(number, state=state, message=message, ended=time.time())
        except NoriaError as error:
            log.warning("job %s failed: %s", number, error)
            self._change(number, state="failed", message=caller_line(error), ended=time.time())
        except Exception:
            log.exception("job %s failed", number)
            self._change(
                number, state="failed", message="it failed; the service's log says why", ended=time.time()
            )

    def _change(self, number: str, **changes: Any) -> None:
        self._jobs[number] = job = replace(self._jobs[number], **changes)
        self._write(job)

    def _write(self, job: Job) -> None:
        write_atomic(self.folder / f"{job.id}.json", json.dumps(asdict(job)))

    def _result(self, number: str) -> Path:
        assert is_id(number)
        return self.folder / f"{number}.result.json"

    def _remove(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        self._result(job.id).unlink(missing_ok=True)
        (self.folder / f"{job.id}.json").unlink(missing_ok=True)

    def _forget_old(self) -> None:
        limit = time.time() - self.keep
        for job in [job for job in self._jobs.values() if job.ended is not None and job.ended < limit]:
            self._remove(job)

    # -- over HTTP ----------------------------------------------------------------------------------------------------

    def routes(self, access: Access = "chat") -> list[Route]:
        """The routes of the jobs. A caller sees its own, an operator all."""
        return [
            route("/v1/jobs", self._list, access=access),
            route("/v1/jobs/{id}", self._one, methods=("GET", "DELETE"), access=access),
            route("/v1/jobs/{id}/result", self._outcome, access=access),
        ]

    async def _list(self, request: Request) -> Response:
        caller = whose(request)
        jobs = [job for job in self._jobs.values() if caller is None or job.caller == caller]
        return json_response({"object": "list", "data": [asdict(job) for job in reversed(jobs[-200:])]})

    async def _one(self, request: Request) -> Response:
        number = request.path_params["id"]
        if request.method == "DELETE":
            return json_response(asdict(await self.cancel(number, whose(request))))
        return json_response(asdict(self.get(number, whose(request))))

    async def _outcome(self, request: Request) -> Response:
        return json_response(self.result(request.path_params["id"], whose(request)))


async def in_thread(work: Callable[[threading.Event], T]) -> T:
    """Compute in a thread. Where the job is cancelled, it ends only when the thread has: what both use is free then.

    Args:
        work: called with an event that is set once its result is no longer wanted.
    """
    unwanted = threading.Event()
    computing = asyncio.ensure_future(asyncio.to_thread(work, unwanted))
    try:
        return await asyncio.shield(computing)
    except asyncio.CancelledError:
        unwanted.set()
        while not computing.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([computing])
        computing.exception()  # it ended as it was told to
        raise


def accepted(job: Job) -> Response:
    """The answer to a request that became a job: 202 and where to look."""
    place = f"/v1/jobs/{job.id}"
    return json_response(asdict(job), status=202, headers={"location": place, "retry-after": "2"})


def whose(request: Request) -> str | None:
    """Name of the caller whose jobs a request may see; None for an operator, who sees all."""
    return None if "operate" in request.caller.rights else request.caller.name
