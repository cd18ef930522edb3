"""Several gateways on one control: one champion, one arm a user, each trace found, one reading over all of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.service.service import opened_gateway
from noria.core.errors import ConfigError
from noria.core.service.hosting import running
from noria.core.traces.ids import user_key
from tests.assistant.gateways import TOKEN, Gateway, echo, settings
from tests.assistant.test_console import submit
from tests.assistant.test_gateway import WISH, stage
from tests.chat_server import ChatServerDouble, chat_server
from tests.postgres import postgres_server

pytest.importorskip("pg8000")


@pytest.fixture(scope="module")
def backend() -> Iterator[ChatServerDouble]:
    with chat_server(echo) as double:
        yield double


@pytest.fixture(scope="module", autouse=True)
def _control() -> Iterator[None]:
    with postgres_server() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NORIA_CONTROL", url)
        yield


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def one_of(
    home: Path, name: str, ports: dict[str, int], backend: ChatServerDouble, **changes: Any
) -> Iterator[Gateway]:
    peers = [
        f"http://127.0.0.1:{port}" for port in ports.values()
    ]  # one list for all, as in deploy/noria.yaml
    shared = {"control_env": "NORIA_CONTROL", "versions": str(home / "versions"), "peers": peers}
    config = AssistantConfig.model_validate(settings(backend.url, **shared, **changes))
    opened = opened_gateway(home / name, config, token=TOKEN, companion=True, access_log=False)
    with opened as service, running(service, port=ports[name]) as url:
        yield Gateway(url, home / name, backend)


def test_two_gateways_are_one_to_users_and_to_experiments(tmp_path: Path, backend: ChatServerDouble) -> None:
    ports = dict(zip("ab", free_ports(2), strict=True))
    with contextlib.ExitStack() as stack:
        a = stack.enter_context(one_of(tmp_path, "a", ports, backend, promote="auto"))
        with pytest.raises(ConfigError, match="the secret is another one"):
            stack.enter_context(one_of(tmp_path, "b", ports, backend))
        (tmp_path / "b" / "secret").unlink()
        shutil.copy(tmp_path / "a" / "secret", tmp_path / "b" / "secret")
        b = stack.enter_context(one_of(tmp_path, "b", ports, backend, promote="auto"))
        a.call("/v1/experiments", WISH | {"planned": 500, "least": 75})
        stage(b, "kindness", "ab")
        time.sleep(1.0)  # both take the stage over
        traces = {}
        for n in range(220):  # every user comes to both
            arms = set()
            for one, other in ((a, b), (b, a)):
                answer = one.ask("x", user=f"user {n}")
                route = answer["choices"][0]["message"]["content"].partition("|")[0]
                arms.add(route)
                value = float(n % 10 < (9 if route == "kind" else 2))
                # the balancer sends the feedback to the gateway that does not have the trace
                status, said = other.call("/v1/feedback", {"target": answer["id"], "value": value})
                assert status == 202, said
                traces[answer["id"]] = one
            if (
                n < 140
            ):  # of fewer than 150 nothing is decided: the next ones may find the winner at one of them
                assert len(arms) == 1, "a user has one arm at both"
        found = stage(a, "kindness", "promoted", seconds=30)
        units = found["reading"]["units"]
        assert 150 <= sum(units.values()) <= 220, "a user counts once, though both have seen it"
        assert a.call("/v1/champion")[1] == b.call("/v1/champion")[1]
        time.sleep(1.0)
        assert [g.ask("x")["choices"][0]["message"]["content"] for g in (a, b)] == ["kind|x"] * 2

        trace, holder = next(iter(traces.items()))
        other = b if holder is a else a
        assert other.trace(trace) == holder.trace(trace)
        assert other.call("/v1/traces/01900000-0000-7000-8000-000000000000")[0] == 404
        status, erased = a.call("/v1/users/erase", {"user": "user 0", "caller": "operator"})
        assert (status, erased["traces"]) == (200, 2)
        assert erased["gateways"] == 2
        assert other.call(f"/v1/traces/{trace}")[0] == 404
        key = a.trace(a.ask("x", user="user 1")["id"])["trace"]["user"]
        form = {"action": "erase", "key": key, "token": TOKEN}
        assert "3 traces of this user were erased" in submit(b, **form)[1], "the console reaches both"


def test_a_gateway_that_is_down_is_named_and_nothing_is_called_done(
    tmp_path: Path, backend: ChatServerDouble
) -> None:
    ports = dict(zip("cd", free_ports(2), strict=True))
    with postgres_server() as url, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "NORIA_CONTROL", url)
        with one_of(tmp_path, "c", ports, backend) as c:
            mine = c.ask("x", user="ann")["id"]
            secret = (c.folder / "secret").read_text().strip().encode()
            assert c.call("/v1/feedback", {"target": mine, "value": 1})[0] == 202
            status, said = c.call("/v1/feedback", {"target": mine[:-4] + "0000", "value": 1})
            assert (status, said["error"]["code"]) == (503, "peer_down")
            status, said = c.call("/v1/users/erase", {"user": "ann", "caller": "operator"})
            assert status == 503
            assert str(ports["d"]) in said["error"]["message"]
            status, said = submit(c, action="erase", key=user_key(secret, "operator\0ann"), token=TOKEN)
            assert status == 503
            assert f"not by http://127.0.0.1:{ports['d']}" in said
            assert c.call(f"/v1/traces/{mine}")[0] == 503, "it is gone here, and the other one may have it"


def test_a_control_that_is_not_named_is_said(tmp_path: Path, backend: ChatServerDouble) -> None:
    config = AssistantConfig.model_validate(settings(backend.url, control_env="NO_SUCH_CONTROL"))
    with pytest.raises(ConfigError, match="NO_SUCH_CONTROL is not set"), opened_gateway(tmp_path, config):
        pass
