"""What a user says of an answer: good or bad, what it should have been, which of two is better."""

from __future__ import annotations

from typing import Any

from noria.assistant.web.forms import Form, read_form, see_other
from noria.assistant.web.room import CALLER, CROWD, NotHere, Refused, Room
from noria.assistant.web.views import ANSWER, ITEM, answer_of
from noria.assistant.web.visitors import history
from noria.assistant.web.visitors.history import Turn
from noria.assistant.web.visitors.sessions import Visitor
from noria.core.service.serving import Request, Response
from noria.core.traces.records import Feedback
from noria.core.traces.store import TraceView

PREFERRED = "preferred"
"""Name of a choice: 1 on the trace that was chosen, 0 on the other."""

SAID = 60
"""Most that a user says of answers in any minute."""


class Saying:
    """Endpoints that take feedback on answers.

    Args:
        room: what all pages share.
    """

    def __init__(self, room: Room) -> None:
        self.room = room

    async def say(self, request: Request, visitor: Visitor) -> Response:
        """Keep what a form says; a script gets the buttons as they are now, a browser the page."""
        form = await read_form(request, self.room, visitor)
        self.room.check_rate(f"say {visitor.name}", SAID)
        self.room.check_rate(f"say from {self.room.address(request)}", CROWD * SAID)
        trace = form.get("trace")
        view = self.room.view(visitor, trace)
        if form.get("choose"):
            return await self._choose(form, view, visitor)
        if form.get("rate"):
            await self._rate(form, view, visitor)
        elif form.get("withdraw"):
            await self._withdraw(view, visitor, form.get("withdraw"))
        else:
            await self._correct(form, view, visitor)
        if request.headers.get("x-part") == "1":
            return self._buttons(form, visitor)
        return see_other(self._back(form, visitor, trace))

    async def _rate(self, form: Form, view: TraceView, visitor: Visitor) -> None:
        """Rate, rate otherwise, or take the same rating back."""
        value, item = float(form.get("rate") == "up"), form.get("item") or None
        mine = [
            one for one in self._mine(view, visitor) if one.kind == "rating" and (one.item or None) == item
        ]
        if any(one.client_key == form.get("key") for one in mine):
            return  # the same form, sent twice
        for one in mine:
            await self._withdraw(view, visitor, one.id)
        if not any(one.value == value for one in mine):
            await self._keep(form, visitor, kind="rating", name=ITEM if item else ANSWER, value=value)

    async def _correct(self, form: Form, view: TraceView, visitor: Visitor) -> None:
        text, skill = form.get("better").strip(), form.get("skill")
        if not text and not skill:
            raise Refused("empty")
        for name, said in ((ITEM if form.get("item") else ANSWER, text), ("skill", skill)):
            if not said:
                continue
            key = f"{form.get('key')} {name}"
            earlier = [one for one in self._mine(view, visitor) if self._is_same(one, form, name)]
            if any(one.client_key == key for one in earlier):
                continue
            for one in earlier:
                await self._withdraw(view, visitor, one.id)
            await self._keep(form, visitor, kind="correction", name=name, text=said, client_key=key)

    def _is_same(self, one: Feedback, form: Form, name: str) -> bool:
        is_skill = one.name == "skill"
        return (
            one.kind == "correction"
            and (one.item or "") == form.get("item")
            and is_skill == (name == "skill")
        )

    async def _choose(self, form: Form, view: TraceView, visitor: Visitor) -> Response:
        """Choose one of two answers; the first choice of a turn stands."""
        one, turn = self._turn(form, view, visitor)
        chosen = form.get("choose")
        if turn.beside is None or chosen not in turn.traces:
            raise NotHere
        if turn.chosen is None:
            for trace in turn.traces:
                other = next(t for t in turn.traces if t != trace)
                await self._keep(
                    form, visitor, trace=trace, kind="choice", name=PREFERRED,
                    value=float(trace == chosen), item=other, client_key=f"choice {turn.trace}",
                )  # fmt: skip
            self.room.history.choose(self.room.key(visitor.name), one.id, turn.trace, chosen)
        return see_other(self._back(form, visitor, turn.trace))

    def _turn(self, form: Form, view: TraceView, visitor: Visitor) -> tuple[history.Conversation, Turn]:
        one = self.room.history.read(self.room.key(visitor.name), form.get("conversation"))
        for turn in one.turns if one is not None else ():
            if view.trace.id in turn.traces and one is not None:
                return one, turn
        raise NotHere

    def _mine(self, view: TraceView, visitor: Visitor) -> list[Feedback]:
        key = self.room.key(visitor.name)
        return [one for one in view.feedback if one.by == key]

    async def _keep(self, form: Form, visitor: Visitor, **fields: Any) -> None:
        target = {"trace": fields.pop("trace", form.get("trace"))}
        item = fields.pop("item", form.get("item"))
        await self.room.state.conversations.keep(
            {"client_key": form.get("key"), **fields, "user": visitor.name,
             "target": target | ({"item": item} if item else {})}, CALLER,
        )  # fmt: skip

    async def _withdraw(self, view: TraceView, visitor: Visitor, name: str) -> None:
        if not any(one.id == name for one in self._mine(view, visitor)):
            return  # it was taken back before, or is another's
        await self.room.state.store.withdraw(view.trace.id, name, by=self.room.key(visitor.name))

    def _buttons(self, form: Form, visitor: Visitor) -> Response:
        """The buttons of an answer or an item as they are now."""
        view = self.room.view(visitor, form.get("trace"))
        answer = answer_of(view, self.room.key(visitor.name), lambda trace, digest: digest)
        part = self.room.part(
            "opinion.html", visitor, answer=answer, item=form.get("item"), what=form.get("what")[:80],
            conversation=form.get("conversation"), said=self.room.text("thanks"),
        )  # fmt: skip
        return self.room.html(part, visitor)

    @staticmethod
    def _back(form: Form, visitor: Visitor, trace: str) -> str:
        name = form.get("conversation")
        return f"{visitor.base}/c/{name}#t-{trace}" if history.is_name(name) else visitor.base
