"""Callers of a service: each has a token, rights, and a rate that holds in every minute."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from typing import Literal

from pydantic import Field

from noria.core.config import ENVIRONMENT, Config
from noria.core.errors import ConfigError

Right = Literal["chat", "feedback", "operate"]
"""What a caller may do: ask, say what it thought of an answer, or change what serves and read everything."""


class CallerConfig(Config):
    """A caller, as a configuration names it."""

    name: str = Field(pattern=r"^[\w.-]{1,80}$", description="Name of the caller, which its traces bear.")
    token_env: str = Field(
        pattern=ENVIRONMENT,
        description="Environment variable that holds the caller's token.",
    )
    rights: tuple[Right, ...] = Field(("chat", "feedback"), description="What the caller may do.")
    requests_per_minute: int | None = Field(
        None, ge=1, le=1_000_000, description="Most requests in any minute."
    )
    budget_per_day: float | None = Field(
        None,
        ge=0,
        description="Most that its requests may cost in a day (UTC), in the currency of the prices.",
    )


class Caller:
    """Somebody who calls the service.

    Args:
        name: name of the caller.
        rights: rights of the caller, such as asking or writing.
        requests_per_minute: most requests in any minute; None for no limit.
        clock: rising seconds.

    Attributes:
        share: the part of the limit that is this process's, where several share it; else the limit.
        more: asks for a larger share; True where there is one.
    """

    def __init__(
        self,
        name: str,
        rights: Collection[Right],
        requests_per_minute: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.rights, self.requests_per_minute = name, frozenset(rights), requests_per_minute
        self.share = requests_per_minute
        self.more: Callable[[], Awaitable[bool]] | None = None
        self._clock = clock
        self._times: deque[float] = deque()

    async def admit(self) -> int:
        """Do what `wait` does; where the share of this process is used up, a larger one is asked for first."""
        wait = self.wait()
        while wait and self.more is not None and await self.more():
            wait = self.wait()
        return wait

    @property
    def recent(self) -> int:
        """Number of requests in the last minute."""
        now = self._clock()
        while self._times and self._times[0] <= now - 60:
            self._times.popleft()
        return len(self._times)

    def wait(self) -> int:
        """Seconds until the caller may send a request; 0 where it may now, which counts as one."""
        if self.share is None:
            return 0
        now = self._clock()
        if self.recent >= self.share:
            return max(1, math.ceil(self._times[0] + 60 - now)) if self._times else 1
        self._times.append(now)
        return 0


class Callers:
    """Callers by their tokens, of which only digests are held.

    Raises:
        ConfigError: two callers share a name or a token.
    """

    def __init__(self, callers: Iterable[tuple[str, Caller]]) -> None:
        self._by_digest: dict[bytes, Caller] = {}
        for token, caller in callers:
            digest = _digest(token.encode())
            if digest in self._by_digest or caller.name in {one.name for one in self._by_digest.values()}:
                raise ConfigError("another caller has this name or token", where=f"callers.{caller.name}")
            self._by_digest[digest] = caller

    @classmethod
    def read(cls, configs: Iterable[CallerConfig]) -> Callers:
        """Callers of a configuration, with the tokens that their environment variables hold.

        Raises:
            ConfigError: a variable is not set, its token is too short, or two callers share a name or a token.
        """
        callers = []
        for config in configs:
            token = os.environ.get(config.token_env, "").strip()
            if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
                raise ConfigError(
                    f"the variable {config.token_env} holds no token: one word of at least 16 ASCII characters",
                    where=f"callers.{config.name}",
                    mend="make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
                )
            callers.append((token, Caller(config.name, config.rights, config.requests_per_minute)))
        return cls(callers)

    def __iter__(self) -> Iterator[Caller]:
        return iter(self._by_digest.values())

    def of(self, token: bytes) -> Caller | None:
        """The caller with this token. It is looked up by its digest, so that the time tells nothing of it."""
        return self._by_digest.get(_digest(token))


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
