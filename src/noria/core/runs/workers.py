"""Jobs over worker processes, whose results are kept on disk.

`map_jobs` runs one function on many arguments in worker processes, each with one thread of arithmetic. The result of a
job is written at once, so that a killed batch, started again, runs only the jobs that are left.
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

from noria.core.errors import DataError, NoriaError, RunError
from noria.core.files import write_atomic
from noria.core.progress import Progress, Task
from noria.core.records import read_json

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Finished:
    """A finished job.

    Attributes:
        result: return value of the job, as JSON values.
        seconds: time that the job took when it ran.
        remembered: whether an earlier batch ran it.
    """

    result: Any
    seconds: float
    remembered: bool


def default_workers() -> int:
    """Number of processors that this process may use."""
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
        jobs: JSON arguments of each job, by a name for people. A result is kept by the arguments, not by the name.
        folder: folder of the kept results, one file each.
        progress: where the batch reports its progress.
        workers: number of processes; 0 runs the jobs in this one, one after the other.
        version: version of the code behind `function`; another version runs the jobs anew.
        label: name of the batch in the progress.

    Returns:
        Finished jobs in the order of `jobs`.

    Raises:
        NoriaError: a job raised it.
        RunError: a worker died (killed, out of memory).
    """
    files = {name: folder / f"{_key(function, arguments, version)}.json" for name, arguments in jobs.items()}
    finished = {name: kept for name, file in files.items() if (kept := _recall(file)) is not None}
    batch = progress.task(label or function.__name__, total=len(jobs))
    batch.at(len(finished), note=f"{len(finished)} remembered" if finished else None)
    waiting = {name: arguments for name, arguments in jobs.items() if name not in finished}
    start = _here if workers == 0 else _spawned
    with contextlib.closing(start(function, waiting, progress, workers)) as results:
        for name, result, seconds in results:
            # Through JSON here too, so that a fresh result equals the one that will be read back.
            text = json.dumps({"result": result, "seconds": seconds, "name": name})
            write_atomic(files[name], text)
            finished[name] = Finished(json.loads(text)["result"], seconds, remembered=False)
            batch.advance(note=name)
    batch.done(note="")
    return [finished[name] for name in jobs]


def report(step: int, total: int | None = None, note: str = "") -> None:
    """Report how far the running job is. Outside of a job it does nothing."""
    if _report is not None:
        _report(step, total, note)


_report: Callable[[int, int | None, str], None] | None = None


def _key(function: Callable[..., Any], arguments: Sequence[Any], version: str) -> str:
    parts = [function.__module__, function.__qualname__, version, list(arguments)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _recall(file: Path) -> Finished | None:
    try:
        kept = read_json(file)
        return Finished(kept["result"], float(kept["seconds"]), remembered=True)
    except (DataError, ValueError, KeyError, TypeError):  # absent or damaged: the job runs again
        return None


# --- in this process -----------------------------------------------------------------------------------------

_Results = Generator[tuple[str, Any, float], None, None]


def _here(
    function: Callable[..., Any], jobs: Mapping[str, Sequence[Any]], progress: Progress, workers: int
) -> _Results:
    global _report
    for name, arguments in jobs.items():
        task = progress.task(name)
        _report = _reporter(task)
        began = time.perf_counter()
        try:
            result = function(*arguments)
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
    name: str = ""  # name of its job; empty when it has none
    task: Task | None = None


def _spawned(
    function: Callable[..., Any], jobs: Mapping[str, Sequence[Any]], progress: Progress, workers: int
) -> _Results:
    waiting = iter(jobs.items())

    def give_job(worker: _Worker) -> None:
        worker.name, arguments = next(waiting, ("", ()))
        if not worker.name:
            return
        worker.task = progress.task(worker.name)
        try:
            worker.pipe.send((function, tuple(arguments)))
        except BrokenPipeError:
            raise _death(worker) from None

    crew: list[_Worker] = []
    try:
        while len(crew) < min(workers, len(jobs)):
            crew.append(_start_worker())
            give_job(crew[-1])
        while any(worker.name for worker in crew):
            by_pipe = {worker.pipe: worker for worker in crew if worker.name}
            for pipe in wait(list(by_pipe)):
                worker = by_pipe[pipe]  # type: ignore[index]
                try:
                    kind, *content = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    raise _death(worker) from None
                assert worker.task is not None
                if kind == "report":
                    _reporter(worker.task)(*content)
                elif kind == "error":
                    raise _as_raised(worker.name, *content)
                else:
                    name = worker.name
                    worker.task.done()
                    give_job(
                        worker
                    )  # before the result is written, so that the worker does not wait for the disk
                    yield name, content[0], content[1]
    finally:
        for worker in crew:
            worker.process.kill()  # it is idle, or at a job whose result nobody will read
            worker.pipe.close()
        for worker in crew:
            worker.process.join()


def _start_worker() -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork would copy PyTorch's locks without their threads
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


def _death(worker: _Worker) -> RunError:
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    mend = "run the same command again to finish what is left; with fewer --workers if memory ran out"
    return RunError(f"a worker process died {how}", where=worker.name, mend=mend)


def _as_raised(name: str, error: Exception | None, text: str) -> Exception:
    """A `NoriaError` unchanged; anything else with the worker's traceback as a note."""
    if isinstance(error, NoriaError):
        return error
    fault = error if error is not None else RuntimeError(text.strip().splitlines()[-1])
    fault.add_note(f"in the job {name!r}:\n{text}")
    return fault


def _work(pipe: Connection, parent: int) -> None:
    """Main function of a worker: run one job after the other until the pipe closes."""
    global _report
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal sends Ctrl-C to workers, too; the parent kills them
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
    """Exit when the parent is gone: a worker that is busy does not see its pipe close."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _picklable(error: Exception) -> Exception | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception class may raise anything when it is copied
        return None
    return error
