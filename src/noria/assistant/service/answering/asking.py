"""One request to a route's backend: its body, and the outcome of the reply."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from noria.core.chat.faults import GarbageError
from noria.core.chat.forwarding import Forwarder
from noria.core.chat.outcomes import Answer, Failure, Outcome, Refusal
from noria.core.chat.replies import read_reply
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import needing
from noria.core.learning.routes.route import Route

with needing("serve"):
    import msgspec

GARBAGE = (GarbageError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError)
"""What reading a backend's reply, whole or streamed, raises where it does not follow the protocol."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


async def ask(
    forwarder: Forwarder, route: Route, query: CompletionRequest, *, within: float
) -> tuple[Outcome, dict[str, Any] | None]:
    """Ask a route's backend; the outcome, and the JSON of the reply where there is one.

    Args:
        forwarder: connection to the backend.
        route: how the request is answered.
        query: the request.
        within: longest time in seconds.
    """
    reply = await forwarder.forward(composed(query, route, forwarder), within=within)
    if isinstance(reply, Failure | Refusal):
        return reply, None
    try:
        content = _decode(reply.body)
        outcome = read_reply(content, forwarder.server.prices)
    except GARBAGE:
        return Failure("garbage", "the reply holds no message", attempts=reply.attempts), None
    return timed(outcome, reply.seconds, reply.attempts), content


def composed(query: CompletionRequest, route: Route, forwarder: Forwarder, *, stream: bool = False) -> bytes:
    """Body of the request to a route's backend: the caller's, with the route's model, system message and sampling."""
    server = forwarder.server
    content = {
        name: value for name, value in query.content.items() if name not in ("user", "metadata", "store")
    }
    content["model"] = server.model
    if route.system:
        content["messages"] = [{"role": "system", "content": route.system}, *query.messages]
    for name, value in route.sampling.items():
        content.setdefault(name, value)
    length = content.pop("max_completion_tokens", content.pop("max_tokens", None))
    if length is not None:
        content[server.length_field] = length
    if stream:
        content["stream"] = True
        content["stream_options"] = {"include_usage": True}
    for name in server.refuses:
        content.pop(name, None)
    return _encode(content)


def timed(outcome: Answer | Refusal, seconds: float, attempts: int) -> Answer | Refusal:
    """The outcome with the time and attempts that it took."""
    return replace(outcome, seconds=seconds, attempts=attempts)
