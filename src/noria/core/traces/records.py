"""Records of what a service did: traces with their spans, feedback, judgements, and what takes them back.

Every record is JSON with a `type`. Times are nanoseconds since 1970 by the service's clock. A bundle and an artefact
stand by their content hash. Texts are redacted before they get here, and pictures stand as the digests of blobs.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from noria.core.errors import DataError

SpanKind = Literal[
    "skill", "model", "chat", "tool", "plan", "generate", "retrieve", "judge", "blend", "agent", "other"
]
"""What a span did: chose a skill or a model, talked to one, called a tool, planned, generated, …"""
FeedbackKind = Literal["rating", "choice", "correction", "comment", "implicit"]
Source = Literal["user", "operator", "rule", "model"]
Status = Literal["ok", "refused", "failed", "cancelled"]


class Candidate(Struct, frozen=True, omit_defaults=True):
    """One of the options that a decision had.

    Attributes:
        name: name of the option.
        score: score by which it was ranked; None where it has none.
        propensity: probability with which the decision would take it; None where it is not known.
    """

    name: str
    score: float | None = None
    propensity: float | None = None


class SpanError(Struct, frozen=True):
    """Why a span failed: a kind such as `timeout`, and a message, redacted; it is empty where no texts are kept."""

    kind: str
    message: str


class Span(Struct, frozen=True, omit_defaults=True):
    """One step of an answer.

    Attributes:
        id: UUID of version 7.
        kind: kind of the step, such as a model call or a tool call.
        name: name of what did it: a model, a tool, a router.
        began: nanoseconds since 1970.
        ended: nanoseconds since 1970.
        parent: id of the span around it.
        artefact: content hash of the artefact that was used.
        input: JSON values of what went in, redacted.
        output: JSON values of what came out, redacted.
        blobs: digests of the pictures and other files that input and output name.
        candidates: every option of a decision.
        chosen: name of the option that was taken.
        attributes: further JSON values, such as `{"tokens_in": 12}`.
        error: why the step failed.
    """

    id: str
    kind: SpanKind
    name: str
    began: int
    ended: int
    parent: str | None = None
    artefact: str | None = None
    input: Any = None
    output: Any = None
    blobs: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    chosen: str | None = None
    attributes: dict[str, Any] = {}
    error: SpanError | None = None

    def __post_init__(self) -> None:
        if self.ended < self.began:
            raise ValueError("a span ends before it begins")
        if self.chosen is not None and self.chosen not in {one.name for one in self.candidates}:
            raise ValueError(f"{self.chosen!r} was chosen, and is no candidate")


class AssignmentRecord(Struct, frozen=True):
    """The arm of an experiment that a request got, and the probability with which it gets it."""

    experiment: str
    arm: str
    propensity: float


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens that a request took, by the backend's count, and what it cost."""

    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None


class Trace(Struct, frozen=True, omit_defaults=True, tag="trace", tag_field="type"):
    """One request and its answer.

    Attributes:
        id: UUID of version 7; the id of the response.
        began: nanoseconds since 1970.
        ended: nanoseconds since 1970.
        status: state in which the request ended.
        bundle: content hash of the set of artefacts that answered.
        caller: name of the caller, whose token it was.
        user: key of the user (:func:`noria.core.traces.ids.user_key`).
        conversation: id of the conversation that it belongs to.
        assignments: arms that it was given.
        spans: steps, in the order in which they began.
        usage: tokens and cost of all steps.
        redactions: number of places redacted, by kind.
        labels: short texts to find it by, such as its skill.
    """

    id: str
    began: int
    ended: int
    status: Status
    bundle: str = ""
    caller: str = ""
    user: str | None = None
    conversation: str | None = None
    assignments: tuple[AssignmentRecord, ...] = ()
    spans: tuple[Span, ...] = ()
    usage: Usage = Usage()
    redactions: dict[str, int] = {}
    labels: dict[str, str] = {}


class Feedback(Struct, frozen=True, omit_defaults=True, tag="feedback", tag_field="type"):
    """Feedback on an answer: a rating, a correction, or an act of the user.

    Attributes:
        id: UUID of version 7.
        trace: id of the trace.
        kind: sort of feedback.
        name: name of what is measured, such as `helpful`.
        at: nanoseconds since 1970.
        value: number of a rating or of a choice; None for words alone.
        text: a correction or a comment, redacted. It is data and never an instruction.
        span: id of the span that it is about.
        item: key of the item of an ordered list that it is about.
        source: person or system that gave the feedback.
        by: key of the person or name of the rule or model.
        client_key: text by which a caller repeats a record without making another.
    """

    id: str
    trace: str
    kind: FeedbackKind
    name: str
    at: int
    value: float | None = None
    text: str | None = None
    span: str | None = None
    item: str | None = None
    source: Source = "user"
    by: str = ""
    client_key: str | None = None


class VerdictRecord(Struct, frozen=True, omit_defaults=True):
    """A judge's answer to one item of a checklist; `invalid` where there is none that can be used."""

    item: str
    value: Literal["yes", "no", "invalid"]
    reason: str = ""


GROUNDING = "grounding"
"""Path of judgements that ask whether an answer rests on its picture: their score is a figure of its own."""


class JudgementRecord(Struct, frozen=True, omit_defaults=True, tag="judgement", tag_field="type"):
    """A judgement of a trace by one judge.

    Attributes:
        id: UUID of version 7, or of version 8 where it follows from trace, judge and checklist.
        trace: id of the trace.
        at: nanoseconds since 1970.
        judge: name of the judge.
        version: content hash or version of the judge.
        checklist: digest of the checklist.
        path: path of the judging, such as `rule`, `judge` or `grounding`; `vote` for one judge of a panel.
        verdicts: one for each item, invalid ones included.
        score: share of what was asked that is good; None where nothing valid was said, for a vote, which
            counts in its panel's judgement, and for rules that only say what is broken.
        seconds: time that it took.
        cost: cost of the judgement, in the budget's unit; None where it is not known.
        span: id of the span that it is about.
    """

    id: str
    trace: str
    at: int
    judge: str
    version: str
    checklist: str
    path: str
    verdicts: tuple[VerdictRecord, ...]
    score: float | None = None
    seconds: float = 0.0
    cost: float | None = None
    span: str | None = None


class Withdrawal(Struct, frozen=True, omit_defaults=True, tag="withdrawal", tag_field="type"):
    """Takes back an earlier feedback; what was withdrawn counts nowhere."""

    id: str
    trace: str
    feedback: str
    at: int
    by: str = ""


class Erasure(Struct, frozen=True, omit_defaults=True, tag="erasure", tag_field="type"):
    """Says that a user's records were removed, and how many; their key is kept so that nothing new comes in late."""

    id: str
    user: str
    at: int
    traces: int
    records: int


Record = Trace | Feedback | JudgementRecord | Withdrawal | Erasure
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """JSON of a record."""
    return _ENCODER.encode(record)


def decode(body: bytes, where: str = "record") -> Record:
    """Read a record.

    Raises:
        DataError: it is none.
    """
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"no record of a trace: {error}", where=where) from error
