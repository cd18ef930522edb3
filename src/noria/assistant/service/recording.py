"""Traces of requests: what went in and came out, redacted, with pictures as blobs and the arms of experiments."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from noria.assistant.parts.loop import Heard
from noria.assistant.parts.protocol import prepare
from noria.assistant.service.bundles import Choice
from noria.core.chat.messages import Text
from noria.core.chat.outcomes import Answer, Failure, Outcome, Refusal, Usage as TokenUsage
from noria.core.completions.answers import failure_error
from noria.core.completions.requests import CompletionRequest
from noria.core.learning.routes.route import Route
from noria.core.service.responses import HttpError
from noria.core.traces.blobs import blob_names, take_out_blobs
from noria.core.traces.ids import Clock, new_id
from noria.core.traces.records import AssignmentRecord, Span, SpanError, Status, Trace, Usage
from noria.core.traces.redaction import Redactor

_SETTINGS = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "tool_choice")


@dataclass
class Identity:
    """Whose request it is.

    Attributes:
        caller: name of the caller.
        user: key of the user; None where the request names none.
        conversation: id of the conversation; None where the request names none.
        unit: text by which experiments deal the request.
    """

    caller: str
    user: str | None
    conversation: str | None
    unit: str


@dataclass
class Recording:
    """A request that is being answered.

    Attributes:
        query: the request.
        identity: whose it is.
        choice: what answers it.
        id: id of the trace, which is that of the answer, too.
        began: nanoseconds since 1970.
        first: seconds until the first word of a stream; None before it and for whole answers.
        labels: labels of the trace.
        route: how it is answered, after the parts of the pipeline.
        steps: what the parts and the tools did.
        tools: tools that may be called; None for all.
        heard: hears what happens on the way to the answer, where somebody watches it.
        watched: hears what the tools do, where somebody waits for the answer as a whole.
        spent: what rounds before a failure cost; None where it is not known.
        used: tokens of rounds before a failure; None where they were not counted.
        unpaid: error by which the caller is answered where its money did not last for the next round; None else.
    """

    query: CompletionRequest
    identity: Identity
    choice: Choice
    id: str
    began: int
    route: Route
    steps: tuple[Span, ...] = ()
    tools: frozenset[str] | None = None
    first: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    heard: Heard | None = None
    watched: Heard | None = None
    spent: float | None = 0.0
    used: TokenUsage = field(default_factory=lambda: TokenUsage(0, 0))
    unpaid: HttpError | None = None
    _clock0: float = field(default_factory=time.perf_counter)

    def note_off(self, names: Iterable[str]) -> None:
        """Label the trace with what of the pipeline was off."""
        if off := [one for one in (self.labels.get("off", ""), *names) if one]:
            self.labels["off"] = ", ".join(off)[:300]

    def error(self, failure: Failure) -> HttpError:
        """The error by which the caller is answered where the request failed."""
        return self.unpaid or failure_error(failure)

    def first_word(self) -> None:
        """Note that the first word has arrived."""
        if self.first is None:
            self.first = time.perf_counter() - self._clock0


class Recorder:
    """Makes traces of requests and their outcomes.

    Args:
        clock: clock of the service.
        redactor: takes personal data out of texts.
        keep_texts: whether traces hold texts at all.
    """

    def __init__(self, clock: Clock, redactor: Redactor, *, keep_texts: bool = True) -> None:
        self.clock, self.redactor, self.keep_texts = clock, redactor, keep_texts

    def fresh_unit(self) -> str:
        """A unit of its own, for a request that names neither user nor conversation."""
        return new_id(self.clock())

    def begin(self, query: CompletionRequest, identity: Identity, choice: Choice) -> Recording:
        """Begin a recording, and let the parts of the bundle act on the request."""
        now = self.clock()
        prepared = prepare(query, choice.route, choice.parts, self.clock)
        recording = Recording(
            query,
            identity,
            choice,
            new_id(now),
            now,
            prepared.route,
            prepared.steps,
            prepared.tools,
            labels=dict(prepared.labels),
        )
        recording.note_off(choice.off)
        return recording

    def trace(
        self, recording: Recording, outcome: Outcome | None, model: str
    ) -> tuple[Trace, dict[str, bytes]]:
        """The trace of a request, and the pictures that it names.

        Args:
            recording: the request.
            outcome: outcome of the request; None where its caller left.
            model: name of the backend that was asked.
        """
        now = self.clock()
        counts: Counter[str] = Counter()
        blobs: dict[str, bytes] = {}
        given = answer = None
        if self.keep_texts:
            given, blobs = self._clean(
                {"messages": recording.query.messages} | self._asked(recording), counts
            )
            answer, more = self._clean(_said(outcome), counts)
            blobs |= more
        names = tuple(dict.fromkeys([*blob_names(given), *blob_names(answer)]))
        span = Span(
            new_id(now),
            "chat",
            model,
            recording.began,
            now,
            artefact=recording.choice.bundle,
            input=given,
            output=answer,
            blobs=names,
            attributes=_attributes(recording, outcome),
            error=self._fault(SpanError(outcome.kind, outcome.message), counts)
            if isinstance(outcome, Failure)
            else None,
        )
        steps = tuple(self._kept(step, counts) for step in recording.steps)
        return self._trace(
            recording, now, _status(outcome), (*steps, span), _usage(recording, outcome), counts
        ), blobs

    def tool_trace(
        self, recording: Recording, given: Any, status: Status, cost: float | None
    ) -> tuple[Trace, dict[str, bytes]]:
        """The trace of a tool that was called by itself, and the pictures that its request names.

        Args:
            recording: the request; its steps are the call.
            given: what was asked for, as JSON values with pictures as `data:` URLs.
            status: state in which the call ended.
            cost: what the call cost; None where it is not known.
        """
        now = self.clock()
        counts: Counter[str] = Counter()
        steps = tuple(self._kept(step, counts) for step in recording.steps)
        blobs: dict[str, bytes] = {}
        if self.keep_texts:
            given, blobs = self._clean(given, counts)
            names = tuple(dict.fromkeys(blob_names(given)))
            steps = tuple(
                msgspec.structs.replace(step, input=given, blobs=tuple(dict.fromkeys([*step.blobs, *names])))
                for step in steps
            )
        return self._trace(recording, now, status, steps, Usage(cost=cost), counts), blobs

    @staticmethod
    def _trace(
        recording: Recording,
        now: int,
        status: Status,
        spans: tuple[Span, ...],
        usage: Usage,
        counts: Mapping[str, int],
    ) -> Trace:
        identity = recording.identity
        return Trace(
            recording.id,
            recording.began,
            now,
            status,
            bundle=recording.choice.bundle,
            caller=identity.caller,
            user=identity.user,
            conversation=identity.conversation,
            assignments=tuple(
                AssignmentRecord(one.experiment, one.arm, one.propensity)
                for one in recording.choice.assignments
            ),
            spans=spans,
            usage=usage,
            redactions=dict(counts),
            labels=recording.labels,
        )

    def _kept(self, step: Span, counts: Counter[str]) -> Span:
        """A step as it is written: redacted, and without words where no text is kept."""
        error = None if step.error is None else self._fault(step.error, counts)
        if not self.keep_texts:
            return msgspec.structs.replace(
                step, input=None, output=None, attributes={}, blobs=(), error=error
            )
        given, _ = self._clean(step.input, counts)
        made, _ = self._clean(step.output, counts)
        return msgspec.structs.replace(step, input=given, output=made, error=error)

    def _fault(self, error: SpanError, counts: Counter[str]) -> SpanError:
        """An error as it is written: a server's words may repeat the request."""
        message, found = self.redactor.redact(error.message if self.keep_texts else "")
        counts.update(found)
        return SpanError(error.kind, message)

    def _clean(self, value: Any, counts: Counter[str]) -> tuple[Any, dict[str, bytes]]:
        value, blobs = take_out_blobs(value)
        value, found = self.redactor.redact_json(value)
        counts.update(found)
        return value, blobs

    @staticmethod
    def _asked(recording: Recording) -> dict[str, Any]:
        """What a request asks for beside its messages."""
        content: Mapping[str, Any] = recording.query.content
        asked = {name: content[name] for name in _SETTINGS if name in content}
        if content.get("tools"):
            asked["tools"] = [tool["function"]["name"] for tool in content["tools"]]
        return asked


def _said(outcome: Outcome | None) -> dict[str, Any] | None:
    """The message of an outcome, as JSON values."""
    if isinstance(outcome, Refusal):
        return {"role": "assistant", "content": None, "refusal": outcome.text}
    if isinstance(outcome, Failure):
        return {"role": "assistant", "content": outcome.partial} if outcome.partial else None
    if outcome is None:
        return None
    message: dict[str, Any] = {"role": "assistant", "content": outcome.text}
    if outcome.tool_calls:
        message["tool_calls"] = [call.wire() for call in outcome.tool_calls]
    pictures = [piece for part in outcome.parts if not isinstance(part, Text) for piece in part.wire()]
    if pictures:
        message["images"] = pictures
    if outcome.shown:
        message["shown"] = list(outcome.shown)
    if outcome.reasoning:
        message["reasoning"] = outcome.reasoning
    return message


def _attributes(recording: Recording, outcome: Outcome | None) -> dict[str, Any]:
    """Why an answer ended, when its first word came, its attempts, and whether its tokens are unknown."""
    attributes: dict[str, Any] = {}
    if isinstance(outcome, Answer):
        attributes["finish"] = outcome.finish
    tokens = outcome.usage if isinstance(outcome, Answer | Refusal) else recording.used
    if tokens.prompt_tokens is None or tokens.completion_tokens is None:
        attributes["tokens_unknown"] = True
    if recording.first is not None:
        attributes["first_word_seconds"] = round(recording.first, 6)
    if outcome is not None:
        attributes["attempts"] = outcome.attempts
    return attributes


def _usage(recording: Recording, outcome: Outcome | None) -> Usage:
    """Tokens and cost of an answer; of one that did not come, what was spent on the way to it."""
    if isinstance(outcome, Answer | Refusal):
        tokens, cost = outcome.usage, outcome.cost
    else:
        tokens, cost = recording.used, recording.spent or None
    return Usage(tokens.prompt_tokens or 0, tokens.completion_tokens or 0, cost)


def _status(outcome: Outcome | None) -> Status:
    if outcome is None:
        return "cancelled"
    if isinstance(outcome, Failure):
        return "failed"
    return "refused" if isinstance(outcome, Refusal) else "ok"
