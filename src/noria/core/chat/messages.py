"""Messages and requests: content of text, images, video frames with their times, clips and audio."""

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

Role = Literal["system", "user", "assistant"]

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
class Message:
    """A message: its role and its parts."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text of the message, without its other parts."""
        return "\n".join(part.text for part in self.parts if isinstance(part, Text))

    def wire(self) -> dict[str, Any]:
        """The message as a JSON value of the protocol; its content is a string where all parts are text."""
        if all(isinstance(part, Text) for part in self.parts):
            return {"role": self.role, "content": self.text}
        return {"role": self.role, "content": [piece for part in self.parts for piece in part.wire()]}

    @property
    def encoded(self) -> bytes:
        """The message as JSON, from the parts' own encodings."""
        if all(isinstance(part, Text) for part in self.parts):
            return _json(self.wire())
        pieces = b",".join(part.encoded for part in self.parts)
        return b'{"role":%b,"content":[%b]}' % (_json(self.role), pieces)


def system(text: str) -> Message:
    """The system message: the instruction above a conversation."""
    return Message("system", (Text(text),))


def user(*parts: str | Part) -> Message:
    """A message of the user, of one or more parts in order."""
    return Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def assistant(text: str) -> Message:
    """A message of the model, from an earlier turn."""
    return Message("assistant", (Text(text),))


@dataclass(frozen=True)
class ChatRequest:
    """One request to a chat model.

    Attributes:
        messages: the conversation so far.
        temperature, top_p, seed, stop, max_tokens: sampling settings; the server chooses those that are None.
        response_format: format of the answer, such as `{"type": "json_schema", …}`.
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
