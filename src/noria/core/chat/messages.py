"""Messages and requests: content of text, images, video frames with their times, clips and audio; calls of tools."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from noria.core.errors import DataError

if TYPE_CHECKING:
    from noria.core.chat.outcomes import Outcome

Role = Literal["system", "user", "assistant", "tool"]

IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)
"""First bytes of image files, and their media type."""


class _Part:
    """A part of a message."""

    def wire(self) -> list[dict[str, Any]]:
        """The part as JSON values of the protocol."""
        raise NotImplementedError

    @cached_property
    def encoded(self) -> bytes:
        """The inside of `wire` as a JSON list, made once: requests that share an image do not encode it each."""
        return _json(self.wire())[1:-1]


@dataclass(frozen=True)
class Text(_Part):
    """A part that is text."""

    text: str

    def wire(self) -> list[dict[str, Any]]:
        """The part as JSON values of the protocol."""
        return [{"type": "text", "text": self.text}]


@dataclass(frozen=True)
class Image(_Part):
    """A PNG, JPEG, GIF or WebP file.

    Raises:
        DataError: the bytes are of another kind.
    """

    data: bytes = field(repr=False)
    detail: Literal["auto", "low", "high"] | None = None

    def __post_init__(self) -> None:
        _ = self.media_type

    @property
    def media_type(self) -> str:
        """Media type, by the first bytes."""
        for start, kind in IMAGES:
            if self.data.startswith(start):
                return kind
        if self.data[:4] == b"RIFF" and self.data[8:12] == b"WEBP":
            return "image/webp"
        raise DataError("no PNG, JPEG, GIF or WebP image", where="image", mend="encode it as one of them")

    def wire(self) -> list[dict[str, Any]]:
        """The part as JSON values of the protocol."""
        url = {"url": _data_url(self.media_type, self.data)}
        return [{"type": "image_url", "image_url": url | ({"detail": self.detail} if self.detail else {})}]


@dataclass(frozen=True)
class Frame:
    """An image of a video, and its time in seconds."""

    image: Image
    seconds: float

    @property
    def label(self) -> str:
        """The line of text in front of the frame."""
        return f"[t={self.seconds:.2f}s]"


@dataclass(frozen=True)
class Video(_Part):
    """Frames of a video, each sent as an image behind a line such as `[t=3.20s]`, for servers that only know images."""

    frames: tuple[Frame, ...]

    def wire(self) -> list[dict[str, Any]]:
        """The part as JSON values of the protocol."""
        parts = []
        for frame in self.frames:
            parts += Text(frame.label).wire() + frame.image.wire()
        return parts

    @cached_property
    def encoded(self) -> bytes:
        """The inside of `wire` as a JSON list; each frame's own encoding is used again."""
        return b",".join(
            piece for frame in self.frames for piece in (Text(frame.label).encoded, frame.image.encoded)
        )


@dataclass(frozen=True)
class Clip(_Part):
    """A video file, sent whole as `video_url` to servers that choose the frames themselves (vLLM, SGLang)."""

    data: bytes = field(repr=False)
    media_type: str = "video/mp4"

    def wire(self) -> list[dict[str, Any]]:
        """The part as JSON values of the protocol."""
        return [{"type": "video_url", "video_url": {"url": _data_url(self.media_type, self.data)}}]


@dataclass(frozen=True)
class Audio(_Part):
    """A sound file."""

    data: bytes = field(repr=False)
    format: Literal["wav", "mp3", "flac", "opus"] = "wav"

    def wire(self) -> list[dict[str, Any]]:
        """The part as JSON values of the protocol."""
        sound = {"data": base64.b64encode(self.data).decode(), "format": self.format}
        return [{"type": "input_audio", "input_audio": sound}]


Part: TypeAlias = Text | Image | Video | Clip | Audio


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that the model asks for.

    Attributes:
        id: id of the call, which the tool's message repeats.
        name: name of the tool.
        arguments: arguments as the model wrote them; a JSON object if it kept to the protocol.
    """

    id: str
    name: str
    arguments: str

    def wire(self) -> dict[str, Any]:
        """The call as a JSON value of the protocol."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@dataclass(frozen=True)
class Message:
    """A message: its role and its parts.

    Attributes:
        role: who speaks.
        parts: content of the message, in order.
        tool_calls: calls that a message of the model asks for.
        tool_call_id: id of the call that a message of a tool answers.
    """

    role: Role
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text of the message, without its other parts."""
        return "\n".join(part.text for part in self.parts if isinstance(part, Text))

    def wire(self) -> dict[str, Any]:
        """The message as a JSON value of the protocol; its content is a string where all parts are text."""
        if all(isinstance(part, Text) for part in self.parts):
            content: Any = self.text if self.parts or not self.tool_calls else None
        else:
            content = [piece for part in self.parts for piece in part.wire()]
        return {"role": self.role, "content": content} | self._calls

    @property
    def _calls(self) -> dict[str, Any]:
        """Fields of the message that concern tools."""
        fields: dict[str, Any] = {}
        if self.tool_calls:
            fields["tool_calls"] = [call.wire() for call in self.tool_calls]
        if self.tool_call_id is not None:
            fields["tool_call_id"] = self.tool_call_id
        return fields

    @property
    def encoded(self) -> bytes:
        """The message as JSON, from the parts' own encodings."""
        if all(isinstance(part, Text) for part in self.parts):
            return _json(self.wire())
        pieces = b",".join(part.encoded for part in self.parts)
        calls = _json(self._calls)[1:-1]
        return b'{"role":%b,"content":[%b]%b}' % (_json(self.role), pieces, b"," + calls if calls else b"")


def system(text: str) -> Message:
    """The system message: the instruction above a conversation."""
    return Message("system", (Text(text),))


def user(*parts: str | Part) -> Message:
    """A message of the user, of one or more parts in order."""
    return Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def assistant(text: str, *tool_calls: ToolCall) -> Message:
    """A message of the model, from an earlier turn; one that only calls tools has no text."""
    return Message("assistant", (Text(text),) if text or not tool_calls else (), tool_calls)


def tool(call: ToolCall | str, *parts: str | Part) -> Message:
    """The result of a tool: an answer to a call, or to the call of that id."""
    content = tuple(Text(part) if isinstance(part, str) else part for part in parts)
    return Message("tool", content, tool_call_id=call if isinstance(call, str) else call.id)


@dataclass(frozen=True)
class ChatRequest:
    """One request to a chat model.

    Attributes:
        messages: the conversation so far.
        temperature, top_p, seed, stop, max_tokens: sampling settings; the server chooses those that are None.
        response_format: format of the answer, such as `{"type": "json_schema", …}`.
        tools: tools that the model may call, as `{"type": "function", "function": {"name", "parameters", …}}`.
        tool_choice: "auto", "none", "required", or the tool that must be called; the server chooses where it is None.
        extra: more fields of the body, as the server documents them.
        sample: number of the draw, where one request is sent several times. It is not sent; it tells draws apart in the
            cache.
    """

    messages: tuple[Message, ...]
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    response_format: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0

    @classmethod
    def of(cls, *messages: Message | str, **sampling: Any) -> ChatRequest:
        """Make a request of these messages; a string is a message of the user."""
        return cls(tuple(user(m) if isinstance(m, str) else m for m in messages), **sampling)

    def wire(self, model: str, *, length_field: str = "max_tokens") -> dict[str, Any]:
        """The body of the request to `model`."""
        body: dict[str, Any] = {"model": model, "messages": [message.wire() for message in self.messages]}
        return body | self._options(length_field)

    def encoded(
        self, model: str, *, length_field: str = "max_tokens", omitted: Collection[str] = (), **more: Any
    ) -> bytes:
        """The body as JSON, with `more` fields and without those omitted; parts are encoded once for all requests."""
        rest = {"model": model} | self._options(length_field) | more
        rest = {name: value for name, value in rest.items() if name not in omitted}
        if "messages" in rest:
            return _json(rest)
        messages = b",".join(message.encoded for message in self.messages)
        return b'{"messages":[%b],%b' % (messages, _json(rest)[1:])

    def _options(self, length_field: str) -> dict[str, Any]:
        """Fields of the body besides the model and the messages."""
        options = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": list(self.stop) or None,
            length_field: self.max_tokens,
            "response_format": None if self.response_format is None else dict(self.response_format),
            "tools": [dict(one) for one in self.tools] or None,
            "tool_choice": self.tool_choice,
        }
        return {name: value for name, value in options.items() if value is not None} | dict(self.extra)


def request_key(url: str, body: bytes, sample: int) -> str:
    """SHA-256 of all that decides the answer: address, whole body, and number of the draw."""
    return hashlib.sha256(_json([url, sample]) + body).hexdigest()


class ChatModel(Protocol):
    """A chat model: on a server, in this process, or a recording."""

    async def ask(self, request: ChatRequest) -> Outcome:
        """Send one request. What goes wrong with a single request is its outcome; it does not raise."""
        ...


def _json(value: object) -> bytes:
    """JSON in ASCII with sorted keys: text may hold lone surrogates, which UTF-8 cannot encode."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
