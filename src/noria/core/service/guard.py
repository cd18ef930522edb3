"""The guard of a service: host names, tokens and rights of callers, and bodies that are slow to arrive."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import ipaddress
import re
import time
from collections import Counter as Tally
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from noria.core.errors import needing
from noria.core.service.callers import Caller, Callers
from noria.core.service.responses import HttpError

if TYPE_CHECKING:
    from noria.core.service.exchange import Exchange
    from noria.core.service.routes import Request

with needing("serve"):
    from prometheus_client import CollectorRegistry, Counter

Access = Literal["open", "read", "write", "chat", "feedback"]
"""Who may call a route.

open        anyone
read        anyone on this machine, where the service has no callers; else, from elsewhere, or through a proxy that says
            so in a header, who has the service's token or a caller's with the right `operate`
write       who has the service's token or a caller's with the right `operate`
chat        where the service has callers, one with the right `chat`, within the caller's rate; else as `read`
feedback    likewise with the right `feedback`
"""

LOCAL = Caller("local", frozenset({"chat", "feedback"}))
"""Whoever calls from this machine without a token."""
OPERATOR = Caller("operator", frozenset({"chat", "feedback", "operate"}))
"""Whoever has the service's own token."""


@dataclass(frozen=True)
class Limits:
    """Limits of each request, and of their number.

    Attributes:
        body_bytes: most bytes of a body, as it arrives; more is 413.
        seconds: longest time from the first byte of the body to the last of the response; more is 408 while the body
            is still arriving, else 504. It stops a handler where it awaits, not one that computes.
        in_flight: most requests under way at once; one more is 503 with Retry-After. Bodies of one client address that
            are still arriving get three quarters of these places at most, and those that take longer than 2 s a
            quarter: the oldest end with 408 for the next one.
    """

    body_bytes: int = 8 << 20
    seconds: float = 30.0
    in_flight: int = 256


class Guard:
    """What a request has to pass before its endpoint is called.

    Args:
        token: secret of the service's own callers; None where it has none.
        callers: callers with tokens, rights and rates of their own, if any.
        limits: limits of requests to routes that have none of their own.
        hosts: host names by which the service may be called, beside `localhost` and numeric addresses.
        registry: registry of the count of refusals.

    Attributes:
        private: whether reading needs the token, too.
    """

    def __init__(
        self,
        token: str | None,
        callers: Callers | None,
        limits: Limits,
        hosts: Collection[str],
        registry: CollectorRegistry,
    ) -> None:
        self.token, self.callers, self.limits = token, callers, limits
        self.private = False
        self._digest = None if token is None else _digest(token.encode())
        self._hosts = {host.lower() for host in hosts}
        self._known_hosts: set[bytes] = set()
        self._arriving: dict[str, dict[Exchange, asyncio.Timeout]] = {}
        self._refused = Counter(
            "noria_http_refused", "Requests that the guard refused.", ["reason"], registry=registry
        )

    @property
    def guards_reading(self) -> bool:
        """Whether reading needs a token also on this machine: where each caller has one, nobody is without."""
        return self.private or self.callers is not None

    def identify(self, request: Request) -> Caller | None:
        """Who sent a request, for an open route that asks for rights itself; None where it needs a token."""
        exchange: Exchange = request.scope["noria.exchange"]
        caller = self._caller(exchange)
        if caller is None and not (self.guards_reading or exchange.forwarded):
            return LOCAL
        return caller

    def caller_with(self, token: bytes) -> Caller | None:
        """The caller who has this token: for a form that carries one, since browsers send a password by themselves."""
        if self._digest is not None and hmac.compare_digest(_digest(token), self._digest):
            return OPERATOR
        return self.callers.of(token) if self.callers is not None else None

    def is_trusted(self, request: Request) -> bool:
        """Whether a request has the token, for an open route that does more for such callers."""
        exchange: Exchange = request.scope["noria.exchange"]
        return self._has_token(exchange)

    def refusal(self, status: int, code: str, message: str, **more: Any) -> HttpError:
        """A refusal as an error to raise, which is counted."""
        self._refused.labels(code).inc()
        return HttpError(status, code, message, **more)

    def check_single(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Refuse a header that decides something and is there twice: we and a proxy might believe different ones.

        Raises:
            HttpError: 400.
        """
        names = Tally(name for name, _ in headers)
        for name in _SINGLE:
            if names[name] > 1:
                raise self.refusal(400, "header_twice", f"the header {name.decode()} is there twice")

    def check_host(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse foreign names. A page whose own host name resolves to this machine (DNS rebinding) sends such a name.

        Raises:
            HttpError: 421 for a foreign name, 403 for a page of another origin.
        """
        host = headers.get(b"host", b"")
        if host not in self._known_hosts:
            name = _host_name(host)
            if not (name in self._hosts or name == "localhost" or _is_address(name)):
                raise self.refusal(
                    421, "unknown_host", "this service is not called by that name; allow it when starting it"
                )
            if len(self._known_hosts) < 64:  # callers choose these names: the set must not grow without end
                self._known_hosts.add(host)
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != host:
            raise self.refusal(403, "foreign_origin", "pages of other origins may not call this service")

    def await_body(self, exchange: Exchange, clock: asyncio.Timeout) -> None:
        """Note that a body is arriving, and the clock that ends the request.

        Raises:
            HttpError: 503, too many of that address are.
        """
        arriving = self._arriving.setdefault(exchange.address, {})
        if len(arriving) >= max(1, self.limits.in_flight * 3 // 4):
            raise self.refusal(
                503, "busy", f"{len(arriving)} bodies are arriving", headers={"retry-after": "1"}
            )
        arriving[exchange] = clock

    def stop_awaiting_body(self, exchange: Exchange) -> None:
        """Note that a body is there, or that nobody waits for it any more."""
        arriving = self._arriving.get(exchange.address, {})
        arriving.pop(exchange, None)
        if not arriving:
            self._arriving.pop(exchange.address, None)

    def end_slow_bodies(self, address: str) -> None:
        """End the oldest requests whose bodies are slow to arrive, where they have the places of a whole address."""
        arriving = self._arriving.get(address, {})
        while len(arriving) >= max(1, self.limits.in_flight // 4):
            oldest = next(iter(arriving))
            if time.perf_counter() - oldest.began < _SLOW_SECONDS:
                return
            with contextlib.suppress(RuntimeError):  # it is ending by itself
                arriving.pop(oldest).reschedule(0.0)

    async def authorise(self, exchange: Exchange, access: Access) -> None:
        """Find the caller, and check that it has the right that a route needs, and its rate.

        Raises:
            HttpError: 401 without the right token, 403 where there is none or it lacks the right, 429 above the rate.
        """
        if access in ("chat", "feedback") and self.callers is not None:
            caller = self._caller(exchange)
            if caller is None:
                raise self.refusal(
                    401,
                    "wrong_token",
                    "this needs a caller's token as `Authorization: Bearer TOKEN`",
                    headers={"www-authenticate": 'Bearer realm="noria"'},
                )
            if access not in caller.rights:
                raise self.refusal(403, "no_right", f"{caller.name} has no right to {access}")
            wait = await caller.admit()
            if wait:
                raise self.refusal(
                    429,
                    "rate_limited",
                    f"{caller.name} may send {caller.requests_per_minute} requests a minute",
                    headers={"retry-after": str(wait)},
                )
            exchange.caller = caller
            return
        write = access == "write"
        caller = self._caller(exchange) if b"authorization" in exchange.headers else None
        if not (write or self.guards_reading or exchange.forwarded):
            exchange.caller = caller or LOCAL
            return
        if caller is None and self._digest is None and self.callers is None:
            raise self.refusal(
                403, "no_token_set", "the service was started without a token, so nothing can be changed"
            )
        if caller is None:
            ways = 'Bearer realm="noria"' if write else 'Basic realm="noria", Bearer realm="noria"'
            raise self.refusal(
                401,
                "wrong_token",
                "this needs the service's token as `Authorization: Bearer TOKEN`",
                headers={"www-authenticate": ways},
            )
        if "operate" not in caller.rights:
            raise self.refusal(403, "no_right", f"{caller.name} has no right to operate the service")
        exchange.caller = caller

    def _caller(self, exchange: Exchange) -> Caller | None:
        """The caller whose token a request has."""
        if self._has_token(exchange):
            return OPERATOR
        if self.callers is None:
            return None
        kind, _, token = exchange.headers.get(b"authorization", b"").strip().partition(b" ")
        if kind.lower() == b"bearer":
            return self.callers.of(token.strip())
        if kind.lower() == b"basic" and exchange.method in ("GET", "HEAD"):
            return self.callers.of(_password(token))
        return None

    def _has_token(self, exchange: Exchange) -> bool:
        kind, _, credentials = exchange.headers.get(b"authorization", b"").strip().partition(b" ")
        if self._digest is None:
            return False
        if kind.lower() == b"bearer":
            return hmac.compare_digest(_digest(credentials.strip()), self._digest)
        if kind.lower() == b"basic" and exchange.method in ("GET", "HEAD"):
            # A browser sends these by itself, also for a page of another origin: good enough to read, not to write.
            return hmac.compare_digest(_digest(_password(credentials)), self._digest)
        return False


_SINGLE = (b"host", b"origin", b"authorization", b"content-length", b"content-type", b"transfer-encoding")
_SLOW_SECONDS = 2.0


def _digest(text: bytes) -> bytes:
    """Digest of fixed length, so that the time of a comparison does not depend on what a caller sends."""
    return hashlib.sha256(text).digest()


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{0,5})?")


def _host_name(host: bytes) -> str:
    """Name in a Host header, without the port; empty where it is none."""
    match = _HOST.fullmatch(host.decode("latin-1").lower())
    return "" if match is None else match[1] or match[2]


def _is_address(name: str) -> bool:
    """Whether a host is a numeric address, which DNS cannot point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
