"""JSON of the protocol as messages: parts, calls of tools, and whole conversations, each checked."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from noria.core.chat.messages import Audio, Clip, Image, Message, Part, Role, Text, ToolCall
from noria.core.errors import DataError

ROLES: dict[str, Role] = {**{role: role for role in get_args(Role)}, "developer": "system"}
"""Roles of the protocol, and what they are here."""


def read_messages(values: Any) -> tuple[Message, ...]:
    """Read a conversation.

    Raises:
        DataError: with the number of the message, what is no message of the protocol.
    """
    if not isinstance(values, list) or not values:
        raise DataError("messages is no list with something in it", where="messages")
    messages = []
    for number, value in enumerate(values):
        try:
            messages.append(read_message(value))
        except DataError as error:
            raise DataError(error.what, where=f"messages[{number}]", mend=error.mend) from None
    return tuple(messages)


def read_message(value: Any) -> Message:
    """Read a message.

    Raises:
        DataError: it is none of the protocol's.
    """
    named = value.get("role") if isinstance(value, Mapping) else None
    role = ROLES.get(named) if isinstance(named, str) else None
    if role is None:
        raise DataError(f"a message has one of the roles {', '.join(ROLES)}")
    content, call = value.get("content"), value.get("tool_call_id")
    if isinstance(content, str):
        parts: tuple[Part, ...] = (Text(content),)
    elif isinstance(content, list):
        parts = read_parts(content)
    elif content is None:
        parts = ()
    else:
        raise DataError("content is a text or a list of parts")
    if (role == "tool") != isinstance(call, str):
        raise DataError("a message of a tool, and no other, has a tool_call_id")
    return Message(role, parts, read_tool_calls(value.get("tool_calls")), call)


def read_tool_calls(values: Any) -> tuple[ToolCall, ...]:
    """Read the calls that a message asks for; none where the field is absent.

    Raises:
        DataError: they are none of the protocol's.
    """
    if values is None:
        return ()
    calls = []
    for value in values if isinstance(values, list) else [None]:
        call: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        function: Any = call.get("function")
        function = function if isinstance(function, Mapping) else {}
        fields: list[Any] = [call.get("id"), function.get("name"), function.get("arguments", "")]
        if not all(isinstance(field, str) for field in fields):
            raise DataError("tool_calls is a list of {id, type: function, function: {name, arguments}}")
        calls.append(ToolCall(*fields))
    return tuple(calls)


def read_parts(values: Sequence[Any]) -> tuple[Part, ...]:
    """Read the parts of a message. Addresses on the network are not fetched: files come as `data:` URLs.

    Raises:
        DataError: a part is of another type, or its file is none.
    """
    parts: list[Part] = []
    for value in values:
        kind = value.get("type") if isinstance(value, Mapping) else None
        reader = _READERS.get(kind) if isinstance(kind, str) else None
        if reader is None:
            raise DataError(f"a part has one of the types {', '.join(_READERS)}")
        parts.append(reader(value))
    return tuple(parts)


def data_url(url: Any) -> tuple[str, bytes]:
    """Media type and content of a `data:` URL in base64.

    Raises:
        DataError: it is another URL, or damaged.
    """
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise DataError(
            "a file comes as a data: URL in base64; addresses are not fetched", mend="send its content"
        )
    try:
        return head[5:].split(";")[0] or "text/plain", base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise DataError("the content of a data: URL is not base64") from None


def _text(value: Mapping[str, Any]) -> Text:
    text = value.get("text")
    if not isinstance(text, str):
        raise DataError("a part of text has text")
    return Text(text)


def _image(value: Mapping[str, Any]) -> Image:
    url = value.get("image_url")
    fields = url if isinstance(url, Mapping) else {"url": url}
    detail = fields.get("detail")
    if detail not in (None, "auto", "low", "high"):
        raise DataError("detail is auto, low or high")
    return Image(data_url(fields.get("url"))[1], detail)


def _clip(value: Mapping[str, Any]) -> Clip:
    url = value.get("video_url")
    media_type, content = data_url(url.get("url") if isinstance(url, Mapping) else url)
    return Clip(content, media_type)


def _audio(value: Mapping[str, Any]) -> Audio:
    sound = value.get("input_audio")
    fields = sound if isinstance(sound, Mapping) else {}
    form = fields.get("format")
    if form not in ("wav", "mp3", "flac", "opus") or not isinstance(fields.get("data"), str):
        raise DataError("input_audio is {data, format}, as wav, mp3, flac or opus")
    try:
        return Audio(base64.b64decode(fields["data"], validate=True), form)
    except (binascii.Error, ValueError):
        raise DataError("the data of input_audio is not base64") from None


_READERS: dict[str, Callable[[Mapping[str, Any]], Part]] = {
    "text": _text,
    "image_url": _image,
    "video_url": _clip,
    "input_audio": _audio,
}
