"""Endpoints of traces: what was answered, what people and judges say of it, and removing all of a user."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from noria.assistant.service.peers import HEADER, Peers
from noria.core.errors import DataError, RunError
from noria.core.service.callers import Caller
from noria.core.service.responses import HttpError, json_response, read_json
from noria.core.service.serving import Request, Response, Route, route
from noria.core.storage.write_queue import JournalFull
from noria.core.traces.ids import Clock, new_id, user_key
from noria.core.traces.index.listing import newest_traces
from noria.core.traces.index.people import HUMAN_SAMPLE, is_drawn
from noria.core.traces.records import Feedback, FeedbackKind, JudgementRecord, Source
from noria.core.traces.redaction import Redactor
from noria.core.traces.store import TraceStore, TraceView, UnknownTrace

_LONGEST_TEXT = 20_000
_LISTED = 200


class Conversations:
    """Endpoints that read traces, and add to them.

    Args:
        store: traces.
        clock: clock of the service.
        redactor: takes personal data out of comments and corrections.
        secret: secret that turns users' names into keys.
        peers: the other gateways, which may hold a trace.
        human_share: chance with which a judged answer is in the sample that people label.
    """

    def __init__(
        self,
        store: TraceStore,
        clock: Clock,
        redactor: Redactor,
        secret: bytes,
        peers: Peers,
        human_share: float = 0.0,
    ) -> None:
        self.store, self.clock, self.redactor, self.secret = store, clock, redactor, secret
        self.peers, self.human_share = peers, human_share
        self._name = secrets.token_hex(8)
        self.counted: Any = lambda kind: None

    def routes(self) -> list[Route]:
        """The routes of the endpoints."""
        find = self.peers.finding
        return [
            route("/v1/feedback", find(self.give), methods=("POST",), access="feedback", body_bytes=1 << 18),
            route("/v1/feedback/{trace}", find(self.list_feedback), access="feedback"),
            route(
                "/v1/feedback/{trace}/{feedback}", find(self.withdraw), methods=("DELETE",), access="feedback"
            ),
            route("/v1/traces", self.list_traces),
            route("/v1/traces/{trace}", find(self.read)),
            route("/v1/blobs/{digest}", find(self.blob)),
            route("/v1/judgements", self.judge, methods=("POST",), access="write"),
            route("/v1/users/erase", self.erase, methods=("POST",), access="write"),
        ]

    # -- feedback -----------------------------------------------------------------------------------------------------

    async def give(self, request: Request) -> Response:
        """Keep a feedback: 202 once it is on the disk."""
        kept = await self.keep(_object(await request.body()), request.caller)
        return json_response({"id": kept.id, "trace": kept.trace, "at": kept.at}, status=202)

    async def keep(self, fields: Mapping[str, Any], caller: Caller) -> Feedback:
        """Keep the feedback of these fields.

        Raises:
            HttpError: it is none, its trace is another's, or the disk refuses.
        """
        feedback = self._feedback(fields, caller.name)
        self._own(feedback.trace, caller)
        if feedback.name == HUMAN_SAMPLE:
            feedback = self._label(feedback, caller)
        own = self.store.caller_of(feedback.trace) == caller.name
        if own and feedback.source == "user" and fields.get("user") is None:
            # who asked is who rates, where nothing else is said: one vote a person, not one for the whole application
            feedback = msgspec.structs.replace(feedback, by=self.store.user_of(feedback.trace) or feedback.by)
        try:
            kept = await self.store.give_feedback(feedback)
        except UnknownTrace:
            raise _unknown() from None
        except DataError as error:
            raise HttpError(400, "bad_feedback", error.what) from None
        except RunError as error:
            raise _refused(error) from None
        self.counted(kept.kind)
        return kept

    def _label(self, feedback: Feedback, caller: Caller) -> Feedback:
        """What a person says of an answer of the sample, with the chance by which it was drawn.

        Raises:
            HttpError: 403, the caller is no operator; 400, it is no comment with a value on an answer of the sample.
        """
        if "operate" not in caller.rights:
            raise HttpError(
                403, "forbidden", f"{HUMAN_SAMPLE!r} is a label that operators give", param="name"
            )
        if feedback.kind != "comment" or feedback.value is None:
            what = f"{HUMAN_SAMPLE!r} is a comment with a value from 0 to 1, so that nothing counts it as a rating"
            raise HttpError(400, "bad_feedback", what, param="kind")
        if not is_drawn(feedback.trace, self.human_share):
            what = f"this answer is not in the random sample of {self.human_share:g}, and says nothing of it"
            raise HttpError(400, "not_drawn", what, param="target")
        return msgspec.structs.replace(
            feedback, source="operator", text=f"drawn with probability {self.human_share:g}"
        )

    def _feedback(self, fields: Mapping[str, Any], caller: str) -> Feedback:
        def check(right: bool, name: str, what: str) -> None:
            if not right:
                raise HttpError(400, "bad_feedback", f"{name} is {what}", param=name)

        target = fields.get("target", fields.get("trace"))
        trace = target.get("trace") if isinstance(target, Mapping) else target
        places: Mapping[str, Any] = target if isinstance(target, Mapping) else fields
        check(isinstance(trace, str), "target", "the id of a trace, or {trace, span, item}")
        kind, name = fields.get("kind", "rating"), fields.get("name", "helpful")
        check(kind in get_args(FeedbackKind), "kind", f"one of {', '.join(get_args(FeedbackKind))}")
        check(isinstance(name, str) and 0 < len(name) <= 80, "name", "a text of up to 80 characters")
        value = fields.get("value")
        value = float(value) if isinstance(value, bool) else value
        is_number = isinstance(value, int | float) and 0 <= value <= 1
        check(value is None or is_number, "value", "a number from 0 to 1, or true or false")
        text = fields.get("text", fields.get("comment"))
        check(text is None or (isinstance(text, str) and len(text) <= _LONGEST_TEXT), "text",
              f"a text of up to {_LONGEST_TEXT:,} characters")  # fmt: skip
        check(value is not None or bool(text), "value", "missing, and so is text")
        check(
            kind not in ("rating", "choice", "implicit") or value is not None,
            "value",
            f"missing: a {kind} has one",
        )
        check(kind != "correction" or bool(text), "text", "missing: a correction has one")
        key, by = fields.get("client_key"), fields.get("user")
        check(
            key is None or (isinstance(key, str) and 0 < len(key) <= 200),
            "client_key",
            "a text of up to 200 characters",
        )
        check(
            by is None or (isinstance(by, str) and 0 < len(by) <= 512),
            "user",
            "a text of up to 512 characters",
        )
        source = fields.get("source", "user")
        check(source in get_args(Source), "source", f"one of {', '.join(get_args(Source))}")
        for place in ("span", "item"):
            one = places.get(place)
            check(
                one is None or (isinstance(one, str) and 0 < len(one) <= 200),
                place,
                "a text of up to 200 characters",
            )
        now = self.clock()
        clean = None if text is None else self.redactor.redact(text)[0]
        whose = caller if by is None else user_key(self.secret, f"{caller}\0{by}")
        return Feedback(
            new_id(now), str(trace), kind, name, now, value, clean, places.get("span"), places.get("item"), source,
            whose, key,
        )  # fmt: skip

    def _own(self, trace: str, caller: Caller) -> None:
        """Let a caller speak of its own traces only.

        Raises:
            HttpError: 404, there is no such trace of this caller.
        """
        try:
            owner = self.store.caller_of(trace)
        except UnknownTrace:
            raise _unknown() from None
        if owner != caller.name and "operate" not in caller.rights:
            raise _unknown()

    async def list_feedback(self, request: Request) -> Response:
        """The feedback of a trace that stands."""
        trace = request.path_params["trace"]
        self._own(trace, request.caller)
        view = self._view(trace)
        return json_response({"object": "list", "data": list(view.feedback), "withdrawn": view.withdrawn})

    async def withdraw(self, request: Request) -> Response:
        """Take a feedback back."""
        trace, feedback = request.path_params["trace"], request.path_params["feedback"]
        self._own(trace, request.caller)
        try:
            await self.store.withdraw(trace, feedback, by=request.caller.name)
        except DataError as error:
            raise HttpError(404, "no_such_feedback", error.what) from None
        except RunError as error:
            raise _refused(error) from None
        return json_response({"id": feedback, "withdrawn": True})

    # -- traces -------------------------------------------------------------------------------------------------------

    async def list_traces(self, request: Request) -> Response:
        """The newest traces, as lines."""
        given = request.query_params
        try:
            limit = min(_LISTED, max(1, int(given.get("limit", "50"))))
        except ValueError:
            raise HttpError(400, "bad_limit", "limit is a whole number", param="limit") from None
        rows = await asyncio.to_thread(
            newest_traces,
            self.store.index,
            before=given.get("before"),
            limit=limit,
            status=given.get("status"),
            bundle=given.get("bundle"),
            user=given.get("user"),
        )
        return json_response({"object": "list", "data": rows, "has_more": len(rows) == limit})

    async def read(self, request: Request) -> Response:
        """A trace with its spans and all that was said of it."""
        view = self._view(request.path_params["trace"])
        return json_response(
            {
                "trace": view.trace,
                "feedback": view.feedback,
                "judgements": view.judgements,
                "withdrawn": view.withdrawn,
            }
        )

    async def blob(self, request: Request) -> Response:
        """A picture that a trace names."""
        content = await asyncio.to_thread(self.store.blob, request.path_params["digest"])
        if content is None:
            raise HttpError(404, "no_such_blob", "there is no such file, or its time is over")
        kind = media_type(content)
        disposition = "inline" if kind.startswith("image/") else "attachment"
        return Response(content, 200, {"content-type": kind, "content-disposition": disposition,
                                       "cache-control": "private, no-store"})  # fmt: skip

    def _view(self, trace: str) -> TraceView:
        try:
            return self.store.read(trace)
        except UnknownTrace:
            raise _unknown() from None

    # -- what operators and the companion do --------------------------------------------------------------------------

    async def judge(self, request: Request) -> Response:
        """Keep a judgement."""
        try:
            record = msgspec.convert(_object(await request.body()), JudgementRecord)
        except (msgspec.ValidationError, ValueError) as error:
            raise HttpError(400, "bad_judgement", str(error)) from None
        try:
            await self.store.judge(record)
        except UnknownTrace:
            raise _unknown() from None
        except RunError as error:
            raise _refused(error) from None
        return json_response({"id": record.id}, status=202)

    async def erase(self, request: Request) -> Response:
        """Remove all of a user: `{"caller": …, "user": …}` as the caller named them, or `{"key": …}`."""
        fields = _object(await request.body())
        key = fields.get("key")
        if key is None:
            caller, user = fields.get("caller", "local"), fields.get("user")
            if not isinstance(user, str) or not isinstance(caller, str) or not user:
                raise HttpError(400, "bad_user", "give user and caller, or the user's key", param="user")
            key = user_key(self.secret, f"{caller}\0{user}")
        if not isinstance(key, str) or not 0 < len(key) <= 64:
            raise HttpError(400, "bad_user", "a key is a text", param="key")
        own = HEADER in request.headers  # another gateway asks all of them
        authorization = None if own else request.headers.get("authorization", "")
        return json_response(await self.erase_user(key, authorization))

    async def erase_user(self, key: str, authorization: str | None) -> dict[str, Any]:
        """Remove all of a user here and at the other gateways; what was removed, and at how many gateways.

        Args:
            key: key of the user.
            authorization: header with the token by which the others are asked; None asks nobody.

        Raises:
            HttpError: 503, this one or another one did not do it, and which.
        """
        try:
            erasure = await self.store.erase(key)
        except RunError as error:
            raise _refused(error) from None
        own = {"traces": erasure.traces, "records": erasure.records, "gateway": self._name}
        if authorization is None:
            return own
        done: list[Mapping[str, Any]] = [own]
        done += await self.peers.everywhere("/v1/users/erase", {"key": key}, authorization)
        sums = {name: sum(one[name] for one in done) for name in ("traces", "records")}
        # a list of peers that all gateways share names each of them to itself, too
        return {"key": key, **sums, "gateways": len({one.get("gateway") for one in done})}


def media_type(content: bytes) -> str:
    """Media type of a picture, by its first bytes; of anything else, bytes that nothing opens."""
    for start, kind in ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif")):
        if content.startswith(start):
            return kind
    return "image/webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else "application/octet-stream"


def _object(body: bytes) -> dict[str, Any]:
    fields = read_json(body)
    if not isinstance(fields, dict):
        raise HttpError(400, "bad_json", "the body is not a JSON object")
    return fields


def _unknown() -> HttpError:
    return HttpError(404, "no_such_trace", "there is no such trace")


def _refused(error: RunError) -> HttpError:
    full = isinstance(error, JournalFull)
    return HttpError(
        503, "store_full" if full else "store_failed", "nothing can be kept now", headers={"retry-after": "5"}
    )
