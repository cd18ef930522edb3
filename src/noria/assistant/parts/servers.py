"""The server behind a tool: where it is, and calls of it that are bounded in size and follow no redirect.

A server that the gateway started is found at each call, so that one that was started again is found where it is now.
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from noria.assistant.config.parts import LEARNT, ToolConfig
from noria.core.errors import DataError, ServedError, needing
from noria.core.records import json_value
from noria.core.tools import unwatched

if TYPE_CHECKING:
    import aiohttp

LARGEST = 64 << 20
"""Most bytes of an answer."""
POLL = 0.5
"""Seconds between two looks at a job, at first; it doubles up to eight times of it."""
Locate = Callable[[], tuple[str, Mapping[str, str]]]
"""Gives the address of a server and the headers of a call; raises RunError where it does not serve."""


class ToolServer:
    """Calls of one server.

    Args:
        config: settings of the tool.
        session: connections.
        locate: finds a server that the gateway started; that of the configured address by default.

    Attributes:
        version: content hash of what it answers by; None for what it was started with.
    """

    def __init__(
        self, config: ToolConfig, session: aiohttp.ClientSession, locate: Locate | None = None
    ) -> None:
        self.config, self._session, self._locate = config, session, locate
        self.version: str | None = None

    def at(self, artefacts: Mapping[str, str]) -> ToolServer:
        """A server that answers by the artefact of its kind; this one where there is none, or it takes no versions."""
        if not self.config.versions or LEARNT[self.config.kind] not in artefacts:
            return self
        one = copy.copy(self)
        one.version = artefacts[LEARNT[self.config.kind]]
        return one

    def place(self) -> tuple[str, dict[str, str]]:
        """Address of the interface, without a slash at its end, and the headers of a call.

        Raises:
            RunError: the server does not serve now. ConfigError: its key is not set.
        """
        if self._locate is None:
            return str(self.config.url).rstrip("/"), self.config.headers()
        address, headers = self._locate()
        if self.config.url is None:
            address = address.rstrip("/") + self.config.path
        return address.rstrip("/"), {**headers, **self.config.headers()}

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that a POST is answered with.

        Raises:
            RunError: it cannot be reached, refuses, or answers something else or too much.
        """
        return await self._json("POST", path, body)

    async def messages(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """The JSON objects that a POST is answered with: one, or one an event of a stream of events.

        Raises:
            RunError: it cannot be reached, refuses, or answers too much.
        """
        content, kind = await self._read("POST", path, body, headers)
        text = content.decode("utf-8", "replace")
        values = map(_json_of, events_in(text) if kind == "text/event-stream" else [text])
        return [value for value in values if value is not None]

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON object that a GET is answered with.

        Raises:
            RunError: as `post` does.
        """
        return await self._json("GET", path)

    async def file(self, path: str, *, limit: int, kinds: tuple[str, ...]) -> bytes:
        """The bytes of a file.

        Args:
            path: path of the file on the server.
            limit: most bytes.
            kinds: media types that it may have.

        Raises:
            RunError: as `post` does, and where the file is of another type.
        """
        content, kind = await self._read("GET", path, limit=limit)
        if kind not in kinds:
            raise ServedError(f"it gave another type than {kinds[0]}", where=self.place()[0])
        return content

    async def job(
        self, path: str, body: Mapping[str, Any], progress: Callable[[float], None] = unwatched
    ) -> tuple[str, dict[str, Any]]:
        """Id and result of long work: accepted, then looked at until it is done; cancelled where the caller leaves.

        Args:
            path: path of the work.
            body: what is asked for.
            progress: hears the share of it that is done.

        Raises:
            RunError: as `post` does, and where the job failed.
        """
        accepted = await self.post(path, body)
        number = accepted.get("id")
        if not isinstance(number, str) or not number.isascii() or not 0 < len(number.replace("-", "")) <= 64:
            raise ServedError("the server accepted no job", where=self.place()[0])
        if not number.replace("-", "").isalnum():
            raise ServedError("the id of the job is none", where=self.place()[0])
        wait = POLL
        try:
            while (job := await self.get(f"jobs/{number}")).get("state") in ("queued", "running"):
                share = job.get("progress")
                if isinstance(share, int | float) and 0 <= share <= 1:
                    progress(float(share))
                await asyncio.sleep(wait)
                wait = min(8 * POLL, 2 * wait)
        except BaseException:
            task = asyncio.ensure_future(self._cancel(number))  # outlives the cancelled call
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        if (state := job.get("state")) != "done":
            ended = f"ended as {state!r}" if state in ("failed", "cancelled") else "is in no known state"
            raise ServedError(f"the job {ended}", where=self.place()[0])
        return number, await self.get(f"jobs/{number}/result")

    async def _cancel(self, number: str) -> None:
        async with asyncio.timeout(5):
            await self._read("DELETE", f"jobs/{number}")

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        content, _ = await self._read(method, path, body)
        value = _json_of(content.decode("utf-8", "replace"))
        if value is None:
            raise ServedError("the answer is no JSON object that can be kept", where=self.place()[0])
        return value

    async def _read(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        limit: int = LARGEST,
    ) -> tuple[bytes, str]:
        with needing("serve"):
            import aiohttp
        base, own = self.place()
        url = f"{base}/{path}" if path else base
        sent = {"accept": "application/json, text/event-stream", **own, **(headers or {})}
        try:
            async with self._session.request(
                method, url, json=body, headers=sent, allow_redirects=False
            ) as answer:
                content = bytearray()
                async for chunk in answer.content.iter_chunked(1 << 16):
                    content += chunk
                    if len(content) > limit:
                        raise ServedError("the answer is too large", where=url)
                if answer.status >= 300:
                    raise ServedError(f"the server answered {answer.status}", where=url)
                return bytes(content), answer.content_type
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServedError(f"it cannot be reached: {type(error).__name__}", where=url) from error


def _json_of(text: str) -> dict[str, Any] | None:
    """The JSON object of an answer; None where it is none that can be kept."""
    try:
        value = json_value(text, "answer")
    except DataError:
        return None
    return value if isinstance(value, dict) else None


_LINE = re.compile("\r\n|\n|\r")
"""End of a line of a stream of events; other separators, such as U+2028, stand inside of one."""


def events_in(text: str) -> list[str]:
    """The data of each event of a stream of server-sent events; an event without data is left out."""
    events: list[str] = []
    data: list[str] = []
    for line in [*_LINE.split(text.removeprefix("\ufeff")), ""]:
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif not line:
            events += ["\n".join(data)] if any(data) else []
            data = []
    return events


def text_of(result: Mapping[str, Any], name: str, most: int) -> str:
    """A text of a server's result, in one line and cut to a length.

    Raises:
        DataError: there is no such text.
    """
    value = result.get(name)
    if not isinstance(value, str):
        raise DataError(f"the result has no {name}", where="tool")
    return " ".join(value.split())[:most]
