"""Rounds of tool calls before an answer: the model asks, the tools work within their limits, the model goes on.

A tool that writes or spends is allowed by the pipeline as long as only the user has spoken: the skill was chosen by the
user's words, and names its tools. From the first result with text from outside on, such a call is refused, whatever the
text says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from noria.core.chat.messages import Image, ToolCall
from noria.core.chat.outcomes import Answer, Outcome, Refusal, Usage
from noria.core.completions.requests import CompletionRequest
from noria.core.storage.journal_file import blob_digest
from noria.core.tools import Toolbox, ToolContext, ToolResult, ToolSession
from noria.core.traces.blobs import PREFIX, without_notes
from noria.core.traces.ids import Clock, new_id
from noria.core.traces.records import Span, SpanError

Ask = Callable[[CompletionRequest], Awaitable[tuple[Outcome, dict[str, Any] | None]]]
"""Asks the backend; the outcome, and the JSON of its reply where there is one."""


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

    Attributes:
        steps: each round of calls and each call, as spans of the trace.
        pictures: pictures that tools gave, which belong to the answer.
    """

    toolbox: Toolbox
    context: ToolContext
    names: Collection[str] | None = None
    rounds: int = 4
    money: float | None = None
    clock: Clock = field(default_factory=Clock)
    steps: list[Span] = field(default_factory=list, init=False)
    pictures: list[Image] = field(default_factory=list, init=False)

    async def answer(self, query: CompletionRequest, ask: Ask) -> Outcome:
        """The answer after the rounds, with the tokens and the cost of all of them and the pictures of the tools."""
        session = self.toolbox.session(self.context, budget=self.money)
        offered = self.toolbox.wire(self.names)
        messages: list[dict[str, Any]] = list(query.messages)
        plain = {name: value for name, value in query.content.items() if not name.startswith("stream")}
        done: list[Answer | Refusal] = []
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
            messages.append(_said(outcome))
            for call in outcome.tool_calls:
                result = await self._call(session, call)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result.fenced})
        if not isinstance(outcome, Answer | Refusal):
            return outcome
        costs = [one.cost for one in done]
        cost = None if None in costs else sum(cost for cost in costs if cost is not None) + session.spent
        total = replace(outcome, usage=_sum([one.usage for one in done]), cost=cost)
        if isinstance(total, Answer):
            total = replace(total, tool_calls=(), parts=(*total.parts, *self.pictures))
        return total

    async def _call(self, session: ToolSession, call: ToolCall) -> ToolResult:
        if not session.outside and (self.names is None or call.name in self.names):
            session.allow(call)
        began = self.clock()
        if self.names is not None and call.name not in self.names:
            result = ToolResult(
                f"the skill does not allow {call.name[:64]}", error="not_allowed", trusted=True
            )
        else:
            result = await session.call(call)
        blobs = {blob_digest(one): one for one in map(without_notes, result.blobs.values())}
        pictures = [Image(content) for content in blobs.values()]
        self.pictures += pictures
        named = [f"{PREFIX}{name};{one.media_type}" for name, one in zip(blobs, pictures, strict=True)]
        self.steps.append(
            Span(
                new_id(began),
                "tool",
                call.name[:64],
                began,
                self.clock(),
                input={"arguments": call.arguments},
                output={"text": result.text, "pictures": named},
                blobs=tuple(blobs),
                attributes={"cost": result.cost},
                error=SpanError(result.error, "the call gave no result") if result.error else None,
            )
        )
        return result

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


def _said(outcome: Answer) -> dict[str, Any]:
    calls = [call.wire() for call in outcome.tool_calls]
    return {"role": "assistant", "content": outcome.text or None, "tool_calls": calls}


def _sum(usages: Sequence[Usage]) -> Usage:
    """Tokens of all rounds; not known where those of one round are not."""

    def total(name: str) -> int | None:
        counts = [getattr(one, name) for one in usages]
        return None if None in counts else sum(counts)

    return Usage(total("prompt_tokens"), total("completion_tokens"))
