"""The forms of the console. Each carries the operator's token, and what it was made of where that may have changed.

A browser sends a stored password also for a page of another origin, so that it is not enough to change anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from urllib.parse import parse_qsl

from noria.assistant.service.bundles import EXPERIMENT, SWITCHES, Bundles
from noria.assistant.service.console.experiments import names_of
from noria.assistant.service.console.messages import message_of
from noria.assistant.service.feedback import Conversations
from noria.assistant.service.operations import Operations
from noria.core.chat.outcomes import Failure
from noria.core.errors import DataError, NoriaError
from noria.core.experiments.lifecycle import OPEN
from noria.core.learning.scheduling.schedule import SWITCH
from noria.core.service.callers import Caller
from noria.core.service.responses import HttpError
from noria.core.service.serving import Request, Response
from noria.core.storage.control import StaleVersion
from noria.core.traces.index.people import HUMAN_SAMPLE
from noria.core.traces.store import UnknownTrace

HOME = "/"
"""Path of the first page."""
BODY_BYTES = 1 << 16
"""Largest form."""
SECONDS = 600.0
"""Longest time of a form: a replay waits for a backend."""


class Forms:
    """Changes that the console makes by its forms.

    Args:
        bundles: bundles, pointers, experiments and switches.
        operations: what a form changes.
        conversations: traces at all gateways, for an erasure.
        render: makes a page of a template.
        places: paths of the pages to which a form may lead back.
    """

    def __init__(
        self,
        bundles: Bundles,
        operations: Operations,
        conversations: Conversations,
        render: Callable[..., Response],
        places: Collection[str],
    ) -> None:
        self.bundles, self.operations = bundles, operations
        self.conversations, self.render, self.places = conversations, render, places

    async def act(self, request: Request) -> Response:
        """Do what a form asks for, and go back to its page with a word on what came of it."""
        body = (await request.body()).decode("utf-8", "replace")
        try:
            fields = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=32))
        except ValueError:
            return self._told(HOME, "This form has too many fields.", status=400)
        caller = request.app.caller_with(fields.get("token", "").strip().encode())
        back = fields.get("back", HOME)
        back = back if back in self.places else HOME
        if caller is None or "operate" not in caller.rights:
            return self._told(back, "This needs the operator's token.", status=401)
        try:
            if fields.get("action") == "replay":
                return await self._replayed(fields)
            if fields.get("action") == "erase":
                return await self._erased(back, fields)
            if fields.get("action") == "label":
                return self._told(back, await self._labelled(fields, caller))
            said = await asyncio.to_thread(self._act, fields, caller.name)
        except StaleVersion:
            return self._told(back, "Somebody changed it meanwhile: look again, and decide anew.", status=409)
        except (NoriaError, HttpError) as error:
            return self._told(back, str(error), status=400)
        return self._told(back, said)

    async def _erased(self, back: str, fields: Mapping[str, str]) -> Response:
        """Remove all of a user at every gateway; one that did not do it is named, and nothing is called done."""
        try:
            done = await self.conversations.erase_user(
                fields.get("key", ""), f"Bearer {fields['token'].strip()}"
            )
        except HttpError as error:
            return self._told(back, error.message, status=error.status)
        where = "" if done["gateways"] == 1 else f", at {done['gateways']} gateways"
        return self._told(
            back, f"{done['traces']} traces of this user were erased, with {done['records']} records{where}."
        )

    async def _labelled(self, fields: Mapping[str, str], caller: Caller) -> str:
        """Keep what a person says of an answer of the sample."""
        try:
            value = float(fields.get("value", ""))
        except ValueError:
            raise DataError("choose what the answer is", where="value") from None
        label = {"target": fields.get("trace"), "kind": "comment", "name": HUMAN_SAMPLE, "value": value}
        await self.conversations.keep(label, caller)
        return "The label is kept."

    async def _replayed(self, fields: Mapping[str, str]) -> Response:
        """The answer that another bundle gives to a trace's request, beside the one that was given; it is not kept."""
        try:
            trace = self.conversations.store.read(fields.get("trace", "")).trace
        except UnknownTrace:
            return self.render("missing.html", status=404, path="/traces")
        bundle = fields.get("bundle", "")
        one = await asyncio.to_thread(self.bundles.choice_of, bundle)
        outcome = await self.operations.gateway.replay(trace, one)
        given = next((span.output for span in trace.spans if span.kind == "chat"), None)
        return self.render(
            "replayed.html",
            path="/traces",
            trace=trace,
            bundle=bundle,
            names=names_of(self.bundles),
            given=message_of(given)["text"],
            outcome=outcome,
            failed=isinstance(outcome, Failure),
        )

    def _told(self, back: str, said: str, *, status: int = 200) -> Response:
        return self.render("told.html", status=status, path=back, said=said, failed=status != 200)

    def _act(self, fields: Mapping[str, str], by: str) -> str:
        action, name = fields.get("action"), fields.get("name", "")
        control = self.bundles.control
        if action == "switch" and name in SWITCHES:
            document = control.read(SWITCH, name)
            on = fields.get("on") == "true"
            control.write(SWITCH, name, {"on": on}, based_on=document.version if document else 0, by=by)
            said = f"{name} is {'on' if on else 'off'}."
        elif action == "roll back":
            move = self.bundles.move_by_hand(
                None, based_on=_number(fields), by=by, reason=fields.get("reason", "")
            )
            said = f"Rolled back: move {move.version} serves bundle {move.bundle[:12]}."
        elif action == "promote":
            move = self.bundles.move_by_hand(
                fields.get("bundle", ""), based_on=_number(fields), by=by, reason=fields.get("reason", "")
            )
            said = f"Promoted: move {move.version} serves bundle {move.bundle[:12]}."
        elif action == "stop":
            document = control.read(EXPERIMENT, name)
            if document is None or (document.value or {}).get("stage") not in OPEN:
                raise DataError("there is no such open experiment", where="experiment")
            value = dict(document.value or {}) | {
                "stage": "stopped",
                "reason": fields.get("reason") or "stopped by hand",
            }
            control.write(EXPERIMENT, name, value, based_on=document.version, by=by)
            said = f"{name} is stopped."
        else:
            raise DataError("no such action", where="form")
        self.operations.refresh()
        return said


def _number(fields: Mapping[str, str]) -> int:
    try:
        return int(fields.get("based_on", ""))
    except ValueError:
        raise DataError("the form lacks the version that it was made of", where="based_on") from None
