"""Identifiers and times of traces: ids that sort by time, a clock that never goes back, users without their names."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import threading
import time
import uuid
from collections.abc import Callable

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Clock:
    """Nanoseconds since 1970 that grow with every call, also when the system's clock is set back."""

    def __init__(self, source: Callable[[], int] = time.time_ns) -> None:
        self._source = source
        self._last = 0
        self._one_at_a_time = threading.Lock()

    def __call__(self) -> int:
        """The present, or one nanosecond after the last call where that is later."""
        with self._one_at_a_time:
            self._last = max(self._last + 1, self._source())
            return self._last


def new_id(now: int) -> str:
    """A UUID of version 7 (RFC 9562) at a time; later times sort later, down to a quarter of a microsecond.

    Args:
        now: nanoseconds since 1970. The part of a millisecond fills the 12 bits after the version (method 3).
    """
    milliseconds, rest = divmod(now, 1_000_000)
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | (rest * 4096 // 1_000_000) << 64
    return str(uuid.UUID(int=value | 0b10 << 62 | _RANDOM.bits(62)))


class _Random:
    """Random bits of the system, read in blocks: a read of its own for each id takes longer than the rest of it."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Drop what was read; a forked process must not hand out the same bits."""
        self._block, self._place = b"", 0

    def bits(self, number: int) -> int:
        """Random bits, up to 64."""
        with self._one_at_a_time:
            if self._place + 8 > len(self._block):
                self._block, self._place = os.urandom(4096), 0
            word = self._block[self._place : self._place + 8]
            self._place += 8
        return int.from_bytes(word) >> (64 - number)


_RANDOM = _Random()
os.register_at_fork(after_in_child=_RANDOM.forget)


def content_id(*parts: str) -> str:
    """A UUID of version 8 that follows from these texts: what has the same ones has the same id."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"


def id_at(now: int) -> str:
    """The least id of a time: every id of then or later sorts after it."""
    return str(uuid.UUID(int=(max(0, now) // 1_000_000 & (1 << 48) - 1) << 80))


def is_id(text: str) -> bool:
    """Whether a text is an id as :func:`new_id` writes it."""
    return _ID.fullmatch(text) is not None


def user_key(secret: bytes, name: str) -> str:
    """Name under which a user is kept: HMAC-SHA-256 of the name, 128 bits in hex.

    Without the secret nobody can find out whose it is, not even by trying names.

    Args:
        secret: secret of the service, at least 16 bytes.
        name: user as the caller names them.
    """
    if len(secret) < 16:
        raise ValueError("a secret has at least 16 bytes")
    return hmac.new(secret, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]
