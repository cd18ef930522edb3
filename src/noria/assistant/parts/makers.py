"""Tools that make something for the user to see: a picture, a video in another garment, a report.

Their words to the model are this program's own, but for a report's summary, which rests on what others wrote.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noria.assistant.parts.servers import ToolServer, text_of
from noria.core.chat.messages import Image
from noria.core.errors import DataError
from noria.core.tools import ToolContext, ToolResult, ToolSpec, unwatched

WORDS: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": 4000}
LONGEST_PLAN = 8000
"""Most characters of a plan that are shown."""
LARGEST_FILE = 32 << 20
_SUMMARY = 1200
_DONE = "done: the {} is shown to the user"


@dataclass(frozen=True)
class Made:
    """One picture that a server made, and what a planner wrote for it.

    Attributes:
        picture: the picture's file.
        plan: plan of an edit; None where the server gives none.
        thinking: what the planner wrote before its plan; empty where the server does not tell.
    """

    picture: bytes
    plan: str | None
    thinking: str = ""

    def notes(self, server: ToolServer) -> dict[str, str]:
        """Notes for the trace: version, plan and thinking, as far as they are known."""
        noted = {"version": server.version, "plan": self.plan, "thinking": self.thinking}
        return {name: value for name, value in noted.items() if value}


async def make_pictures(
    server: ToolServer, prompt: str, images: Sequence[bytes] = (), **fields: Any
) -> list[Made]:
    """Pictures by an OpenAI-compatible server: edits of the images, or new ones where there are none.

    Args:
        server: server of pictures.
        prompt: description of the pictures, or of the change to a given picture.
        images: images to edit.
        fields: further fields of the protocol, such as `n`, `size`, `seed`, and `mask` as bytes.

    Raises:
        RunError: the server cannot be reached or refuses. DataError: what it gave is no picture.
    """
    body: dict[str, Any] = {"prompt": prompt, "n": 1, "response_format": "b64_json"}
    body |= {name: value for name, value in fields.items() if value is not None}
    if server.config.model or server.version:
        body["model"] = server.version or server.config.model
    if server.config.versions and images:
        body["show_thinking"] = True
    if isinstance(body.get("mask"), bytes):
        body["mask"] = data_url(body["mask"])
    if images:
        urls = [data_url(one) for one in images]
        body["image"] = urls[0] if len(urls) == 1 else urls
    answer = await server.post(f"images/{'edits' if images else 'generations'}", body)
    given = answer.get("data")
    if not isinstance(given, list) or len(given) != body["n"]:
        raise DataError("the server gave another number of pictures", where="images")
    return [_made(one, server.version) for one in given]


def _made(one: Any, version: str | None) -> Made:
    try:
        content = base64.b64decode(one["b64_json"], validate=True)
        Image(content)
    except (LookupError, TypeError, binascii.Error, ValueError, DataError):
        raise DataError("the server gave no picture", where="images") from None
    told = one.get("noria") if isinstance(one.get("noria"), Mapping) else {}
    # A server that takes any name of a model would answer by another one.
    if version is not None and told.get("version") != version:
        raise DataError(
            "the server does not answer by the version that was asked for", where="images",
            mend="start it with --versions, or leave `versions` of the tool out",
        )  # fmt: skip
    plan, thinking = one.get("revised_prompt"), told.get("thinking")
    return Made(
        content,
        plan[:LONGEST_PLAN] if isinstance(plan, str) else None,
        thinking[:LONGEST_PLAN] if isinstance(thinking, str) else "",
    )


def data_url(picture: bytes) -> str:
    """A picture as a `data:` URL."""
    return f"data:{Image(picture).media_type};base64,{base64.b64encode(picture).decode('ascii')}"


class PictureTool:
    """Edits the picture of the conversation, or makes one, by an OpenAI-compatible server.

    Args:
        name: name by which the model calls it.
        server: address and price of the server.
        picture: the last picture of the conversation; None where there is none.
    """

    def __init__(self, name: str, server: ToolServer, picture: bytes | None = None) -> None:
        self.server, self._picture = server, picture
        self.edits = server.config.kind == "edit"
        words = "Edit the last picture of the conversation" if self.edits else "Make a picture"
        self.spec = spec_of(
            name, server, f"{words} as the prompt says; the user sees the result.",
            {"prompt": WORDS}, ["prompt"],
        )  # fmt: skip

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what :meth:`Tool.call` says."""
        prompt = arguments["prompt"]
        before = self._picture if self.edits else None
        if self.edits and before is None:
            return ToolResult("there is no picture in the conversation", error="failed", trusted=True)
        (made,) = await make_pictures(self.server, prompt, [] if before is None else [before])
        return picture_result(prompt, made, before, self.server.config.cost, made.notes(self.server))


def picture_result(
    prompt: str, made: Made, before: bytes | None, cost: float, notes: Mapping[str, str] | None = None
) -> ToolResult:
    """The result of one picture: shown with its plan, and beside the one before where it is an edit."""
    files = {"picture": made.picture}
    shown: dict[str, Any] = {"kind": "picture", "picture": "file:picture", "prompt": prompt}
    if before is not None:
        files["before"] = before
        shown = {"kind": "edit", "before": "file:before", "after": "file:picture", "prompt": prompt}
    if made.plan is not None:
        shown["plan"] = made.plan
    return ToolResult(
        _DONE.format("picture"), files, cost, trusted=True, shown=[shown],
        notes=notes or {},
    )  # fmt: skip


def made_result(made: Sequence[Made], cost: float, server: ToolServer) -> ToolResult:
    """The result of several pictures, which are images of the answer."""
    files = {f"picture {number}": one.picture for number, one in enumerate(made)}
    notes = made[0].notes(server) if made else {}
    return ToolResult(f"{len(made)} pictures", files, cost, trusted=True, notes=notes)


class TryOnTool:
    """Puts the garment of the conversation's last picture on a person in a clip of the operator's, as a video.

    Args:
        name: name by which the model calls it.
        server: `noria tryon serve`.
        picture: picture of the garment; None where there is none.
    """

    def __init__(self, name: str, server: ToolServer, picture: bytes | None = None) -> None:
        self.server, self._picture = server, picture
        self.spec = spec_of(
            name, server,
            "Try the garment in the last picture of the conversation on, in a video of a person; the user sees the "
            "video.",
            {"prompt": WORDS, "clip": {"type": "string", "maxLength": 64}}, [],
        )  # fmt: skip

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what :meth:`Tool.call` says."""
        if self._picture is None:
            return ToolResult("there is no picture of a garment", error="failed", trusted=True)
        return await try_on(self.server, self._picture, arguments, context.progress)


async def try_on(
    server: ToolServer,
    garment: bytes,
    arguments: Mapping[str, Any],
    progress: Callable[[float], None] = unwatched,
) -> ToolResult:
    """The result of a try-on: a video, and its first frame as poster.

    Raises:
        RunError: the server cannot be reached or refuses. DataError: what it gave is no video.
    """
    body = {
        "garment": data_url(garment),
        **{k: v for k, v in arguments.items() if k in ("prompt", "clip", "seed")},
    }
    number, result = await server.job("try-ons", body, progress)
    video = await server.file(f"try-ons/{number}/result.mp4", limit=LARGEST_FILE, kinds=("video/mp4",))
    if video[4:8] != b"ftyp":
        raise DataError("the server gave no MP4 video", where="try-ons")
    poster = await server.file(f"try-ons/{number}/poster.png", limit=LARGEST_FILE, kinds=("image/png",))
    shown = {"kind": "video", "video": "file:video.mp4", "poster": "file:poster.png", "title": "Try-on"}
    if isinstance(result.get("note"), str):
        shown["note"] = result["note"][:300]
    files = {"video.mp4": video, "poster.png": poster}
    return ToolResult(_DONE.format("video"), files, server.config.cost, trusted=True, shown=[shown])


class ReportTool:
    """Writes a report of text, charts and pictures over the operator's documents, as a page.

    Args:
        name: name by which the model calls it.
        server: `noria reports serve`.
        picture: no part of it; tools are made alike.
    """

    def __init__(self, name: str, server: ToolServer, picture: bytes | None = None) -> None:
        self.server = server
        self.spec = spec_of(
            name, server, "Write a report with charts and sources; the user sees the page.",
            {"request": WORDS}, ["request"], trusted=False,
        )  # fmt: skip

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what :meth:`Tool.call` says. The summary is the report's own first words, and text from outside."""
        return await write_report(self.server, arguments["request"], context.progress)


async def write_report(
    server: ToolServer, request: str, progress: Callable[[float], None] = unwatched
) -> ToolResult:
    """The result of a report: its page, and a summary.

    Raises:
        RunError: the server cannot be reached or refuses. DataError: what it gave is no report.
    """
    number, result = await server.job("reports", {"request": request}, progress)
    title = text_of(result, "title", 300)
    page = await server.file(f"reports/{number}/report.html", limit=LARGEST_FILE, kinds=("text/html",))
    words = await server.file(
        f"reports/{number}/report.md", limit=LARGEST_FILE, kinds=("text/markdown", "text/plain")
    )
    summary = first_words(words.decode("utf-8", "replace"), title)
    shown = {"kind": "report", "title": title, "page": "file:page.html", "summary": summary}
    counts = ", ".join(
        f"{name} {result[name]}" for name in ("figures", "sources") if isinstance(result.get(name), int)
    )
    told = f"{_DONE.format('report')} ({counts})\n{title}\n{summary}"
    return ToolResult(told, {"page.html": page}, server.config.cost, shown=[shown])


def first_words(markdown: str, title: str) -> str:
    """The first paragraphs of a report without its headings, pictures and tables, up to a length."""
    kept: list[str] = []
    for block in markdown.split("\n\n"):
        text = " ".join(block.split())
        if text and text != title and text[0] not in "#!|<`-[":
            kept.append(text)
    words = " ".join(kept)
    return words if len(words) <= _SUMMARY else words[:_SUMMARY].rpartition(" ")[0] + " …"


def spec_of(
    name: str,
    server: ToolServer,
    words: str,
    properties: Mapping[str, Any],
    required: Sequence[str],
    *,
    trusted: bool = True,
    times: int = 1,
) -> ToolSpec:
    """The description of a tool that makes something, so many times in a call; it always takes a scarce resource."""
    config = server.config
    schema = {"type": "object", "properties": dict(properties), "required": list(required),
              "additionalProperties": False}  # fmt: skip
    return ToolSpec(
        name, config.description or words, schema,
        spends=True, trusted=trusted, most_cost=times * config.cost, seconds=config.seconds,
        largest_blobs=2 * LARGEST_FILE,
    )  # fmt: skip
