import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noria.core.errors import DataError, RunError
from noria.core.progress import Progress
from noria.core.runs.workers import map_jobs, report

# Imported by name in the workers, as a system's own jobs are.
MODULE = """
import os, signal, time
from pathlib import Path
from noria.core.errors import DataError
from noria.core.runs.workers import report

def count(folder, number):
    with open(Path(folder) / "calls", "a") as file:
        file.write(f"{number}\\n")
    return {"square": number**2, "pair": (number, number)}

def speak(steps):
    for step in range(1, steps + 1):
        report(step, steps, f"loss {step}")

def threads():
    import torch
    return [torch.get_num_threads(), os.getpid()]

def data_error():
    raise DataError("not a digit", where="digits.csv:3", mend="remove it")

def fault():
    return {}["absent"]

class Stubborn(Exception):
    def __init__(self, one, two):
        super().__init__(one)

def unpicklable():
    raise Stubborn("one", "two")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def leave():
    raise SystemExit(3)

def sleep(folder, name, seconds):
    (Path(folder) / f"{name}.pid").write_text(str(os.getpid()))
    time.sleep(seconds)
    return name

def either(folder, fail):
    if not fail:
        return sleep(folder, "sleeper", 100)
    while not (Path(folder) / "sleeper.pid").exists():
        time.sleep(0.05)
    raise DataError("enough")

def unjsonable():
    return object()
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    (tmp_path / "some_jobs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("some_jobs", None)
    import some_jobs

    yield some_jobs
    sys.modules.pop("some_jobs", None)


def run(tmp_path, function, arguments, *, workers=2, stream=None, **more):
    with Progress(stream, quiet=stream is None) as progress:
        return map_jobs(
            function, arguments, folder=tmp_path / "jobs", progress=progress, workers=workers, **more
        )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_jobs_and_are_not_computed_twice(tmp_path, jobs, workers):
    arguments = {f"job {n}": (str(tmp_path), n) for n in (3, 1, 2)}
    first = run(tmp_path, jobs.count, arguments, workers=workers)
    assert [one.result for one in first] == [{"square": n * n, "pair": [n, n]} for n in (3, 1, 2)]
    assert not any(one.remembered for one in first)
    again = run(
        tmp_path, jobs.count, {f"renamed {n}": (str(tmp_path), n) for n in (2, 3, 4)}, workers=workers
    )
    assert [one.result["square"] for one in again] == [4, 9, 16]
    assert [one.remembered for one in again] == [True, True, False]
    assert again[1].seconds == first[0].seconds
    assert sorted((tmp_path / "calls").read_text().split()) == ["1", "2", "3", "4"]


def test_other_code_forgets_what_the_old_code_returned(tmp_path, jobs):
    arguments = {"a": (str(tmp_path), 1)}
    for version in ("one", "two", "one"):
        run(tmp_path, jobs.count, arguments, workers=0, version=version)
    assert len((tmp_path / "calls").read_text().split()) == 2


def test_a_damaged_memory_is_no_memory(tmp_path, jobs):
    arguments = {"a": (str(tmp_path), 1)}
    run(tmp_path, jobs.count, arguments, workers=0)
    (file,) = (tmp_path / "jobs").iterdir()
    for damage in ("{", "[]", '{"result": 1}'):
        file.write_text(damage)
        assert run(tmp_path, jobs.count, arguments, workers=0)[0].result["square"] == 1
    assert len((tmp_path / "calls").read_text().split()) == 4


def test_a_worker_does_its_arithmetic_on_one_thread_and_leaves_our_environment_alone(
    tmp_path, jobs, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    (one,) = run(tmp_path, jobs.threads, {"a": ()})
    assert one.result[0] == 1
    assert one.result[1] != os.getpid()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("workers", [0, 1])
def test_a_job_shows_how_far_it_is(tmp_path, jobs, monkeypatch, workers):
    monkeypatch.setattr("noria.core.progress._EVERY", 0.0)
    stream = io.StringIO()
    run(tmp_path, jobs.speak, {"teacher": (3,)}, workers=workers, stream=stream, label="all")
    lines = [line.partition("  ")[2] for line in stream.getvalue().splitlines()]
    assert [line for line in lines if line.startswith("teacher: 2/3")] != []
    assert lines[-1].startswith("all: done in")
    report(1, 2, "outside of a job this does nothing")
    assert stream.getvalue().count("teacher: ") == 4


def test_bad_input_found_in_a_worker_is_told_as_if_found_here(tmp_path, jobs):
    with pytest.raises(DataError) as raised:
        run(tmp_path, jobs.data_error, {"a": ()})
    assert str(raised.value) == "digits.csv:3: not a digit; remove it"


def test_a_fault_in_a_worker_keeps_its_traceback(tmp_path, jobs):
    with pytest.raises(KeyError, match="absent") as raised:
        run(tmp_path, jobs.fault, {"the faulty one": ()})
    (note,) = raised.value.__notes__
    assert "the faulty one" in note
    assert 'return {}["absent"]' in note
    with pytest.raises(RuntimeError, match="one"):  # it cannot be copied to us, its words can
        run(tmp_path, jobs.unpicklable, {"a": ()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        run(tmp_path, jobs.unjsonable, {"a": ()}, workers=0)


@pytest.mark.parametrize(("function", "how"), [("die", "by SIGKILL"), ("leave", "with exit code 3")])
def test_a_worker_that_dies_is_one_line_and_no_wait(tmp_path, jobs, function, how):
    with pytest.raises(RunError, match=rf"^job one: a worker process died {how}; run the same command again"):
        run(tmp_path, getattr(jobs, function), {"job one": ()})


def test_the_first_error_ends_the_jobs_that_still_run(tmp_path, jobs):
    began = time.monotonic()
    with pytest.raises(DataError, match="enough"):
        run(tmp_path, jobs.either, {"long": (str(tmp_path), False), "bad": (str(tmp_path), True)})
    assert time.monotonic() - began < 60
    assert gone(int((tmp_path / "sleeper.pid").read_text()))


BATCH = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import some_jobs
from noria.core.runs.workers import map_jobs
from noria.core.progress import Progress
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with Progress(quiet=True) as progress:
        jobs = {"quick": (str(folder), "quick", 0), "slow": (str(folder), "slow", 100)}
        map_jobs(some_jobs.sleep, jobs, folder=folder / "jobs", progress=progress, workers=2)
"""


def start_batch(tmp_path) -> subprocess.Popen:
    """A batch of two, one of them finished, the other one asleep in its worker."""
    (tmp_path / "batch.py").write_text(BATCH)
    child = subprocess.Popen(
        [sys.executable, tmp_path / "batch.py", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        if list(tmp_path.glob("jobs/*.json")) and (tmp_path / "slow.pid").exists():
            return child
        time.sleep(0.02)
    child.kill()
    raise AssertionError(f"the batch did not start: {child.communicate()[1]}")


def test_killed_the_workers_go_too_and_what_was_finished_is_kept(tmp_path, jobs):
    child = start_batch(tmp_path)
    child.kill()
    child.wait()
    assert gone(int((tmp_path / "slow.pid").read_text()))
    (file,) = tmp_path.glob("jobs/*.json")
    assert json.loads(file.read_text())["result"] == "quick"
    (tmp_path / "quick.pid").unlink()
    (kept,) = run(tmp_path, jobs.sleep, {"quick": (str(tmp_path), "quick", 0)})
    assert kept.remembered
    assert not (tmp_path / "quick.pid").exists()


def test_ctrl_c_ends_everything_with_one_voice(tmp_path, jobs):
    child = start_batch(tmp_path)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal sends it: to the workers too
    _, err = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1
    assert gone(int((tmp_path / "slow.pid").read_text()))
