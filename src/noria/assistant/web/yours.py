"""What belongs to a user: the account, a file with everything, and deleting everything."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgspec

from noria.assistant.web.forms import Form, read_form
from noria.assistant.web.room import CROWD, NotHere, Refused, Room
from noria.assistant.web.views import file_names
from noria.assistant.web.visitors.accounts import LEAST, MOST, Account, is_name, key_of
from noria.assistant.web.visitors.sessions import Visitor, new_guest
from noria.core.service.serving import Request, Response
from noria.core.storage.control import StaleVersion

TRIES = 6
"""Tries to sign in by one name in any minute; from one address so many times `CROWD`."""

EXPORTS = 4
"""Files with everything that a user may take in any minute: each is made in memory."""


class Yours:
    """Endpoints of accounts and data.

    Args:
        room: what all pages share.
    """

    def __init__(self, room: Room) -> None:
        self.room = room

    # -- accounts -----------------------------------------------------------------------------------------------------

    async def account(self, request: Request, visitor: Visitor) -> Response:
        """The page of the account."""
        return self._page(visitor)

    def _page(
        self, visitor: Visitor, key: str = "", *, status: int = 200, filled: str = "", **places: Any
    ) -> Response:
        self._offered(visitor)
        said = self.room.text(key, **places) if key else ""
        return self.room.page(
            "account.html", visitor, status=status, said=said, failed=status >= 400, name=filled
        )

    async def act(self, request: Request, visitor: Visitor) -> Response:
        """Sign up, in or out, or change the passphrase, as a form asks."""
        self._offered(visitor)
        form = await read_form(request, self.room, visitor)
        actions = {
            "sign-up": self._sign_up, "sign-in": self._sign_in, "sign-out": self._sign_out, "change": self._change
        }  # fmt: skip
        action = actions.get(form.get("action"))
        if action is None:
            raise NotHere
        try:
            return await action(form, visitor, request)
        except Refused as refused:
            return self._page(
                visitor, refused.key, status=refused.status, filled=form.get("name")[:40], **refused.places
            )

    async def _sign_up(self, form: Form, visitor: Visitor, request: Request) -> Response:
        if visitor.account is not None:  # a second name would outlive the passphrase of the first one
            raise Refused("stale", status=409)
        name, passphrase = form.get("name").strip(), form.get("passphrase")
        if not is_name(name):
            raise Refused("bad_name")
        self._check_passphrase(passphrase)
        self._not_too_often(request, name)
        # The guest's name becomes the account's, and the browser's guest is another one.
        account = await self.room.sessions.accounts.make(name, passphrase, visitor.name)
        if account is None:
            raise Refused("name_taken", status=409)
        return self._signed_in(new_guest(), account)

    async def _sign_in(self, form: Form, visitor: Visitor, request: Request) -> Response:
        self._not_too_often(request, form.get("name"))
        account = await self.room.sessions.accounts.sign_in(form.get("name"), form.get("passphrase")[:MOST])
        if account is None:
            raise Refused("bad_sign_in", status=403)
        return self._signed_in(visitor.guest, account)

    async def _sign_out(self, form: Form, visitor: Visitor, request: Request) -> Response:
        return self._page(self.room.sessions.known(visitor.guest, None, visitor.base), "signed_out")

    async def _change(self, form: Form, visitor: Visitor, request: Request) -> Response:
        if visitor.account is None:
            raise NotHere
        self._not_too_often(request, visitor.account.name)
        self._check_passphrase(form.get("new"))
        known = await self.room.sessions.accounts.sign_in(visitor.account.name, form.get("passphrase")[:MOST])
        if known is None:
            raise Refused("bad_sign_in", status=403)
        try:
            account = await self.room.sessions.accounts.change(known, form.get("new"))
        except StaleVersion:
            raise Refused("stale", status=409) from None
        changed = self.room.sessions.known(visitor.guest, account, visitor.base)
        return self._page(changed, "passphrase_changed")

    def _signed_in(self, guest: str, account: Account) -> Response:
        visitor = self.room.sessions.known(guest, account, "/chat")
        return self._page(visitor, "signed_in", name=account.name)

    def _offered(self, visitor: Visitor) -> None:
        if visitor.embedded or not self.room.config.page.accounts:
            raise NotHere

    @staticmethod
    def _check_passphrase(text: str) -> None:
        if not LEAST <= len(text) <= MOST:
            raise Refused("bad_passphrase")

    def _not_too_often(self, request: Request, name: str) -> None:
        self.room.check_rate(f"sign in name {key_of(name)}", TRIES)
        self.room.check_rate(f"sign in address {self.room.address(request)}", CROWD * TRIES)

    # -- data ---------------------------------------------------------------------------------------------------------

    async def data(self, request: Request, visitor: Visitor) -> Response:
        """The page of the visitor's data, with ways to export and to delete it."""
        return await self._data(visitor)

    async def _data(self, visitor: Visitor, key: str = "", *, status: int = 200, **places: Any) -> Response:
        found = await asyncio.to_thread(self.room.history.list, self.room.key(visitor.name))
        days = self.room.config.keep_pictures_days
        return self.room.page(
            "data.html", visitor, status=status, said=self.room.text(key, **places) if key else "",
            failed=status >= 400, conversations=len(found), messages=sum(len(one.turns) for one in found),
            pictures=self.room.text("pictures_ever" if days is None else "pictures_days", days=f"{days or 0:g}"),
        )  # fmt: skip

    async def export(self, request: Request, visitor: Visitor) -> Response:
        """Everything of the visitor as one JSON file."""
        self.room.check_rate(f"export {visitor.name}", EXPORTS)
        content = await asyncio.to_thread(self._everything, visitor)
        return Response(
            json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "replace"), 200,
            {"content-type": "application/json", "cache-control": "no-store",
             "content-disposition": 'attachment; filename="my-data.json"'},
        )  # fmt: skip

    def _everything(self, visitor: Visitor) -> dict[str, Any]:
        conversations, files = [], {}
        for one in self.room.history.list(self.room.key(visitor.name)):
            turns = []
            for turn in one.turns:
                for trace in turn.traces:
                    try:
                        view = self.room.view(visitor, trace)
                    except NotHere:
                        continue
                    for digest in file_names(view.trace):
                        content = self.room.state.store.blob(digest)
                        if content is not None:
                            files[f"blob:sha256:{digest}"] = base64.b64encode(content).decode("ascii")
                    turns.append(msgspec.to_builtins(
                        {"trace": view.trace, "feedback": view.feedback, "chosen": turn.chosen == trace}
                    ))  # fmt: skip
            conversations.append({"title": one.title, "began": one.began, "last": one.last, "turns": turns})
        name = None if visitor.account is None else visitor.account.name
        return {"account": name, "conversations": conversations, "files_base64": files}

    async def delete(self, request: Request, visitor: Visitor) -> Response:
        """Delete everything of the visitor: traces, pictures, feedback, titles, and the account."""
        form = await read_form(request, self.room, visitor)
        if form.get("sure") != "yes":
            return await self._data(visitor, "erase_tick", status=400)
        erasure = await self.room.state.store.erase(self.room.key(visitor.name))
        # Whoever was signed in keeps the guest of this browser, whose conversations are another's.
        guest = visitor.guest if visitor.account is not None else new_guest()
        known = self.room.sessions.known(guest, None, visitor.base)
        return await self._data(known, "erased", traces=erasure.traces, records=erasure.records)
