"""What no honest caller sends, to every endpoint of the service: refused with a line, or passed on as JSON."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chat_server import Reply
from tests.hostile_bodies import hostile_bodies
from tests.routing.test_serve import serving

CONVERSATION: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "user", "content": "hi", "name": "me"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "x"}}],
        },
    ],
    "stop": ["x"],
    "response_format": {"type": "text"},
}
SETTINGS: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    **dict.fromkeys(("temperature", "top_p"), 0.5),
    **dict.fromkeys(("seed", "max_tokens", "n"), 1),
    "stream_options": {"include_usage": True},
    "top_k": 3,
    "logit_bias": {"1": 2},
    "logprobs": False,
    "tools": [],
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
@pytest.mark.parametrize("body", [CONVERSATION, SETTINGS], ids=["conversation", "settings"])
def test_json(path: str, body: dict[str, Any]) -> None:
    with serving(lambda body, number: Reply("ok")) as (url, double):
        line = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        for sent in hostile_bodies(body):
            line.request("POST", path, sent)
            answer = line.getresponse()
            assert answer.status in (200, 400, 404), (answer.status, answer.read()[:200], sent[:300])
            answer.read()
    assert all(seen["model"] == "a" for seen in double.seen)
