"""Work spread over processes, remembered as it finishes.

`map_jobs` runs one function on many arguments in worker processes, each with one thread of arithmetic. What a job
returns is written down at once, so that a killed batch started again does only what was left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from noria.core.errors import NoriaError, RunError
from noria.core.files import write_atomic
from noria.core.progress import Progress, Task

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Finished:
    """A job's `result`, the `seconds` it took when it ran, and whether that was in an earlier run (`remembered`)."""

    result: Any
    seconds: float
    remembered: bool


def default_workers() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0))


def map_jobs(
    function: Callable[..., Any],
    jobs: Mapping[str, Sequence[Any]],
    *,
    folder: Path,
    progress: Progress,
    workers: int,
    version: str = "",
    label: str | None = None,
) -> list[Finished]:
    """Call `function(*arguments)` for each `{name: arguments}`.

    Args:
        function: a module's top-level function; returns JSON values. Inside it, `report(step, total, note)` shows
            progress.
        jobs: JSON arguments by a name for people. The name is no part of what is remembered, the arguments are.
        folder: where results are remembered, one file each.
        progress: where the batch reports.
        workers: processes; 0 runs the jobs here, one after the other.
        version: version of the code behind `function`. Another version forgets the results.
        label: what to call the batch.

    Returns:
        In the order of `jobs`.

    Raises:
        NoriaError: as a job raised it.
        RunError: a worker died (killed, out of memory).
    """
    names = list(jobs)
    files = [folder / f"{_key(function, jobs[name], version)}.json" for name in names]
    finished: dict[int, Finished] = {}
    for index, file in enumerate(files):
        known = _recall(file)
        if known is not None:
            finished[index] = known
    batch = progress.task(label or function.__name__, total=len(names))
    batch.at(len(finished), note=f"{len(finished)} remembered" if finished else None)
    todo = [index for index in range(len(names)) if index not in finished]
    started = _here if workers == 0 else _spawned
    with contextlib.closing(started(function, jobs, [names[i] for i in todo], progress, workers)) as running:
        for name, result, seconds in running:
            index = names.index(name)
            # Through JSON here too, so that a fresh result is what a remembered one will be.
            text = json.dumps({"result": result, "seconds": seconds, "name": name})
            write_atomic(files[index], text)
            finished[index] = Finished(json.loads(text)["result"], seconds, remembered=False)
            batch.advance(note=name)
    batch.done(note="")
    return [finished[index] for index in range(len(names))]


def report(step: int, total: int | None = None, note: str = "") -> None:
    """Tell how far the running job is. Outside of a job it does nothing."""
    if _report is not None:
        _report(step, total, note)


_report: Callable[[int, int | None, str], None] | None = None


def _key(function: Callable[..., Any], arguments: Sequence[Any], version: str) -> str:
    what = [function.__module__, function.__qualname__, version, list(arguments)]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _recall(file: Path) -> Finished | None:
    try:
        known = json.loads(file.read_bytes())
        return Finished(known["result"], float(known["seconds"]), remembered=True)
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # absent, or not ours: the job runs again
        return None


# --- in this process -----------------------------------------------------------------------------------------

_Results = Generator[tuple[str, Any, float], None, None]


def _here(
    function: Callable[..., Any],
    jobs: Mapping[str, Sequence[Any]],
    names: Sequence[str],
    progress: Progress,
    workers: int,
) -> _Results:
    global _report
    for name in names:
        task = progress.task(name)
        _report = _reporter(task)
        began = time.perf_counter()
        try:
            result = function(*jobs[name])
        finally:
            _report = None
        seconds = time.perf_counter() - began
        task.done()
        yield name, result, seconds


def _reporter(task: Task) -> Callable[[int, int | None, str], None]:
    def show(step: int, total: int | None, note: str) -> None:
        task.total = total
        task.at(step, note)

    return show


# --- in workers ----------------------------------------------------------------------------------------------


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    name: str = ""  # of the job it is at; none when empty
    task: Task | None = None


def _spawned(
    function: Callable[..., Any],
    jobs: Mapping[str, Sequence[Any]],
    names: Sequence[str],
    progress: Progress,
    workers: int,
) -> _Results:
    waiting = list(reversed(names))
    crew: list[_Worker] = []
    try:
        while len(crew) < min(workers, len(names)):
            crew.append(_start_worker())
            _give(crew[-1], function, jobs, waiting, progress)
        while any(worker.name for worker in crew):
            by_pipe = {worker.pipe: worker for worker in crew if worker.name}
            for pipe in wait(list(by_pipe)):
                worker = by_pipe[pipe]  # type: ignore[index]
                try:
                    kind, *content = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    raise _death(worker) from None
                if kind == "report":
                    assert worker.task is not None
                    _reporter(worker.task)(*content)
                elif kind == "error":
                    raise _as_raised(worker.name, *content)
                else:
                    name = worker.name
                    assert worker.task is not None
                    worker.task.done()
                    _give(worker, function, jobs, waiting, progress)
                    yield name, content[0], content[1]
    finally:
        for worker in crew:
            worker.process.kill()  # idle, or at a job that nobody waits for any more
            worker.pipe.close()
        for worker in crew:
            worker.process.join()


def _start_worker() -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of PyTorch half-alive
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
    with _environment(dict.fromkeys(_THREADS, "1")):
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _give(
    worker: _Worker,
    function: Callable[..., Any],
    jobs: Mapping[str, Sequence[Any]],
    waiting: list[str],
    progress: Progress,
) -> None:
    """The next job, if there is one."""
    worker.name = waiting.pop() if waiting else ""
    if worker.name:
        worker.task = progress.task(worker.name)
        try:
            worker.pipe.send((function, tuple(jobs[worker.name])))
        except BrokenPipeError:
            raise _death(worker) from None


def _death(worker: _Worker) -> RunError:
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    mend = "run the same command again to go on with what is left; with fewer --workers if memory ran out"
    return RunError(f"a worker process died {how}", where=worker.name, mend=mend)


def _as_raised(name: str, error: Exception | None, text: str) -> Exception:
    """A NoriaError as it was; anything else with the worker's traceback."""
    if isinstance(error, NoriaError):
        return error
    fault = error if error is not None else RuntimeError(text.strip().splitlines()[-1])
    fault.add_note(f"in the job {name!r}:\n{text}")
    return fault


def _work(pipe: Connection, parent: int) -> None:
    """A worker's life: one job after the other until the pipe closes."""
    global _report
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; the parent decides, and kills us
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    _report = lambda step, total, note: pipe.send(("report", step, total, note))  # noqa: E731
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            began = time.perf_counter()
            result = function(*arguments)
            pipe.send(("result", result, time.perf_counter() - began))
        except BrokenPipeError:
            return
        except Exception as error:
            pipe.send(("error", _picklable(error), traceback.format_exc()))


def _die_with(parent: int) -> None:
    """A parent that was killed closes no pipe of a job that is busy: watch for it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _picklable(error: Exception) -> Exception | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of any kind: what a foreign exception does when copied is not ours to know
        return None
    return error
