"""Pictures and other files inside of messages, taken out as blobs by their hash and without a camera's notes."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from noria.core.storage.journal_file import blob_digest

PREFIX = "blob:sha256:"
"""Beginning of the text that stands where a file was: `blob:sha256:<digest>;<media type>`."""
_fast_decode: Callable[..., bytes]
try:  # five to ten times as fast; the extra `serve` brings it
    from pybase64 import b64decode as _fast_decode
except ImportError:
    _fast_decode = base64.b64decode
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,")


def take_out_blobs(value: Any) -> tuple[Any, dict[str, bytes]]:
    """JSON values without the files in them, and the files by digest.

    A file is a `data:` URL in base64 (chat completions), or an object with base64 `data` beside its `media_type` or
    `format` (messages with sources, sound). What is no base64 stays as it is. Of JPEG, PNG and WebP pictures the
    camera's notes (EXIF, XMP, comments) are left out; the pixels stay bit for bit.
    """
    blobs: dict[str, bytes] = {}

    def keep(content: bytes, media_type: str) -> str:
        content = without_notes(content)
        name = blob_digest(content)
        blobs[name] = content
        return f"{PREFIX}{name};{media_type}"

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            match = _DATA_URL.match(value) if value.startswith("data:") else None
            content = None if match is None else _decoded(value[match.end() :])
            return value if match is None or content is None else keep(content, match[1] or "text/plain")
        if isinstance(value, list):
            return [walk(item) for item in value]
        if isinstance(value, dict):
            media_type = value.get("media_type") or value.get("mimeType") or value.get("format")
            data = value.get("data")
            if isinstance(data, str) and isinstance(media_type, str) and not data.startswith("data:"):
                content = _decoded(data)
                if content is not None:
                    return {**value, "data": keep(content, media_type)}
            return {key: walk(item) for key, item in value.items()}
        return value

    return walk(value), blobs


def put_back_blobs(value: Any, blobs: Mapping[str, bytes]) -> Any:
    """JSON values with the files in them again as `data:` URLs; a blob that is gone stays a reference."""
    if isinstance(value, str) and value.startswith(PREFIX):
        name, _, media_type = value.removeprefix(PREFIX).partition(";")
        content = blobs.get(name)
        return (
            value
            if content is None
            else f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
        )
    if isinstance(value, list):
        return [put_back_blobs(item, blobs) for item in value]
    if isinstance(value, dict):
        return {key: put_back_blobs(item, blobs) for key, item in value.items()}
    return value


def blob_names(value: Any) -> Iterator[str]:
    """Digests of the blobs that JSON values name."""
    if isinstance(value, str):
        if value.startswith(PREFIX):
            yield value.removeprefix(PREFIX).partition(";")[0]
    elif isinstance(value, list):
        for item in value:
            yield from blob_names(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from blob_names(item)


def _decoded(text: str) -> bytes | None:
    try:
        return _fast_decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


# -- notes of a camera ------------------------------------------------------------------------------------------------


def without_notes(content: bytes) -> bytes:
    """A JPEG, PNG or WebP file without EXIF, XMP and comments; any other file, or a damaged one, as it is.

    The orientation goes with the EXIF of a JPEG: it is put back alone where it is not the usual one.
    """
    try:
        if content.startswith(b"\xff\xd8\xff"):
            return _jpeg(content)
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(content)
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return _webp(content)
    except (struct.error, IndexError):
        pass
    return content


def _jpeg(content: bytes) -> bytes:
    """Leave out APP1 (EXIF, XMP), APP13 (IPTC) and comments, up to the first scan."""
    parts, place = [content[:2]], 2
    while True:
        marker, code = content[place], content[place + 1]
        if marker != 0xFF:
            return content
        if code in (0xDA, 0xD9):  # start of the scan, or the end
            return b"".join([*parts, content[place:]])
        (length,) = struct.unpack_from(">H", content, place + 2)
        segment = content[place : place + 2 + length]
        if code == 0xE1 and segment[4:10] == b"Exif\0\0":
            orientation = _orientation(segment[10:])
            if orientation not in (None, 1):
                parts.append(_EXIF_ORIENTATION + struct.pack(">HHI", orientation, 0, 0))
        elif code not in (0xE1, 0xED, 0xFE):
            parts.append(segment)
        place += 2 + length


# APP1 with one entry: tag 0x0112 (orientation), type 3 (short), count 1; its value and the end of the list follow.
_EXIF_ORIENTATION = (
    b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08" + b"\0\x01" + b"\x01\x12" + b"\0\x03" + b"\0\0\0\x01"
)


def _orientation(tiff: bytes) -> int | None:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, start)
    for number in range(min(entries, 200)):
        tag, kind, _count = struct.unpack_from(order + "HHI", tiff, start + 2 + 12 * number)
        if tag == 0x0112 and kind == 3:
            (value,) = struct.unpack_from(order + "H", tiff, start + 10 + 12 * number)
            return int(value) if 1 <= value <= 8 else None
    return None


def _png(content: bytes) -> bytes:
    parts, place = [content[:8]], 8
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 12 + length
        if content[place + 4 : place + 8] not in (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME"):
            parts.append(content[place:end])
        place = end
    return b"".join(parts)


def _webp(content: bytes) -> bytes:
    parts, place = [], 12
    while place < len(content):
        (length,) = struct.unpack_from("<I", content, place + 4)
        end = place + 8 + length + length % 2
        name = content[place : place + 4]
        if name == b"VP8X":  # its flags say what follows: no EXIF, no XMP
            flags = content[place + 8] & ~0b1100
            parts.append(content[place : place + 8] + bytes([flags]) + content[place + 9 : end])
        elif name not in (b"EXIF", b"XMP "):
            parts.append(content[place:end])
        place = end
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
