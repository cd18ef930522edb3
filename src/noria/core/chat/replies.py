"""Replies of chat servers, whole or in pieces, as outcomes: text, refusal, reasoning, tool calls, images, usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noria.core.chat.faults import CutError, GarbageError
from noria.core.chat.messages import Part, ToolCall
from noria.core.chat.outcomes import Answer, Refusal, Usage
from noria.core.chat.settings import Prices
from noria.core.chat.wire import read_parts, read_tool_calls
from noria.core.errors import DataError


def read_reply(reply: Any, prices: Prices) -> Answer | Refusal:
    """Read an answer or a refusal from the JSON of a reply.

    Raises:
        GarbageError: it holds neither.
    """
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text, declined = message.get("content"), message.get("refusal")
        finish, model = choice.get("finish_reason"), reply.get("model")
        usage = read_usage(reply.get("usage"))
        reasoning = _reasoning(message)
        calls = read_tool_calls(message.get("tool_calls"))
        if isinstance(text, list):  # content in parts, as servers of image models send it
            parts = read_parts(text)
            text = "".join(part["text"] for part in text if part.get("type") == "text")
        else:
            parts = read_parts(message.get("images") or [])
    except (LookupError, TypeError, AttributeError, DataError):
        raise GarbageError("the reply holds no message") from None
    parts = tuple(part for part in parts if not hasattr(part, "text"))
    return _outcome(text, declined, finish, usage, model, reasoning, prices, calls, parts)


class StreamedReply:
    """The reply that the events of a stream add up to.

    Attributes:
        text: pieces of the answer's text so far.
    """

    def __init__(self) -> None:
        self.text: list[str] = []
        self.declined: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, dict[str, str]] = {}
        self.images: list[Any] = []
        self.finish: Any = None
        self.model: Any = None
        self.usage = Usage()

    @property
    def began(self) -> bool:
        """Whether any of the answer has arrived, which another attempt would repeat."""
        return bool(self.text or self.calls or self.images)

    def add(self, event: Any) -> str | None:
        """Add an event, and return its piece of text, if it has one.

        Raises:
            GarbageError: the event does not follow the protocol.
        """
        try:
            self.model = event.get("model") or self.model
            if event.get("usage") is not None:
                self.usage = read_usage(event["usage"])
            for choice in (event.get("choices") or [])[:1]:
                self.finish = choice.get("finish_reason") or self.finish
                delta = choice.get("delta") or {}
                self.declined.append("" + (delta.get("refusal") or ""))  # raises where it is no text
                self.reasoning.append(_reasoning(delta) or "")
                self.images += delta.get("images") or []
                for call in delta.get("tool_calls") or []:
                    self._add_call(call)
                piece = delta.get("content")
                if piece:
                    self.text.append("" + piece)
                    return self.text[-1]
        except (LookupError, TypeError, AttributeError):
            raise GarbageError("an event of the stream holds no piece of a message") from None
        return None

    def _add_call(self, piece: Mapping[str, Any]) -> None:
        """Add a piece of a call: the first has id and name, the others continue the arguments."""
        number = piece.get("index", 0)
        if type(number) is not int or not 0 <= number < 1024:
            raise TypeError("the number of a call is none")
        call = self.calls.setdefault(number, {"id": "", "name": "", "arguments": ""})
        function = piece.get("function") or {}
        call["id"] = "" + (piece.get("id") or call["id"])
        call["name"] += "" + (function.get("name") or "")
        call["arguments"] += "" + (function.get("arguments") or "")

    def outcome(self, prices: Prices) -> Answer | Refusal:
        """The outcome, once the events have ended.

        Raises:
            GarbageError: the stream was empty.
            CutError: the stream ended before the answer did.
        """
        if self.finish is None:
            raise CutError("the stream ended before the answer") if self.began else GarbageError("no answer")
        text, declined, reasoning = ("".join(part) for part in (self.text, self.declined, self.reasoning))
        calls = tuple(ToolCall(**call) for _, call in sorted(self.calls.items()))
        try:
            parts = read_parts(self.images)
        except DataError:
            raise GarbageError("an image of the stream is none") from None
        return _outcome(
            text, declined, self.finish, self.usage, self.model, reasoning or None, prices, calls, parts
        )


def _outcome(
    text: Any,
    declined: Any,
    finish: Any,
    usage: Usage,
    model: Any,
    reasoning: Any,
    prices: Prices,
    calls: tuple[ToolCall, ...],
    parts: tuple[Part, ...],
) -> Answer | Refusal:
    """Make an answer or a refusal of the fields of a reply, which may be of any type."""
    cost = prices.cost(usage)
    name = model if isinstance(model, str) else None
    if declined or finish == "content_filter":
        return Refusal(str(declined or text or "stopped by a content filter"), usage, cost, model=name)
    if text is None and (finish == "length" or calls or parts):
        text = ""  # the reasoning used up the whole length, or the answer is no text
    if not isinstance(text, str):
        raise GarbageError("the reply's message holds no text")
    return Answer(
        text,
        finish if isinstance(finish, str) else None,
        usage,
        cost,
        model=name,
        reasoning=reasoning,
        tool_calls=calls,
        parts=parts,
    )


def _reasoning(message: Any) -> str | None:
    """Reasoning in a message or its delta, by either of its names."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return reasoning if isinstance(reasoning, str) else None


def read_usage(values: Any) -> Usage:
    """Token counts of a reply; None where a count is missing or impossible."""
    if not isinstance(values, Mapping):
        return Usage()
    counts = [values.get(name) for name in ("prompt_tokens", "completion_tokens")]
    return Usage(*(n if type(n) is int and 0 <= n < 2**53 else None for n in counts))
