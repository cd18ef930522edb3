"""Servers that the gateway starts: found where they listen, started again, ended with the gateway, off where absent."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.config.parts import ToolConfig
from noria.assistant.service import started
from noria.assistant.service.started import StartedServer, resolved
from noria.core.errors import RunError
from tests.assistant.gateways import gateway, gateway_process
from tests.assistant.test_tools import calls
from tests.chat_server import Body, Reply, chat_server
from tests.waiting import until

# A server in a few lines: it announces its address, says its token, and ends when it is told to.
SERVER = """
import http.server, os, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            threading.Thread(target=lambda: os._exit(3)).start()
            return
        body = (os.environ["NORIA_TOKEN"] + " " + os.environ.get("SHOP_TOKEN", "none")).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
open(sys.argv[1], "w").write(str(os.getpid()))
print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
print("it is up", file=sys.stderr, flush=True)
server.serve_forever()
"""


async def until_serving(server: StartedServer) -> str:
    async with asyncio.timeout(20):
        while server.state != "serving":
            await asyncio.sleep(0.02)
    return server.locate()[0]


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):  # a zombie has ended: who adopted it has not looked yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_server_is_found_started_again_elsewhere_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "of a caller")
    monkeypatch.setattr(started, "FIRST_WAIT", 0.05)
    pid = tmp_path / "pid"

    async def go() -> None:
        import aiohttp

        command = [sys.executable, "-c", SERVER, str(pid)]
        server = StartedServer("edit", command, tmp_path / "servers", hidden={"SHOP_TOKEN"})
        with pytest.raises(RunError, match="starting"):
            server.locate()
        task = asyncio.create_task(server.run())
        async with aiohttp.ClientSession() as session:
            first = await until_serving(server)
            async with session.get(first) as answer:
                assert await answer.text() == f"{server.token} none", "its own token, and no caller's"
            first_pid = int(pid.read_text())
            with contextlib.suppress(aiohttp.ClientError):
                await session.get(f"{first}/end")
            while server.starts == 1:
                await asyncio.sleep(0.02)
            assert await until_serving(server) != first
        second_pid = int(pid.read_text())
        assert server.starts == 2
        assert not alive(first_pid)
        assert alive(second_pid)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not alive(second_pid)
        assert server.log_file.read_text().count("it is up") == 2

    asyncio.run(go())


def test_a_command_that_is_not_there_is_down_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(started, "FIRST_WAIT", 0.05)

    async def go() -> None:
        server = StartedServer("edit", ["no-such-command-here"], tmp_path / "servers")
        task = asyncio.create_task(server.run())
        async with asyncio.timeout(20):
            while server.starts < 2:
                await asyncio.sleep(0.02)
        assert server.why == "no-such-command-here: No such file or directory"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go())


def test_a_log_stays_within_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(started, "LARGEST_LOG", 10_000)
    talk = "print('serving on http://127.0.0.1:1', flush=True)\nwhile True: print('x' * 99, flush=True)"

    async def go() -> None:
        server = StartedServer("edit", [sys.executable, "-c", talk], tmp_path / "servers")
        task = asyncio.create_task(server.run())
        await until_serving(server)
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sizes = [path.stat().st_size for path in (tmp_path / "servers").iterdir()]
        assert len(sizes) == 2
        assert max(sizes) < 20_000

    asyncio.run(go())


def test_noria_is_this_environments_on_any_free_port() -> None:
    python = [sys.executable, "-m", "noria.cli", "editing", "serve"]
    assert resolved(["noria", "editing", "serve"]) == [*python, "--port", "0"]
    assert resolved(["noria", "editing", "serve", "--port=7"]) == [*python, "--port=7"]
    assert resolved(["noria", "editing", "serve"], "http://127.0.0.1:8021/v1") == [*python, "--port", "8021"]
    assert resolved(["vllm", "serve"]) == ["vllm", "serve"]


@pytest.mark.parametrize(
    ("fields", "what"),
    [({}, "url, or a command"), ({"start": ["noria", ""]}, "empty"), ({"start": "noria serve"}, "tuple")],
)
def test_a_tool_without_a_place_is_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        ToolConfig.model_validate({"kind": "edit"} | fields)


def report_then_say(body: Body, number: int) -> Reply:
    last = body["messages"][-1]
    return Reply(str(last["content"])) if last["role"] == "tool" else calls("write_report", request="Lamps")


def test_a_killed_gateway_takes_its_servers_along(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    tools = {"edit": {"kind": "edit", "start": [sys.executable, "-c", SERVER, str(pid)]}}
    with (
        chat_server(report_then_say) as backend,
        gateway_process(tmp_path / "data", backend.url, parts={"tools": tools}) as process,
    ):
        until(lambda: pid.exists() and pid.read_text())
        number = int(pid.read_text())
        assert alive(number)
        process.process.send_signal(signal.SIGKILL)
        until(lambda: not alive(number))


def test_a_server_whose_extra_is_absent_is_off_and_the_answer_goes_on(tmp_path: Path) -> None:
    """The command fails as one does whose extra is not installed: the service says so, and a call is an error."""
    words = "import sys; sys.exit('noria: torch is not installed; mend it with pip install torch')"
    tools = {"write_report": {"kind": "report", "start": [sys.executable, "-c", words]}}
    with gateway(tmp_path / "data", report_then_say, parts={"tools": tools}) as one:
        told = until(lambda: (t := one.call("/v1/tools")[1]["data"][0])["server"]["why"] and t)
        assert "mend it with pip install torch" in told["server"]["why"]
        assert told["off"]
        answer = one.ask("a report of lamps")
        trace = one.trace(answer["id"])["trace"]
        assert trace["labels"]["off"] == "write_report"
        assert trace["spans"][1]["error"]["kind"] == "failed"
        assert one.raw("/ready")[0] == 200
        page = one.raw("/")[1].decode()
        assert "mend it with pip install torch" in page
        assert b'noria_gateway_server_up{server="write_report"} 0.0' in one.raw("/metrics")[1]


@pytest.mark.parametrize("way", ["terminated", "ended"])
def test_the_keeper_ends_what_ignores_being_asked(tmp_path: Path, way: str) -> None:
    pid, source = tmp_path / "pid", started.KEEPER.read_text().replace("PATIENCE = 10.0", "PATIENCE = 0.2")
    keeper = tmp_path / "keeper.py"
    keeper.write_text(source)
    stubborn = "import signal, time, os, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    stubborn += "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    words = [sys.executable, str(keeper), sys.executable, "-c", stubborn, str(pid)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE)
    until(lambda: pid.exists() and pid.read_text())
    number = int(pid.read_text())
    if way == "terminated":
        process.terminate()
        time.sleep(0.1)
        assert alive(number), "it was asked, and ignores it"
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 128 + signal.SIGKILL
    assert not alive(number)
