"""Endpoints of `noria mtp serve`.

POST   /v1/chat/completions   OpenAI's; usage counts accepted and rejected predictions, as OpenAI names them
GET    /v1/models             the one model that it serves
GET    /metrics               rounds in which a draft stood at each step, and those in which all up to it were accepted

Requests that wait are decoded together. A stream comes in one piece. What cannot be honoured is refused by name.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from noria.core.chat.outcomes import Answer, Usage
from noria.core.completions.answers import DONE, ChunkWriter, completion, event, model_list
from noria.core.completions.requests import CompletionRequest, read_completion
from noria.core.errors import ConfigError, DataError, NoriaError, caller_line, needing
from noria.core.service.batching import Batching
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request as HttpRequest, Response, Route, Service, route
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.decoding.decoder import Completion, Decoder, Request
from noria.mtp.decoding.sample_files import prompt_of

with needing("serve"):
    from prometheus_client import Counter

log = logging.getLogger("noria.serving")
_HONOURED = {"temperature", "top_p", "seed", "max_tokens", "top_k", "min_p", "user", "metadata", "store"}


class DraftingService:
    """A decoder behind OpenAI's route.

    Args:
        decoder: decodes, with drafts or without.
        tokenizer: tokenizer of the model.
        model: name that the service answers to; a request may leave it out.
        params: temperature and filters where a request has none.
        longest: most tokens of an answer; a request may ask for fewer.
        batch_size: requests that are decoded together.
        waiting: most requests that may wait; more are answered 429.
        seconds: longest time of a request.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        model: str,
        *,
        params: SamplingParams | None = None,
        longest: int = 512,
        batch_size: int = 16,
        waiting: int = 256,
        seconds: float = 300.0,
    ) -> None:
        self.decoder, self.tokenizer, self.model = decoder, tokenizer, model
        self.params, self.longest, self.seconds = params or SamplingParams(), longest, seconds
        self.batching: Batching[Request, Completion] = Batching(
            self._decode, size=batch_size, waiting=waiting
        )
        self._drafted: Counter | None = None
        self._accepted: Counter | None = None

    def routes(self) -> list[Route]:
        """The routes of the service."""
        return [
            route(
                "/v1/chat/completions",
                self._chat,
                methods=("POST",),
                body_bytes=4 << 20,
                seconds=self.seconds,
            ),
            route("/v1/models", self._models),
        ]

    @contextlib.asynccontextmanager
    async def around(self, service: Service) -> AsyncIterator[None]:
        """Decode while the service runs, and count what drafts meet."""
        own: dict[str, Any] = {"registry": service.registry}
        self._drafted = Counter(
            "noria_mtp_drafted", "Rounds in which a draft stood at a step.", ["step"], **own
        )
        self._accepted = Counter(
            "noria_mtp_accepted", "Rounds in which the drafts up to a step were accepted.", ["step"], **own
        )
        for step in range(1, self.decoder.gamma + 1):  # there from the start, so that a reader sees zeros
            self._drafted.labels(step), self._accepted.labels(step)
        async with self.batching.running():
            yield

    def _decode(self, requests: Sequence[Request]) -> Sequence[Completion]:
        return self.decoder.generate(requests)

    async def _models(self, request: HttpRequest) -> Response:
        return json_response(model_list([self.model]))

    async def _chat(self, request: HttpRequest) -> Response:
        query = read_completion(await request.body(), features=())
        if query.model not in ("", self.model):
            raise HttpError(404, "model_not_found", f"this serves {self.model!r}", param="model")
        wish = self._wish(query)
        if self.batching.full():
            raise HttpError(
                429, "busy", "too many requests are waiting; try again", headers={"retry-after": "1"}
            )
        try:
            (done,) = await request.unless_left(self.batching.ask([wish]))
        except DataError as error:
            raise HttpError(400, "bad_request", error.what, param="messages") from None
        except NoriaError as error:
            log.warning("a request was not decoded: %s", error)
            raise HttpError(502, "not_decoded", caller_line(error)) from None
        if done.finish == "invalid":
            raise HttpError(502, "not_finite", "the model's numbers were not finite there")
        self._count(done)
        text = self.tokenizer.decode(done.tokens, skip_special_tokens=True)
        answer = Answer(text, finish=done.finish, usage=Usage(len(wish.prompt), len(done.tokens)))
        if query.stream:
            return self._streamed(query, answer, done)
        whole = completion(self.model, answer)
        whole["usage"] |= details(done)
        return json_response(whole)

    def _wish(self, query: CompletionRequest) -> Request:
        """What is decoded for a request.

        Raises:
            HttpError: 400, it asks for what is not honoured here, or does not fit the model.
        """
        if unknown := sorted(query.chosen - _HONOURED):
            raise HttpError(400, "unsupported_field", f"{unknown[0]} is not honoured here", param=unknown[0])
        if not query.is_text:
            raise HttpError(400, "no_pictures", "this model reads text alone", param="messages")
        asked = {**query.passed, **query.sampling}
        try:
            params = SamplingParams(
                *(asked.get(name, getattr(self.params, name)) if asked.get(name) is not None
                  else getattr(self.params, name) for name in ("temperature", "top_k", "top_p", "min_p"))
            )  # fmt: skip
            prompt = prompt_of(self._record(query), self.tokenizer)
        except (ConfigError, DataError) as error:
            raise HttpError(400, "bad_request", error.what, param=error.where or "messages") from None
        longest = min(self.longest, asked.get("max_tokens") or self.longest)
        seed = secrets.randbelow(2**31) if asked.get("seed") is None else int(asked["seed"])
        return Request(prompt.tokens, longest, params, seed)

    def _record(self, query: CompletionRequest) -> dict[str, Any]:
        """The messages for the model's chat template; the last words of the user for a model that has none."""
        if getattr(self.tokenizer, "chat_template", None):
            return {"messages": query.messages}
        return {"prompt": query.question}

    def _streamed(self, query: CompletionRequest, answer: Answer, done: Completion) -> Response:
        writer = ChunkWriter(self.model)
        events = [writer.chunk({"role": "assistant", "content": answer.text}), writer.last(answer)]
        if query.include_usage:
            usage = {**completion(self.model, answer)["usage"], **details(done)}
            events.append(event(writer.head | {"choices": [], "usage": usage}))
        return Response(b"".join([*events, DONE]), 200, {"content-type": "text/event-stream"})

    def _count(self, done: Completion) -> None:
        for counter, counts in ((self._drafted, done.drafted), (self._accepted, done.accepted)):
            assert counter is not None
            for step, count in enumerate(counts, 1):
                counter.labels(step).inc(count)


def details(done: Completion) -> dict[str, Any]:
    """Accepted and rejected drafts of a completion, by OpenAI's names; nothing where there were none."""
    if not done.drafted:
        return {}
    accepted = sum(done.accepted)
    counts = {
        "accepted_prediction_tokens": accepted,
        "rejected_prediction_tokens": sum(done.drafted) - accepted,
    }
    return {"completion_tokens_details": counts}
