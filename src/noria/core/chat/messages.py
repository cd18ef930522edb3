"""What is asked: messages whose content is text, images, video frames with their times, clips and audio."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from noria.core.errors import DataError

if TYPE_CHECKING:
    from noria.core.chat.outcomes import Outcome

__all__ = [
    "Audio",
    "ChatModel",
    "ChatRequest",
    "Clip",
    "Frame",
    "Image",
    "Message",
    "Part",
    "Text",
    "Video",
    "assistant",
    "system",
    "user",
]

Role = Literal["system", "user", "assistant"]

IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)
"""How image files begin."""


@dataclass(frozen=True)
class Text:
    """Words."""

    text: str

    def wire(self) -> list[dict[str, Any]]:
        """As the protocol has it."""
        return [{"type": "text", "text": self.text}]


@dataclass(frozen=True)
class Image:
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
        """Read off the first bytes."""
        for start, kind in IMAGES:
            if self.data.startswith(start):
                return kind
        if self.data[:4] == b"RIFF" and self.data[8:12] == b"WEBP":
            return "image/webp"
        raise DataError("no PNG, JPEG, GIF or WebP image", where="image", mend="encode it as one of them")

    def wire(self) -> list[dict[str, Any]]:
        """As the protocol has it."""
        url = {"url": _data_url(self.media_type, self.data)}
        return [{"type": "image_url", "image_url": url | ({"detail": self.detail} if self.detail else {})}]


@dataclass(frozen=True)
class Frame:
    """An image of a video, and its time in seconds."""

    image: Image
    seconds: float


@dataclass(frozen=True)
class Video:
    """Frames of a video, each sent as an image behind a line such as `[t=3.20s]`; every server of images takes it."""

    frames: tuple[Frame, ...]

    def wire(self) -> list[dict[str, Any]]:
        """As the protocol has it."""
        parts = []
        for frame in self.frames:
            parts += Text(f"[t={frame.seconds:.2f}s]").wire() + frame.image.wire()
        return parts


@dataclass(frozen=True)
class Clip:
    """A video file, sent whole as `video_url`; vLLM and SGLang take it, and choose the frames themselves."""

    data: bytes = field(repr=False)
    media_type: str = "video/mp4"

    def wire(self) -> list[dict[str, Any]]:
        """As the protocol has it."""
        return [{"type": "video_url", "video_url": {"url": _data_url(self.media_type, self.data)}}]


@dataclass(frozen=True)
class Audio:
    """A sound file."""

    data: bytes = field(repr=False)
    format: Literal["wav", "mp3", "flac", "opus"] = "wav"

    def wire(self) -> list[dict[str, Any]]:
        """As the protocol has it."""
        sound = {"data": base64.b64encode(self.data).decode(), "format": self.format}
        return [{"type": "input_audio", "input_audio": sound}]


Part: TypeAlias = Text | Image | Video | Clip | Audio


@dataclass(frozen=True)
class Message:
    """Who says it, and what."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """Its words, without the other parts."""
        return "\n".join(part.text for part in self.parts if isinstance(part, Text))

    def wire(self) -> dict[str, Any]:
        """As the protocol has it: a string where there are only words."""
        if all(isinstance(part, Text) for part in self.parts):
            return {"role": self.role, "content": self.text}
        return {"role": self.role, "content": [piece for part in self.parts for piece in part.wire()]}


def system(text: str) -> Message:
    """The instruction that stands above a conversation."""
    return Message("system", (Text(text),))


def user(*parts: str | Part) -> Message:
    """What a user says, in order."""
    return Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def assistant(text: str) -> Message:
    """What the model said."""
    return Message("assistant", (Text(text),))


@dataclass(frozen=True)
class ChatRequest:
    """One request.

    Attributes:
        messages: the conversation so far.
        temperature, top_p, seed, stop, max_tokens: of the sampling; what is None is left to the server.
        response_format: such as `{"type": "json_schema", …}`.
        extra: more fields of the body, as the server documents them.
        sample: which draw of the same request this is. It is not sent; it keeps draws apart in the cache.
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
        """A request of these messages; a string is what the user says."""
        return cls(tuple(user(m) if isinstance(m, str) else m for m in messages), **sampling)

    def wire(self, model: str, *, length_field: str = "max_tokens") -> dict[str, Any]:
        """The body of the request to `model`."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": list(self.stop) or None,
            length_field: self.max_tokens,
            "response_format": None if self.response_format is None else dict(self.response_format),
        }
        body: dict[str, Any] = {"model": model, "messages": [message.wire() for message in self.messages]}
        return body | {name: value for name, value in given.items() if value is not None} | dict(self.extra)


def request_key(url: str, body: Mapping[str, Any], sample: int) -> str:
    """SHA-256 of all that decides the answer: address, whole body, and which draw it is."""
    text = json.dumps([url, body, sample], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class ChatModel(Protocol):
    """Whatever answers chat requests: a server, a model in this process, a recording."""

    async def ask(self, request: ChatRequest) -> Outcome:
        """The outcome of one request. It does not raise for what can go wrong with a single request."""
        ...


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
