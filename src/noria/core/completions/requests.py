"""Requests for chat completions: read and checked, without a parse of what the service only passes on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from noria.core.chat.messages import ChatRequest, Message
from noria.core.chat.wire import ROLES, read_messages
from noria.core.errors import DataError
from noria.core.service.responses import HttpError, read_json

FEATURES = (
    "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "logprobs", "top_logprobs",
    "prompt_logprobs", "modalities", "audio", "echo", "best_of",
)  # fmt: skip
"""Parameters of which an answer has parts that not every service passes on."""
_READ = frozenset(
    {"messages", "model", "stream", "stream_options", "n", "temperature", "top_p", "seed", "max_tokens"}
    | {"max_completion_tokens", "stop", "response_format", *FEATURES}
)
_NOTHING: tuple[Any, ...] = (
    None,
    False,
    0,
    "none",
    [],
    {},
    ["text"],
)  # values by which a parameter asks for nothing


@dataclass(frozen=True)
class CompletionRequest:
    """A request for a chat completion.

    Attributes:
        content: the body's fields, without those that are null.
        model: name of the model; empty where the request has none.
        stream: whether the answer is streamed.
        include_usage: whether a stream ends with the count of its tokens.
        sampling: settings of the sampling, checked, by the names of `ChatRequest`.
    """

    content: Mapping[str, Any]
    model: str
    stream: bool
    include_usage: bool
    sampling: Mapping[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages as they came."""
        messages: list[dict[str, Any]] = self.content["messages"]
        return messages

    @property
    def question(self) -> str:
        """Text of the last message of a user; empty where there is none."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return text_of(message.get("content"))
        return ""

    @property
    def is_text(self) -> bool:
        """Whether the messages are text alone."""
        contents = [message.get("content") for message in self.messages]
        return all(
            not isinstance(content, list) or all(part["type"] == "text" for part in content)
            for content in contents
        )

    @property
    def passed(self) -> dict[str, Any]:
        """Fields that this reader does not know, which a backend may."""
        return {name: value for name, value in self.content.items() if name not in _READ}

    @property
    def chosen(self) -> frozenset[str]:
        """Names of the parameters that the caller has set, besides model, messages and streaming."""
        nothing = (None, (), {"type": "text"})
        asked = {name for name, value in self.sampling.items() if value not in nothing}
        featured = {name for name in FEATURES if self.content.get(name) not in _NOTHING}
        return frozenset(self.passed) | asked | featured

    @cached_property
    def conversation(self) -> tuple[Message, ...]:
        """The messages with all their parts.

        Raises:
            HttpError: 400, one of them cannot be read whole.
        """
        try:
            return read_messages(self.messages)
        except DataError as error:
            raise HttpError(400, "bad_message", str(error), param="messages") from None

    def chat_request(self) -> ChatRequest:
        """The request as a chat model takes it.

        Raises:
            HttpError: 400, one of its messages cannot be read whole.
        """
        tools = self.content.get("tools") or ()
        extra = self.passed | {
            name: self.content[name]
            for name in FEATURES
            if name not in ("tools", "tool_choice") and name in self.content
        }
        return ChatRequest(
            self.conversation,
            **self.sampling,
            tools=tuple(tools),
            tool_choice=self.content.get("tool_choice"),
            extra=extra,
        )


def read_completion(body: bytes, *, features: Collection[str] = FEATURES) -> CompletionRequest:
    """Read the body of a request.

    Args:
        body: JSON of the request.
        features: those of `FEATURES` that the service passes on; the others are refused by name.

    Raises:
        HttpError: 400, it is none of the protocol's, or asks for what is not served.
    """
    content = read_json(body)
    if not isinstance(content, dict):
        raise HttpError(400, "bad_json", "the body is not a JSON object")
    content = {name: value for name, value in content.items() if value is not None}
    model = content.get("model", "")
    if not isinstance(model, str):
        raise HttpError(400, "bad_model", "model is a name", param="model")
    messages = content.get("messages")
    if not isinstance(messages, list) or not messages:
        raise HttpError(400, "no_messages", "messages is no list with something in it", param="messages")
    if content.get("n", 1) != 1:
        raise HttpError(400, "one_choice", "one choice is all there is", param="n")
    for name in FEATURES:
        if name not in features and content.get(name) not in _NOTHING:
            code = "no_tools" if name == "tools" else "unsupported_parameter"
            raise HttpError(400, code, f"{name} is not served here", param=name)
    for message in messages:
        _check_message(message)
    if not any(message["role"] == "user" for message in messages):
        raise HttpError(400, "no_question", "no message of a user", param="messages")
    _check_tools(content)
    stream, usage = _streaming(content)
    return CompletionRequest(content, model, stream, usage, _sampling(content))


def text_of(content: Any) -> str:
    """Text of a message's content, without its other parts."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def _check_message(raw: Any) -> None:
    """Check the shape of a message; its files are left to whoever opens them."""

    def check(right: bool, what: str) -> None:
        if not right:
            raise HttpError(400, "bad_message", what, param="messages")

    fields = raw if isinstance(raw, dict) else {}
    role, content = fields.get("role"), fields.get("content")
    is_message = isinstance(role, str) and role in ROLES and isinstance(content, str | list | None)
    check(is_message, "a message has a role and content")
    if isinstance(content, list):
        is_typed = all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content)
        check(is_typed, "a part of a message has a type")
        words = [part.get("text") for part in content if part["type"] == "text"]
        check(all(isinstance(word, str) for word in words), "a part of text has text")


def _check_tools(content: Mapping[str, Any]) -> None:
    tools = content.get("tools", [])
    right = isinstance(tools, list) and all(
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
        for tool in tools
    )
    if not right:
        raise HttpError(
            400,
            "bad_tools",
            "tools is a list of {type: function, function: {name, parameters}}",
            param="tools",
        )
    if not isinstance(content.get("tool_choice", ""), str | dict):
        raise HttpError(400, "bad_tools", "tool_choice is a word or a tool", param="tool_choice")


def _streaming(content: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the answer is streamed, and whether the stream ends with the count of its tokens."""
    stream, options = content.get("stream", False), content.get("stream_options", {})
    if not isinstance(stream, bool):
        raise HttpError(400, "bad_stream", "stream is true or false", param="stream")
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool):
        raise HttpError(400, "bad_stream", "stream_options is {include_usage}", param="stream_options")
    for name, value in options.items():
        if value and name != "include_usage":
            where = f"stream_options.{name}"
            raise HttpError(400, "unsupported_parameter", f"{where} is not served here", param=where)
    return stream, options.get("include_usage", False)


def _sampling(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the sampling, each checked; the backends may call them otherwise."""

    def check(right: bool, name: str, what: str) -> None:
        if not right:
            raise HttpError(400, "bad_sampling", f"{name} is {what}", param=name)

    settings: dict[str, Any] = {}
    for name, high in (("temperature", 100), ("top_p", 1)):
        value = content.get(name)
        if value is not None:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            check(is_number and 0 <= value <= high, name, f"a number from 0 to {high}")
            settings[name] = value
    if "max_tokens" in content and "max_completion_tokens" in content:
        check(content["max_tokens"] == content["max_completion_tokens"], "max_tokens", "given twice")
    for name, least in (("seed", -(2**63) + 1), ("max_tokens", 1), ("max_completion_tokens", 1)):
        value = content.get(name)
        if value is not None:
            check(type(value) is int and least <= value < 2**63, name, "no such whole number")
            settings["seed" if name == "seed" else "max_tokens"] = value
    stop = content.get("stop")
    stop = [stop] if isinstance(stop, str) else stop or []
    is_texts = isinstance(stop, list) and all(isinstance(text, str) and text for text in stop)
    check(is_texts, "stop", "a text or a list of texts")
    form = content.get("response_format")
    check(isinstance(form, dict | None), "response_format", "an object")
    return settings | {"stop": tuple(stop), "response_format": form}
