"""Rounds of tool calls before an answer: the model calls tools, they work within their limits, the model continues.

What the user asks for, tools may do. A tool that writes, such as an order, is refused as soon as anything in the
conversation comes from outside: a picture, a tool's result, an answer that rests on one. A tool that only spends, such
as an edit of the user's own picture, is refused where such text came after the words of the user.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from noria.assistant.parts.ranking import Placer
from noria.core.chat.messages import Image, ToolCall
from noria.core.chat.outcomes import Answer, Outcome, Refusal, Usage
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import DataError
from noria.core.picture_files import check_picture
from noria.core.storage.journal_file import blob_digest
from noria.core.tools import Toolbox, ToolContext, ToolResult, ToolSession
from noria.core.traces.blobs import PREFIX, without_notes
from noria.core.traces.ids import Clock, new_id
from noria.core.traces.records import Span, SpanError

Ask = Callable[[CompletionRequest], Awaitable[tuple[Outcome, dict[str, Any] | None]]]
"""Asks the backend; the outcome, and the JSON of its reply where there is one."""
Heard = Callable[[str, Mapping[str, Any]], None]
"""Hears what happens on the way to an answer: `text` (a piece of it), `calls` (of tools), `working` (the share of the
present call that is done), `called` (one has ended)."""


def unheard(what: str, fields: Mapping[str, Any]) -> None:
    """Let nobody hear it."""


@dataclass
class ToolRounds:
    """The rounds of one request.

    Args:
        toolbox: tools on offer.
        context: for whom they are called.
        names: tools that the skill allows; None for all.
        rounds: most rounds of calls.
        money: most that the tools may cost; any by default.
        clock: clock of the service.
        placer: puts the cards of results in order; they stay as they are by default.
        heard: hears which tools are called, and when each has ended.
        outside: whether an earlier answer of the conversation rests on text from outside.

    Attributes:
        steps: each round of calls and each call, as spans of the trace.
        pictures: pictures that tools gave, which belong to the answer.
        shown: what tools show the user beside the words, with files as `data:` URLs.
    """

    toolbox: Toolbox
    context: ToolContext
    names: Collection[str] | None = None
    rounds: int = 4
    money: float | None = None
    clock: Clock = field(default_factory=Clock)
    placer: Placer = field(default_factory=Placer)
    heard: Heard = unheard
    outside: bool = False
    steps: list[Span] = field(default_factory=list, init=False)
    pictures: list[Image] = field(default_factory=list, init=False)
    shown: list[Mapping[str, Any]] = field(default_factory=list, init=False)
    _done: list[Answer | Refusal] = field(default_factory=list, init=False)
    _session: ToolSession | None = field(default=None, init=False)

    async def answer(self, query: CompletionRequest, ask: Ask) -> Outcome:
        """The answer after the rounds, with the tokens and the cost of all of them and the pictures of the tools.

        A failure after some rounds has what the model said in them as its part of an answer.
        """
        session = self._session = self.toolbox.session(
            self.context, query.messages, outside=self.outside, budget=self.money
        )
        offered = self.toolbox.wire(self.names)
        messages: list[dict[str, Any]] = list(query.messages)
        plain = {name: value for name, value in query.content.items() if not name.startswith("stream")}
        done = self._done
        for number in range(self.rounds + 1):
            content: dict[str, Any] = {**plain, "messages": messages}
            if offered and number < self.rounds:
                content["tools"] = offered
            began = self.clock()
            outcome, _ = await ask(replace(query, content=content, stream=False))
            if isinstance(outcome, Answer | Refusal):
                done.append(outcome)
            if not isinstance(outcome, Answer) or not outcome.tool_calls or "tools" not in content:
                break
            self._note(outcome, began)
            self.heard("calls", {"calls": [(call.name, call.arguments) for call in outcome.tool_calls]})
            messages.append(_said(outcome))
            for call in outcome.tool_calls:
                result = await self._call(session, call)
                self.heard("called", {"name": call.name, "error": result.error})
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result.fenced})
        if not isinstance(outcome, Answer | Refusal):
            said = [one.text for one in done if one.text]
            return replace(outcome, partial="\n\n".join([*said, *filter(None, [outcome.partial])]))
        total = replace(outcome, usage=self.used, cost=self.spent)
        if isinstance(total, Answer):
            pictures = {one.data: one for one in self.pictures}.values()
            total = replace(
                total, tool_calls=(), parts=(*total.parts, *pictures), shown=(*total.shown, *self.shown)
            )
        return total

    @property
    def spent(self) -> float | None:
        """Cost of models and tools so far, even where no answer resulted; None where it is not known."""
        costs = [one.cost for one in self._done]
        tools = 0.0 if self._session is None else self._session.spent
        return None if None in costs else sum(cost for cost in costs if cost is not None) + tools

    @property
    def used(self) -> Usage:
        """Tokens of all rounds so far; None where those of one are not known."""
        return _sum([one.usage for one in self._done])

    async def _call(self, session: ToolSession, call: ToolCall) -> ToolResult:
        began = self.clock()
        session.context = replace(
            self.context, progress=lambda share: self.heard("working", {"name": call.name, "share": share})
        )
        if self.names is not None and call.name not in self.names:
            result = ToolResult(
                f"the skill does not allow {call.name[:64]}", error="not_allowed", trusted=True
            )
        else:
            result = await session.call(call)
        ended = self.clock()
        result = self.placer.cards(result, call.name)
        kept = kept_call(call.name, call.arguments, result, began, ended)
        self.pictures += kept.pictures
        self.shown += kept.shown
        self.steps.append(kept.span)
        self.steps += self.placer.steps
        self.placer.steps.clear()
        return kept.result

    def _note(self, outcome: Answer, began: int) -> None:
        """Keep a round of calls as a span."""
        self.steps.append(
            Span(
                new_id(began), "plan", outcome.model or "model", began, self.clock(),
                output={"content": outcome.text, "tool_calls": [call.wire() for call in outcome.tool_calls]},
                attributes={
                    "tokens_in": outcome.usage.prompt_tokens or 0,
                    "tokens_out": outcome.usage.completion_tokens or 0,
                },
            )
        )  # fmt: skip


@dataclass(frozen=True)
class KeptCall:
    """A call of a tool as it is kept.

    Attributes:
        result: the result; an error where a file of it is no picture, or is not there.
        span: the call as a step of the trace.
        files: files of the result without a camera's notes, by name.
        pictures: those that are images of the answer.
        shown: what the user is shown, with files as `data:` URLs.
    """

    result: ToolResult
    span: Span
    files: Mapping[str, bytes]
    pictures: Sequence[Image]
    shown: Sequence[Mapping[str, Any]]


def kept_call(name: str, arguments: str, result: ToolResult, began: int, ended: int) -> KeptCall:
    """A call of a tool as it is kept: pictures are checked by their headers, files become blobs.

    Args:
        name: name of the tool.
        arguments: arguments as they were written.
        result: what the tool gave.
        began: nanoseconds since 1970.
        ended: nanoseconds since 1970.
    """
    files = {one: without_notes(content) for one, content in result.blobs.items()}
    try:
        for one, content in files.items():
            if one.startswith(("picture", "before")) or media_type(one, content).startswith("image/"):
                check_picture(content, where=name[:64])
        pictures = [Image(content) for one, content in files.items() if one.startswith("picture")]
        shown = [_with_files(one, files) for one in result.shown]
    except DataError as error:
        result = ToolResult(str(error), cost=result.cost, error="failed", trusted=True)
        files, pictures, shown = {}, [], []
    blobs = {one: blob_digest(content) for one, content in files.items()}
    named = [f"{PREFIX}{digest};{media_type(one, files[one])}" for one, digest in blobs.items()]
    notes = {"notes": dict(result.notes)} if result.notes else {}
    span = Span(
        new_id(began), "tool", name[:64], began, ended, artefact=result.notes.get("version"),
        input={"arguments": arguments}, output={"text": result.text, "files": named, **notes},
        blobs=tuple(dict.fromkeys(blobs.values())), attributes={"cost": result.cost, "outside": not result.trusted},
        error=SpanError(result.error, "the call gave no result") if result.error else None,
    )  # fmt: skip
    return KeptCall(result, span, files, pictures, shown)


def media_type(name: str, content: bytes) -> str:
    """Media type of a file: a picture's by its first bytes, another one's by its name."""
    try:
        return Image(content).media_type
    except DataError:
        return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _with_files(value: Any, files: Mapping[str, bytes]) -> Any:
    """JSON values with `data:` URLs where they name a file as `file:NAME`."""
    if isinstance(value, str) and value.startswith("file:"):
        name = value.removeprefix("file:")
        if name not in files:
            raise DataError(f"the result shows a file {name[:64]!r} that it has not", where="tool")
        encoded = base64.b64encode(files[name]).decode("ascii")
        return f"data:{media_type(name, files[name])};base64,{encoded}"
    if isinstance(value, Mapping):
        return {key: _with_files(item, files) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_files(item, files) for item in value]
    return value


def _said(outcome: Answer) -> dict[str, Any]:
    calls = [call.wire() for call in outcome.tool_calls]
    return {"role": "assistant", "content": outcome.text or None, "tool_calls": calls}


def _sum(usages: Sequence[Usage]) -> Usage:
    """Tokens of all rounds; not known where those of one round are not."""

    def total(name: str) -> int | None:
        counts = [getattr(one, name) for one in usages]
        return None if None in counts else sum(counts)

    return Usage(total("prompt_tokens"), total("completion_tokens"))
