"""Chats with drafts over real HTTP: the model's own law, many at once, and counts of what the drafts met."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("torch")

from noria.core.models.lm import small_lm
from noria.core.service.hosting import running
from noria.core.service.serving import Service
from noria.mtp.decoding.decoder import Decoder, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.checkpoint import load_head
from noria.mtp.service.service import DraftingService

PROMPT = "def add(self, name):\n    return"


@pytest.fixture(scope="module")
def model() -> tuple[Any, Any, Decoder]:
    policy, tokenizer = small_lm()
    head = load_head(policy, Path(str(files("noria.mtp"))) / "assets" / "e2e_tv")
    return policy, tokenizer, Decoder(policy, HeadDrafter(head), gamma=3, vocab=len(tokenizer))


@contextmanager
def serving(model: tuple[Any, Any, Decoder], **settings: Any) -> Iterator[str]:
    drafting = DraftingService(model[2], model[1], "small", **settings)
    service = Service("mtp", drafting.routes(), around=drafting.around, access_log=False)
    with running(service) as url:
        yield url


def chat(url: str, **more: Any) -> tuple[int, Any]:
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 24, "temperature": 0} | more
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            content = reply.read()
            return reply.status, content.decode() if body.get("stream") else json.loads(content)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def counts(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return {
        k: float(v) for k, _, v in (line.rpartition(" ") for line in lines) if "_total{" in k and "mtp" in k
    }


def test_an_answer_is_the_models_own_and_says_what_its_drafts_met(model: tuple[Any, Any, Decoder]) -> None:
    policy, tokenizer, _ = model
    plain = Decoder(policy, None, vocab=len(tokenizer)).generate(
        [Request(tokenizer.encode(PROMPT), 24, decoder_params(0.0))]
    )[0]
    with serving(model) as url:
        before = counts(url)
        assert set(before.values()) == {0.0}, "zeros are there from the start"
        status, answer = chat(url)
        assert status == 200
        choice = answer["choices"][0]
        assert choice["message"]["content"] == tokenizer.decode(plain.tokens, skip_special_tokens=True)
        assert choice["finish_reason"] == plain.finish
        usage = answer["usage"]
        assert usage["completion_tokens"] == len(plain.tokens)
        details = usage["completion_tokens_details"]
        after = counts(url)
        drafted = sum(v for k, v in after.items() if "drafted" in k)
        accepted = sum(v for k, v in after.items() if "accepted" in k)
        assert (accepted, drafted - accepted) == (
            details["accepted_prediction_tokens"], details["rejected_prediction_tokens"],
        )  # fmt: skip
        assert accepted > 0, "the head that ships is right now and then"

        one, two = (
            chat(url, temperature=1.0, seed=seed)[1]["choices"][0]["message"]["content"] for seed in (1, 2)
        )
        assert one != two
        assert chat(url, temperature=1.0, seed=1)[1]["choices"][0]["message"]["content"] == one
        streamed = chat(url, stream=True, stream_options={"include_usage": True})[1]
        events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
        assert events[0]["choices"][0]["delta"]["content"] == choice["message"]["content"]
        assert events[-1]["usage"] == usage
        assert streamed.endswith("data: [DONE]\n\n")


def decoder_params(temperature: float) -> Any:
    from noria.mtp.acceptance.sampling import SamplingParams

    return SamplingParams(temperature)


def test_many_at_once_are_each_answered_as_alone(model: tuple[Any, Any, Decoder]) -> None:
    with serving(model, batch_size=4) as url, ThreadPoolExecutor(8) as pool:
        prompts = [f"import {name}\n\n" for name in ("os", "sys", "json", "math", "random", "time")]
        wishes = [
            {"messages": [{"role": "user", "content": p}], "max_tokens": 4 + 3 * n}
            for n, p in enumerate(prompts)
        ]
        alone = [chat(url, **wish)[1] for wish in wishes]
        together = list(pool.map(lambda wish: chat(url, **wish)[1], wishes))
        assert [a["choices"] for a in alone] == [b["choices"] for b in together]


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"stop": ["\n"]}, 400, "unsupported_field"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, 400, "no_tools"),
        ({"temperature": -1}, 400, "bad"),
        ({"frequency_penalty": 1}, 400, "unsupported_field"),
        ({"model": "other"}, 404, "model_not_found"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "bad_request"),
        ({"messages": [{"role": "user", "content": "a " * 9000}]}, 400, "bad_request"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    model: tuple[Any, Any, Decoder], more: Any, status: int, code: str
) -> None:
    with serving(model) as url:
        got, error = chat(url, **more)
        assert got == status
        assert code in error["code"]
