"""MCP tools that make something: a picture at once; a video or a report at once where it is quick, else as a job.

A job's result is the id of a trace: its files are read from there, so that an erasure of the user removes them, too.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from noria.assistant.parts.loop import KeptCall
from noria.assistant.parts.makers import PictureTool, data_url as picture_url
from noria.assistant.service.making import Making
from noria.core.chat.messages import Image
from noria.core.chat.wire import data_url
from noria.core.completions.jobs import Jobs, Progress
from noria.core.errors import DataError, ServedError
from noria.core.service.callers import Caller
from noria.core.service.mcp import McpFile, McpResult, McpTool
from noria.core.service.responses import HttpError
from noria.core.traces.blobs import PREFIX
from noria.core.traces.store import UnknownTrace

PATIENCE = 45.0
"""Seconds for which a client waits for a job before it is told to ask again: clients give up after a minute."""
LOOK = 0.1
_TEXT = {"type": "string"}
_PICTURE = {"type": "string", "description": "The picture in base64, or as a data: URL."}
_JOB = "get_job"
Work = Callable[[], Awaitable[tuple[KeptCall, str]]]


def making_tools(making: Making, jobs: Jobs) -> list[McpTool]:
    """The MCP tools for what is configured.

    Args:
        making: tools of the gateway.
        jobs: jobs of the gateway.
    """

    async def edit_image(arguments: Mapping[str, Any], caller: Caller) -> Any:
        return await _picture(making, "edit", arguments, caller)

    async def generate_image(arguments: Mapping[str, Any], caller: Caller) -> Any:
        return await _picture(making, "generate", arguments, caller)

    async def try_on(arguments: Mapping[str, Any], caller: Caller) -> Any:
        garment = _content(arguments["garment"], "garment")
        more = {name: arguments[name] for name in ("prompt", "clip") if name in arguments}
        return await _long(making, jobs, "try-on", caller, lambda: making.try_on(garment, more, caller))

    async def write_report(arguments: Mapping[str, Any], caller: Caller) -> Any:
        return await _long(
            making, jobs, "report", caller, lambda: making.report(arguments["request"], caller)
        )

    async def get_job(arguments: Mapping[str, Any], caller: Caller) -> Any:
        whose = None if "operate" in caller.rights else caller.name
        return await _job(making, jobs, arguments["job"], whose)

    def tool(name: str, words: str, call: Any, required: Sequence[str], **properties: Any) -> McpTool:
        schema = {"properties": properties, "required": list(required)}
        return McpTool(name, words, schema, "chat", call, read_only=name == _JOB)

    kinds = {one.kind for one in making.gateway.config.parts.tools.values()}
    made = [
        ("edit", tool("edit_image", "Edit a picture as the prompt says.", edit_image, ["image", "prompt"],
                      image=_PICTURE, prompt=_TEXT, user=_TEXT)),
        ("generate", tool("generate_image", "Make a picture as the prompt says.", generate_image, ["prompt"],
                          prompt=_TEXT, user=_TEXT)),
        ("try_on", tool("try_on", "Put a garment on a person in a clip of the shop's, as a video.", try_on,
                        ["garment"], garment=_PICTURE, prompt=_TEXT, clip=_TEXT)),
        ("report", tool("write_report", "Write a report with charts and sources over the shop's documents.",
                        write_report, ["request"], request=_TEXT)),
    ]  # fmt: skip
    found = [one for kind, one in made if kind in kinds]
    if kinds & {"try_on", "report"}:
        found.append(tool(_JOB, "Ask how far a job is, and for its result.", get_job, ["job"], job=_TEXT))
    return found


async def _picture(making: Making, kind: str, arguments: Mapping[str, Any], caller: Caller) -> McpResult:
    name = making.named(kind)
    before = _content(arguments["image"], "image") if kind == "edit" else None
    tool = PictureTool(name, making.server(name), before)
    given: dict[str, Any] = {"prompt": arguments["prompt"]}
    if before is not None:
        given["images"] = [picture_url(before)]
    kept, trace = await making.call(
        tool, {"prompt": arguments["prompt"]}, caller, user=arguments.get("user"), given=given
    )
    if kept.result.error is not None:
        return McpResult(kept.result.text, fault=True)
    values = {"trace": trace, **{k: v for k, v in kept.result.shown[0].items() if k == "plan"}}
    return McpResult(values, [McpFile("picture", one.media_type, one.data) for one in kept.pictures])


async def _long(making: Making, jobs: Jobs, kind: str, caller: Caller, start: Work) -> Any:
    async def work(progress: Progress) -> dict[str, Any]:
        progress(0.05, "working")
        kept, trace = await start()
        if kept.result.error is not None:
            raise ServedError(kept.result.text, where=f"trace {trace}")
        return {"trace": trace}

    job = jobs.submit(kind, caller.name, work)
    end = time.monotonic() + PATIENCE
    while jobs.get(job.id).state in ("queued", "running") and time.monotonic() < end:
        await asyncio.sleep(LOOK)
    return await _job(making, jobs, job.id, None)


async def _job(making: Making, jobs: Jobs, number: str, caller: str | None) -> Any:
    """State of a job, or its files once it is done."""
    job = jobs.get(number, caller)
    if job.state in ("failed", "cancelled"):
        return McpResult(job.message or f"the job was {job.state}", fault=True)
    if job.state != "done":
        return {"job": job.id, "state": job.state, "progress": job.progress, "next": f"call {_JOB} with it"}
    trace = jobs.result(number, caller)["trace"]
    try:
        view = making.gateway.store.read(trace)
    except UnknownTrace:
        raise HttpError(410, "gone", "what was made is gone") from None
    (span,) = view.trace.spans
    output = span.output if isinstance(span.output, dict) else {}
    files = [
        McpFile(f"{job.kind}-{place}", kind, content)
        for place, named in enumerate(output.get("files", ()))
        for digest, _, kind in [str(named).removeprefix(PREFIX).partition(";")]
        if (content := making.gateway.store.blob(digest)) is not None
    ]
    return McpResult({"job": job.id, "state": "done", "trace": trace, "text": output.get("text", "")}, files)


def _content(text: str, name: str) -> bytes:
    """The bytes of a picture in an argument.

    Raises:
        HttpError: 400, it is none.
    """
    try:
        content = data_url(text)[1] if text.startswith("data:") else base64.b64decode(text, validate=True)
        Image(content)
    except (DataError, binascii.Error, ValueError):
        raise HttpError(400, "bad_arguments", f"{name} is no picture in base64") from None
    return content
