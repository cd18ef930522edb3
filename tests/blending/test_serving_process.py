"""The service as a process of its own: started by its verb, killed, restarted, on a full disk, under load."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from noria.blending.logs.candidates import read_candidates
from noria.blending.logs.replay import replay
from noria.blending.service.journal.events import Decision, Impression, Outcome, unpack
from noria.blending.service.journal.journal import read_journal, segments
from noria.blending.service.versions import Versions
from noria.blending.verbs.log import command as log
from noria.blending.verbs.serve import command as serve
from noria.core.errors import NoriaError, RunError
from noria.core.service.hosting import Launched, launched
from tests.blending.feeds import BEARER, PLANS, TOKEN, as_columns, ask, columns, saved, snapshot

PROGRAM = """
from noria.blending.verbs.serve import command as serve
from noria.core.errors import NoriaError
import sys
try:
    serve.main(standalone_mode=False)
except NoriaError as error:
    sys.exit(f"noria: error: {error}")
"""
FAST = (
    "nearline.tick=0.3",
    "nearline.checkpoint=0.3",
    "poll=0.1",
    "sample=1",
    "control=0",
    "nearline.returns=0",
)


@contextlib.contextmanager
def served(folder: Path, *arguments: str, snapshot: bool = True, **env: str) -> Iterator[Launched]:
    command = [sys.executable, "-c", PROGRAM, *([str(folder / "snapshot.json")] if snapshot else [])]
    command += ["--state", str(folder / "state"), "--port", "0", "--no-access-log", *arguments]
    quick = {"NORIA_TOKEN": TOKEN, "NORIA_KERNELS": "numpy"}  # they take a second of every start to load
    with launched(command, folder, env=quick | env) as started:
        yield started


def events(folder: Path) -> list[Any]:
    return [one for frame in read_journal(folder / "state" / "log") for one in unpack(frame.payload)]


def wait_for(what: Any, seconds: float = 30.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


def test_nothing_acknowledged_is_lost_on_kill_9(tmp_path: Path) -> None:
    """Clients write for as long as they are answered; the server is killed three times in the middle of it."""
    saved(tmp_path)
    acknowledged: list[tuple[str, str]] = []
    lock = threading.Lock()

    def client(url: str, name: str) -> None:
        for n in range(100_000):
            request = f"{name}-{n}"
            try:
                _, told = ask(
                    url, "POST", "/rank", as_columns(columns(20, n % 7), id=request, size=5), BEARER
                )
                items = told["items"][:2]
                done = [
                    (
                        "shown",
                        *ask(url, "POST", "/impressions", {"request": request, "items": items}, BEARER),
                    ),
                    (
                        "came",
                        *ask(
                            url,
                            "POST",
                            "/outcomes",
                            {"request": request, "item": items[0], "watch": 9},
                            BEARER,
                        ),
                    ),
                ]
            except (OSError, http.client.HTTPException, ValueError):
                return
            with lock:
                acknowledged.extend((kind, request) for kind, status, _ in done if status == 200)

    for turn in range(3):
        with served(tmp_path, "nearline.on=false") as started:
            clients = [threading.Thread(target=client, args=(started.url, f"{turn}-{c}")) for c in range(4)]
            for one in clients:
                one.start()
            before = len(acknowledged)
            wait_for(lambda before=before: len(acknowledged) > before + 40)
            started.process.send_signal(signal.SIGKILL)
            for one in clients:
                one.join()
    assert len(acknowledged) > 120
    found = events(tmp_path)
    shown = {("shown", one.request) for one in found if isinstance(one, Impression)}
    came = {("came", one.request) for one in found if isinstance(one, Outcome)}
    assert set(acknowledged) <= shown | came
    decided = {one.request for one in found if isinstance(one, Decision)}
    assert {request for _, request in acknowledged} <= decided, "what was shown has its account"
    assert len(segments(tmp_path / "state" / "log")) == 3


def test_a_torn_tail_is_cut_off_at_the_next_start(tmp_path: Path) -> None:
    saved(tmp_path)
    with served(tmp_path, "nearline.on=false") as started:
        for n in range(5):
            ask(started.url, "POST", "/outcomes", {"request": f"r{n}", "item": "a"}, BEARER)
        started.process.send_signal(signal.SIGKILL)
        started.process.wait()
    ((_, path),) = segments(tmp_path / "state" / "log")
    os.truncate(path, path.stat().st_size - 3)
    with served(tmp_path, "nearline.on=false") as started:
        metrics = ask(started.url, "GET", "/metrics")[1].decode()
        assert "noria_blending_log_torn_bytes 0.0" not in metrics
        assert ask(started.url, "POST", "/outcomes", {"request": "r5", "item": "a"}, BEARER)[0] == 200
        assert started.stop() == 0
    assert [one.request for one in events(tmp_path)] == ["r0", "r1", "r2", "r3", "r5"]


def test_a_full_disk_acknowledges_nothing_and_ranking_goes_on(tmp_path: Path) -> None:
    """The limit on file sizes makes the process's writes fail, as a full disk does; then there is room again."""
    saved(tmp_path)
    with served(tmp_path, "nearline.on=false", "sample=0") as started:
        pid = started.process.pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        statuses = []
        for n in range(60):
            body = {"request": f"r{n}", "item": "x" * 100}
            status, told = ask(started.url, "POST", "/outcomes", body, BEARER)
            statuses.append(status)
            if status != 200:
                assert (status, told["error"]["code"]) == (507, "log_full")
        assert 507 in statuses
        assert 200 in statuses
        _, told = ask(started.url, "POST", "/rank", as_columns(columns(30), id="q", size=5), BEARER)
        assert len(told["items"]) == 5
        shown = as_columns(columns(30), id="s", size=5, shown=3)
        assert ask(started.url, "POST", "/rank", shown, BEARER)[0] == 507
        status, told = ask(started.url, "POST", "/switches", {"plan": "cold", "on": False}, BEARER)
        assert status in (200, 507), "a small file may still fit"
        assert b"noria_blending_log_failed_frames 0.0" not in ask(started.url, "GET", "/metrics")[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert ask(started.url, "POST", "/outcomes", {"request": "end", "item": "a"}, BEARER)[0] == 200
        assert started.stop() == 0
    kept = [one.request for one in events(tmp_path) if isinstance(one, Outcome)]
    assert kept == [f"r{n}" for n, status in enumerate(statuses) if status == 200] + ["end"]


def test_the_loop_learns_and_a_restart_makes_no_bump(tmp_path: Path) -> None:
    """Server and loop are killed; what the controllers had reached is served again, and every exposure counts once."""
    plans = {"plans": [{"id": "live", "when": 'source == "live"', "target": {"exposure_share": 0.6}}]}
    saved(tmp_path, plans=plans)
    quick = (*FAST, "nearline.least=20")

    def traffic(url: str, name: str, requests: int) -> None:
        for n in range(requests):
            body = as_columns(columns(40, n), id=f"{name}{n}", size=10, shown=10)
            assert ask(url, "POST", "/rank", body, BEARER)[0] == 200

    def status(url: str) -> dict[str, Any]:
        return (ask(url, "GET", "/status")[1]["nearline"] or {})["status"] or {}

    with served(tmp_path, *quick) as started:
        traffic(started.url, "a", 40)
        wait_for(lambda: status(started.url).get("exposures") == 400)
        bias = wait_for(lambda: ask(started.url, "GET", "/status")[1]["plans"][0]["bias"])
        assert ask(started.url, "GET", "/status")[1]["version"] > 1
        assert bias > 0
        settled = wait_for(
            lambda: status(started.url).get("counts", {}).get("exposures") == 400 and status(started.url)
        )
        time.sleep(1.0)
        before = ask(started.url, "GET", "/status")[1]
        metrics = ask(started.url, "GET", "/metrics")[1].decode()
        assert 'noria_blending_plan_today_exposures{plan="live"}' in metrics
        assert settled["plans"]["live"]["controller"]["output"] > 0
        started.process.send_signal(signal.SIGKILL)
        started.process.wait()
    with served(tmp_path, *quick, snapshot=False) as started:
        after = ask(started.url, "GET", "/status")[1]
        assert after["version"] == before["version"]
        assert after["plans"][0]["bias"] == before["plans"][0]["bias"]
        traffic(started.url, "b", 2)
        wait_for(lambda: status(started.url).get("counts", {}).get("exposures") == 420)
        time.sleep(0.7)
        told = ask(started.url, "GET", "/status")[1]
        steps = [
            abs(a - b)
            for a, b in itertools.pairwise(
                line["plans"]["live"]["bias"] for line in status(started.url)["history"]
            )
        ]
        assert max(steps) <= 10 * 0.1 * told["mean_value"] + 1e-9, (
            "no more than the rate of ten ticks at once"
        )
        assert started.stop() == 0
        assert not (tmp_path / "state" / "nearline" / "failing.json").exists()


def test_a_loop_that_dies_is_started_again_and_the_service_goes_on(tmp_path: Path) -> None:
    import psutil

    saved(tmp_path)
    with served(tmp_path, *FAST) as started:
        loop = wait_for(lambda: psutil.Process(started.process.pid).children())[0]
        wait_for(lambda: ask(started.url, "GET", "/status")[1]["nearline"]["status"])
        loop.kill()
        assert ask(started.url, "POST", "/rank", as_columns(columns(5)))[0] == 200
        again = wait_for(
            lambda: [p for p in psutil.Process(started.process.pid).children() if p.pid != loop.pid]
        )
        assert b"noria_blending_nearline_starts_total 2.0" in ask(started.url, "GET", "/metrics")[1]
        started.process.send_signal(signal.SIGKILL)
        started.process.wait()
        wait_for(lambda: not again[0].is_running() or again[0].status() == psutil.STATUS_ZOMBIE)


def test_what_was_served_is_replayed_to_the_bit(tmp_path: Path) -> None:
    saved(tmp_path)
    served_lists = {}
    with served(tmp_path, "nearline.on=false", "sample=1", "control=0") as started:
        for n in range(30):
            body = as_columns(columns(80, n) | {"version": ["m1"] * 80}, id=f"r{n}", size=10, shown=4)
            _, told = ask(started.url, "POST", "/rank/home", body, BEARER)
            served_lists[f"r{n}"] = told
        ask(started.url, "POST", "/impressions", {"request": "r0", "items": told["items"][:1]}, BEARER)
        ask(started.url, "POST", "/outcomes", {"request": "r1", "item": "a", "watch": 3, "gain": 1}, BEARER)
        done = CliRunner().invoke(log, [str(tmp_path / "state"), "-o", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        assert started.stop() == 0
    found = read_candidates(tmp_path / "out" / "candidates.parquet")
    kept = Versions(tmp_path / "state").load(1)
    again = replay(found, kept, 10)
    for number, request in enumerate(found.request):
        rows = again.rows[again.lists[number]]
        told = served_lists[request]
        items = [found.item.names[code] for code in found.item.codes[rows].tolist()]
        assert items == told["items"]
        assert again.score[again.lists[number]].tolist() == told["score"]
    import pyarrow.parquet as pq

    exposures = pq.read_table(tmp_path / "out" / "exposures.parquet").to_pydict()
    assert len(exposures["request"]) == 120
    assert set(exposures["snapshot"]) == {kept.digest}
    first = [row for row, request in enumerate(exposures["request"]) if request == "r5"]
    assert [exposures["total"][row] for row in first] == served_lists["r5"]["score"][:4]
    assert [exposures["rank"][row] for row in first] == [0, 1, 2, 3]
    assert {exposures[name][0] for name in ("scene", "version")} == {"home", "m1"}
    outcomes = pq.read_table(tmp_path / "out" / "outcomes.parquet").to_pylist()
    assert outcomes[0] | {"time": 0} == {
        "request": "r1", "item": "a", "time": 0, "watch": 3.0, "duration": None, "gain": 1.0,
    }  # fmt: skip
    assert "left out" in done.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "from other machines"),
        (["size=0"], "size"),
        (["nearline.tick=soon"], "nearline.tick"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--token-file", "absent"], "cannot read the token"),
    ],
)
def test_what_keeps_it_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.delenv("NORIA_TOKEN", raising=False)
    with pytest.raises(NoriaError, match=told):
        serve.main([str(saved(tmp_path)), "--port", "0", *arguments], standalone_mode=False)


def test_without_a_snapshot_or_state_there_is_nothing_to_serve(tmp_path: Path) -> None:
    for arguments, told in (
        ([], "nothing to serve"),
        (["size=3"], "nothing to serve"),
        (["--state", str(tmp_path / "new")], "no snapshot to serve"),
        ([str(tmp_path / "absent.json")], "cannot be read"),
    ):
        with pytest.raises(NoriaError, match=told):
            serve.main(["--port", "0", *arguments], standalone_mode=False)
    command = [sys.executable, "-c", PROGRAM, "--port", "0"]
    with (
        pytest.raises(RunError, match="noria: error: snapshot: nothing to serve"),
        launched(command, tmp_path),
    ):
        pass


def test_a_new_snapshot_beside_the_loop(tmp_path: Path) -> None:
    """A snapshot that is put in place while the loop proposes: it serves, and the loop goes on from it."""
    saved(tmp_path)
    with served(tmp_path, *FAST, "nearline.least_fit=50", "nearline.fit.maturity=0.5") as started:
        for n in range(20):
            body = as_columns(columns(40, n), id=f"r{n}", size=10, shown=10)
            _, told = ask(started.url, "POST", "/rank", body, BEARER)
            outcomes = [{"request": f"r{n}", "item": item, "watch": 30} for item in told["items"]]
            assert ask(started.url, "POST", "/outcomes", outcomes, BEARER)[0] == 200
        wait_for(lambda: ask(started.url, "GET", "/status")[1]["version"] > 1)
        given = snapshot(PLANS, version=1000, scale=0.9, created=time.time())
        given.save(tmp_path / "snapshot.json")
        wait_for(lambda: ask(started.url, "GET", "/status")[1]["version"] >= 1000)
        wait_for(lambda: ask(started.url, "GET", "/status")[1]["version"] > 1000)
        body = as_columns(columns(40), size=10)
        _, told = ask(started.url, "POST", "/rank", body)
        total = np.array(told["value"])
        for boost in told["boost"].values():
            total[boost["places"]] += boost["amounts"]
        total += np.array(told.get("guard", [0.0] * len(total)))
        np.testing.assert_allclose(total, told["score"], rtol=0, atol=1e-12)
        versions = Versions(tmp_path / "state")
        assert versions.base(versions.numbers()[0])[1] == given.digest
