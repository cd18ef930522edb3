"""Editors on a server that has OpenAI's `/v1/images/edits`: vLLM-Omni, SGLang, this project's own, or an API."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from PIL import Image
from PIL.Image import Image as Picture

from noria.core.chat.faults import Fault, fault_of
from noria.core.chat.outcomes import Failure as ChatFailure
from noria.core.chat.sending import Sender
from noria.core.chat.settings import ChatServer
from noria.core.errors import DataError, needing
from noria.core.picture_files import open_picture, png
from noria.editing.types import EditorError, Failure

MOST_RECENT = 32
"""Most pictures that are kept encoded."""
_KINDS: dict[str, tuple[Failure, bool]] = {
    "timeout": ("timeout", True),
    "connection": ("unreachable", True),
    "cut": ("unreachable", True),
    "rate_limit": ("unreachable", True),
    "server": ("unreachable", True),
    "busy": ("unreachable", True),
}
"""Failures that may pass by the kind of the fault, and whether another try is worth it; all others are `broken`."""


class ImagesServer(Sender):
    """A server of OpenAI's image routes. Use it as an asynchronous context, from one event loop.

    Args:
        server: settings of the server; its `attempts` and waits are those of every client of the core. A field that it
            names in `refuses` is not sent.

    Raises:
        ConfigError: the key's variable is not set.
        MissingExtra: the `openai` package is absent.
    """

    def __init__(self, server: ChatServer) -> None:
        super().__init__(server)
        with needing("openai"):
            import openai

            from noria.core.chat.transport import http_client
        self._openai = openai.AsyncOpenAI(
            base_url=server.url,
            api_key=self._key,
            timeout=server.timeout,
            max_retries=0,
            http_client=http_client(server.url, timeout=server.timeout, largest=server.largest_reply),
        )
        self._recent: dict[int, tuple[Picture, bytes]] = {}
        self.name = f"{server.model} at {server.url}"
        if "seed" in server.refuses:
            self.name += ", unseeded"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._openai.close()

    async def _attempts(self, path: str, fields: dict[str, Any], files: list[Any] | None = None) -> Any:
        """The JSON of the reply, after as many attempts as it takes; a form where files are sent."""
        fields = {name: value for name, value in fields.items() if name not in self.server.refuses}
        form: dict[str, Any] = {
            "files": files,
            "options": {"headers": {"Content-Type": "multipart/form-data"}},
        }
        began = time.monotonic()
        for attempt in range(1, self.server.attempts + 1):
            try:
                await self.turn(None)
                async with asyncio.timeout(self.server.timeout):
                    return await self._openai.post(
                        path, body=fields, cast_to=object, **(form if files else {})
                    )
            except Exception as error:
                fault = fault_of(error)
                if fault is None:
                    raise
            wait = self.wait(fault, attempt)
            if wait is None:
                raise self._error(fault, attempt, time.monotonic() - began)
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt ends it")

    def _error(self, fault: Fault, attempts: int, seconds: float) -> EditorError:
        outcome = self.failed(fault, attempts, seconds)
        if not isinstance(outcome, ChatFailure) or _moderated(fault):
            return EditorError("the editor declined the request", kind="refused", where=self.server.url)
        kind, retry = _KINDS.get(outcome.kind, ("broken", False))
        return EditorError(
            f"{outcome.kind}: {outcome.message}", kind=kind, retry=retry, where=self.server.url
        )


class ServerEditor(ImagesServer):
    """An editor on a server that has `/v1/images/edits`.

    The form has the fields prompt, model, image (or image[] for several), mask and seed. A field that the settings name
    in `refuses` is not sent; where the request needs it (a mask, several images), that is an error.
    """

    async def edit(
        self, images: Sequence[Picture], plan: str, seed: int, *, mask: Picture | None = None
    ) -> Picture:
        """Send the pictures and the plan.

        Raises:
            EditorError: the server refused, failed, or answered with something else than one picture.
        """
        if mask is not None and "mask" in self.server.refuses:
            raise EditorError("the server takes no mask", kind="unsupported", where=self.server.url)
        if len(images) > 1 and "images" in self.server.refuses:
            raise EditorError("the server takes one picture", kind="unsupported", where=self.server.url)
        fields = {"prompt": plan, "model": self.server.model, "seed": str(seed), "n": "1"}
        name = "image" if len(images) == 1 else "image[]"
        files = [(name, (f"{n}.png", self._encoded(image), "image/png")) for n, image in enumerate(images)]
        if mask is not None:
            files.append(("mask", ("mask.png", png(_clear_where(images[0], mask)), "image/png")))
        async with self.place(None):
            reply = await self._attempts("/images/edits", fields, files)
            return await asyncio.to_thread(_picture, reply, self.server.url)

    def _encoded(self, image: Picture) -> bytes:
        """A picture as a PNG; rollouts of a group send the same one, which is encoded once."""
        if id(image) not in self._recent:
            self._recent[id(image)] = (image, png(image))  # holding the picture keeps its id its own
            if len(self._recent) > MOST_RECENT:
                del self._recent[next(iter(self._recent))]
        return self._recent[id(image)][1]


class ServerGenerator(ImagesServer):
    """A text-to-image model on a server that has `/v1/images/generations`."""

    async def generate(self, prompt: str, seed: int, *, size: tuple[int, int] | None = None) -> Picture:
        """Make a picture of a description.

        Raises:
            EditorError: there is none.
        """
        fields: dict[str, Any] = {"prompt": prompt, "model": self.server.model, "seed": seed, "n": 1}
        if size is not None:
            fields["size"] = f"{size[0]}x{size[1]}"
        async with self.place(None):
            reply = await self._attempts("/images/generations", fields)
            return await asyncio.to_thread(_picture, reply, self.server.url)


def _moderated(fault: Fault) -> bool:
    """Whether a refusal is about the content: OpenAI's edits say `moderation_blocked`, others `safety` or `nsfw`."""
    words = fault.message.lower()
    return fault.status in (400, 403, 422) and any(
        word in words for word in ("moderation", "safety system", "content policy", "nsfw")
    )


def _clear_where(image: Picture, mask: Picture) -> Picture:
    """The mask as the protocol has it: the picture, transparent where it may change."""
    clear = image.convert("RGBA")
    clear.putalpha(Image.eval(mask, lambda value: 255 - value))
    return clear


def _picture(reply: Any, url: str) -> Picture:
    """The one picture of a reply.

    Raises:
        EditorError: there is none that can be read. A link is not followed: it may lead anywhere.
    """
    data = reply.get("data") if isinstance(reply, dict) else None
    first = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
    encoded = first.get("b64_json")
    if not isinstance(encoded, str):
        link = isinstance(first.get("url"), str)
        what = "a link in the place of a picture" if link else "a reply without a picture"
        mend = "set the server to answer in base64" if link else None
        raise EditorError(what, where=url, mend=mend)
    try:
        return open_picture(base64.b64decode(encoded, validate=True), where=f"the reply of {url}")
    except binascii.Error:
        raise EditorError("a picture that is no base64", where=url) from None
    except DataError as error:
        raise EditorError(error.what, where=url) from None
