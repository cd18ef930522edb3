"""The audit of OpenAI-compatible servers, over real HTTP on loopback; the servers sample from a small Markov chain."""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from noria.core.errors import ConfigError, ModelError
from noria.mtp.acceptance.sampling import SamplingParams, processed
from noria.mtp.engines.audit import AuditReport, audit
from noria.mtp.engines.remote_engines import Server, server_engine

pytest.importorskip("openai")

VOCAB = 6
LAW = torch.softmax(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)), -1)
"""Next-token probabilities by the last token."""
DRAFT = torch.softmax(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1)), -1)

Body = dict[str, Any]


def law(prefixes: Any) -> torch.Tensor:
    return torch.stack([LAW[prefix[-1]] for prefix in prefixes])


def complete(body: Body, number: int, *, bias: float = 0.0) -> dict[str, Any]:
    """One completion as vLLM would give it; `bias` lets through drafts that the law refuses."""
    params = SamplingParams(
        temperature=body["temperature"],
        top_k=max(0, body.get("top_k", 0)),
        top_p=body["top_p"],
        min_p=body.get("min_p", 0.0),
    )
    generator = torch.Generator().manual_seed(body["seed"] * 1009 + number)
    last, tokens, values = body["prompt"][-1], [], []
    for _ in range(body["max_tokens"]):
        p = processed(LAW[last].log()[None, None], params).probs[0, 0]
        drawn = (1 - bias) * p + bias * DRAFT[last]
        last = int(torch.multinomial(drawn, 1, generator=generator))
        tokens.append(last)
        values.append(math.log(float(p[last])) if p[last] > 0 else -100.0)
        if last in body.get("stop_token_ids", []):
            break
    return {"tokens": tokens, "logprobs": values}


def answer(body: Body, **how: Any) -> dict[str, Any]:
    choices = []
    for number in range(body["n"]):
        done = complete(body, number, **how)
        choice: dict[str, Any] = {"index": number, "text": "", "finish_reason": "length"}
        choice["token_ids"] = done["tokens"]
        choice["logprobs"] = {
            "tokens": [f"token_id:{t}" for t in done["tokens"]],
            "token_logprobs": done["logprobs"],
            "top_logprobs": None,
            "text_offset": [],
        }
        choices.append(choice)
    return {"id": "1", "object": "text_completion", "created": 0, "model": "chain", "choices": choices}


@contextmanager
def serving(
    respond: Callable[[Body], tuple[int, Any]],
    *,
    models: tuple[str, ...] = ("chain",),
    key: str | None = None,
) -> Iterator[str]:
    """A server on a free port of loopback; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            listed = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in models]
            self._send(200, {"object": "list", "data": listed})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*respond(body))

        def _send(self, status: int, content: Any) -> None:
            if key is not None and self.headers["Authorization"] != f"Bearer {key}":
                status, content = 401, {"error": {"message": "wrong key"}}
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def audited(respond: Callable[[Body], Any], samples: int = 300) -> AuditReport:
    with serving(lambda body: (200, respond(body))) as url:
        engine = server_engine(Server(url), length=3)
        return audit(engine, law, [[1], [2]], samples=samples, depth=2)


def test_an_honest_server_is_acquitted() -> None:
    report = audited(answer)
    assert report.failures() == ()
    made = {check.name for check in report.checks if check.passed}
    assert {"top-k", "min-p", "greedy is the argmax", "log-probabilities", "batches do not matter"} <= made
    assert {"same seed, same tokens", "end token and length", "law of tokens 1 to 2"} <= made
    assert report.engine.startswith("chain at http://127.0.0.1")


def no_seed(body: Body) -> Any:
    no_seed.calls += 1  # type: ignore[attr-defined]
    return answer(body | {"seed": no_seed.calls})  # type: ignore[attr-defined]


no_seed.calls = 0  # type: ignore[attr-defined]


def wrong_logprobs(body: Body) -> Any:
    """The model's own, as vLLM gives by default: not those after temperature."""
    done = answer(body)
    for choice in done["choices"]:
        path = [body["prompt"][-1], *choice["token_ids"]]
        choice["logprobs"]["token_logprobs"] = [math.log(LAW[a, b]) for a, b in itertools.pairwise(path)]
    return done


def deaf_to_stops(body: Body) -> Any:
    return answer({name: value for name, value in body.items() if name != "stop_token_ids"})


@pytest.mark.parametrize(
    ("respond", "convicted"),
    [
        (lambda body: answer(body, bias=0.3), "law of tokens 1"),
        (lambda body: answer(body | {"temperature": 1.0}), "temperature below 1"),
        (lambda body: answer(body | {"top_k": 0}), "top-k"),
        (no_seed, "same seed, same tokens"),
        (wrong_logprobs, "log-probabilities"),
        (deaf_to_stops, "end token and length"),
        (lambda body: answer(body | {"seed": 7}), "other seeds, other tokens"),
    ],
    ids=[
        "biased",
        "ignores temperature",
        "ignores top-k",
        "seedless",
        "raw logprobs",
        "ignores stops",
        "one seed",
    ],
)
def test_a_dishonest_server_is_convicted(respond: Callable[[Body], Any], convicted: str) -> None:
    assert convicted in audited(respond).failures()


def test_tokens_are_read_from_logprobs_of_an_older_server() -> None:
    def older(body: Body) -> Any:
        done = answer(body)
        for choice in done["choices"]:
            del choice["token_ids"]
        return done

    with serving(lambda body: (200, older(body))) as url:
        engine = server_engine(Server(url), length=3)
        sequences = engine.sample([1], 40, SamplingParams(), 3)
        assert engine.logprobs is not None
        again, values = engine.logprobs([1], 40, SamplingParams(), 3)
    assert sequences == again
    assert len(sequences) == 40
    assert values[0] == pytest.approx(
        [math.log(LAW[a, b]) for a, b in zip([1, *sequences[0]], sequences[0], strict=False)], abs=1e-5
    )


def garbage(body: Body) -> tuple[int, Any]:
    return 200, b"<html>busy</html>"


def textual(body: Body) -> tuple[int, Any]:
    done = answer(body)
    for choice in done["choices"]:
        del choice["token_ids"]
        choice["logprobs"]["tokens"] = ["a"] * len(choice["logprobs"]["tokens"])
    return 200, done


def fewer(body: Body) -> tuple[int, Any]:
    done = answer(body)
    return 200, done | {"choices": []}


@pytest.mark.parametrize(
    ("respond", "told"),
    [
        (lambda body: (400, {"error": {"message": "unknown field top_k"}}), "400"),
        (lambda body: (404, {"error": {"message": "no such model"}}), "--served-model"),
        (garbage, "none that an OpenAI-compatible server gives"),
        (textual, "without token numbers"),
        (fewer, "0 completions came of 1"),
    ],
    ids=["refuses", "no model", "garbage", "text only", "too few"],
)
def test_what_is_wrong_with_a_server_is_told_before_the_audit(respond: Any, told: str) -> None:
    with serving(respond) as url, pytest.raises(ModelError, match=told):
        server_engine(Server(url), length=3)


def test_keys_names_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(lambda body: (200, answer(body)), key="right") as url:
        with pytest.raises(ModelError, match="OPENAI_API_KEY"):
            server_engine(Server(url), length=3)
        monkeypatch.setenv("OPENAI_API_KEY", "right")
        assert server_engine(Server(url), length=3).sample([1], 2, SamplingParams(), 0)
    with (
        serving(lambda body: (200, answer(body)), models=("a", "b")) as url,
        pytest.raises(ModelError, match="a, b"),
    ):
        server_engine(Server(url), length=3)
    with pytest.raises(ModelError, match="no server answers"):
        server_engine(Server("http://127.0.0.1:9/v1"), length=3)
    with pytest.raises(ConfigError, match="http"):
        server_engine(Server("127.0.0.1:8000"), length=3)


def test_a_stuck_server_does_not_hold_the_audit() -> None:
    release = threading.Event()

    def stuck(body: Body) -> tuple[int, Any]:
        release.wait(30)
        return 200, answer(body)

    began = time.perf_counter()
    with serving(stuck) as url:
        try:
            with pytest.raises(ModelError, match="no answer within"):
                server_engine(Server(url, timeout=0.3), length=3)
        finally:
            release.set()
    assert time.perf_counter() - began < 15
