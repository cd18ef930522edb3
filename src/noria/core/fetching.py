"""The guard of the network: which addresses may be fetched, and a block that forbids sockets altogether.

Every address is resolved and checked before it is connected to, redirects included, so that a page cannot send the
reader to loopback, to a private network or to a cloud's metadata.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

from noria.core.errors import DataError, RunError

LARGEST_PAGE = 16_000_000
"""Most bytes of a page."""
LONGEST = 60.0
"""Most seconds of a fetch, redirects included."""
REDIRECTS = 5
TYPES = (
    "text/",
    "application/json",
    "application/pdf",
    "application/xhtml",
    "application/xml",
    "image/",
    "application/vnd",
    "application/octet-stream",
)
Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def check_address(url: str, *, resolver: Resolve = resolve) -> str:
    """Address of the network that a URL leads to, once it is known to be public.

    Raises:
        DataError: a malformed address, another scheme than HTTP or HTTPS, a name with a password, a port that is not
            the web's, or a host that is loopback, private, link-local, multicast or reserved.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise DataError(f"a malformed address: {error}", where=url[:120]) from None
    if parts.scheme not in ("http", "https"):
        raise DataError(f"addresses of kind {parts.scheme or 'none'!r} are not fetched", where=url[:120])
    if not parts.hostname or parts.username is not None:
        raise DataError("an address without a host, or with a password", where=url[:120])
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise DataError("a malformed port", where=url[:120]) from None
    if port not in (80, 443, 8080, 8443):
        raise DataError(f"port {port} is not the web's", where=url[:120])
    try:
        found = resolver(parts.hostname, port)
    except (OSError, UnicodeError) as error:
        raise DataError(f"the host is not known: {error}", where=url[:120]) from None
    for address in found:
        if not _is_public(address):
            raise DataError(f"the host is {address}, which is not public", where=url[:120])
    return found[0]


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return (mapped or address).is_global and not address.is_multicast


@contextlib.contextmanager
def within(seconds: float, where: str) -> Iterator[dict[str, Any]]:
    """Limit the whole time of requests of httpx2, whose own limits are those of a step: a server may drip for days.

    Each request takes what is yielded as its `extensions` and has the header `connection: close`. At the end of the
    time its connection is shut.

    Raises:
        RunError: the time is over, whether or not what came looks whole.
    """
    sockets: list[socket.socket] = []
    over = threading.Event()

    def shut() -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(
                    one, socket.SHUT_RDWR
                )  # TLS's own would wait for the thread that reads

    def follow(event: str, details: dict[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            sockets.append(details["return_value"].get_extra_info("socket"))
            if over.is_set():
                shut()

    def end() -> None:
        over.set()
        shut()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    late = RunError(f"not whole after {seconds:g} s", where=where[:120])
    try:
        yield {"trace": follow}
    except Exception:
        if over.is_set():
            raise late from None
        raise
    finally:
        timer.cancel()
    if over.is_set():
        raise late


def fetch(
    url: str, *, client: Any, resolver: Resolve = resolve, seconds: float = LONGEST
) -> tuple[str, str, bytes]:
    """Fetch a page within bounds; each redirect is checked again, and the checked address is the one connected to.

    Args:
        url: address of the page.
        client: an `httpx2.Client` that follows no redirects.
        resolver: gives the addresses of a host.
        seconds: most seconds, redirects included.

    Returns:
        The final address, the media type, and the bytes.

    Raises:
        DataError: the address is refused, or the answer is too large, of another type, or redirected too often.
        RunError: the server did not answer with a page, or not in time.
    """
    with within(seconds, url) as extensions:
        return _fetch(url, client, resolver, extensions)


def _fetch(url: str, client: Any, resolver: Resolve, extensions: dict[str, Any]) -> tuple[str, str, bytes]:
    import httpx2

    for _ in range(REDIRECTS + 1):
        address = check_address(url, resolver=resolver)
        parts = urlsplit(url)
        host = f"[{address}]" if ":" in address else address
        target = parts._replace(netloc=host + (f":{parts.port}" if parts.port else "")).geturl()
        headers = {"Host": parts.netloc, "User-Agent": "noria", "Connection": "close"}
        try:
            with client.stream(
                "GET", target, headers=headers, extensions={"sni_hostname": parts.hostname, **extensions}
            ) as reply:
                if reply.is_redirect:
                    url = urljoin(url, reply.headers.get("location", ""))
                    continue
                if reply.status_code != 200:
                    raise RunError(f"the server answers {reply.status_code}", where=url[:120])
                media = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
                if not media.startswith(TYPES):
                    raise DataError(f"a page of type {media!r} is not read", where=url[:120])
                return url, media, _bounded(reply, url)
        except httpx2.HTTPError as error:
            raise RunError(f"no answer: {type(error).__name__}", where=url[:120]) from None
        except (httpx2.InvalidURL, ValueError) as error:  # also where it is redirected to
            raise DataError(f"a malformed address: {error}", where=url[:120]) from None
    raise DataError(f"more than {REDIRECTS} redirects", where=url[:120])


def _bounded(reply: Any, url: str) -> bytes:
    parts = []
    size = 0
    for part in reply.iter_bytes():
        size += len(part)
        if size > LARGEST_PAGE:
            raise DataError(f"larger than {LARGEST_PAGE:,} bytes", where=url[:120])
        parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Forbid this process every internet socket inside the block.

    A connection that is tried raises RunError, which names the host. Sockets of the file system still work.
    """
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(self: socket.socket, address: Any) -> Any:
        if self.family == socket.AF_UNIX:
            return connect(self, address)
        raise RunError(
            f"a connection to {address[0]}", where="--offline", mend="leave --offline out to allow it"
        )

    def refuse_lookup(host: Any, *_: Any, **__: Any) -> Any:
        raise RunError(f"a look-up of {host}", where="--offline", mend="leave --offline out to allow it")

    setattr(socket.socket, "connect", refuse)  # noqa: B010
    setattr(socket.socket, "connect_ex", refuse)  # noqa: B010
    socket.getaddrinfo = refuse_lookup
    try:
        yield
    finally:
        setattr(socket.socket, "connect", connect)  # noqa: B010
        setattr(socket.socket, "connect_ex", connect_ex)  # noqa: B010
        socket.getaddrinfo = lookup
