"""What all pages share: who visits, how a page is made, what may be in it, and what a user's conversations hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import Markup, escape

from noria.assistant.config import AssistantConfig
from noria.assistant.service.service import GatewayState
from noria.assistant.web.desk import Desk, Pending
from noria.assistant.web.shown import asked_of
from noria.assistant.web.texts import direction, read_texts
from noria.assistant.web.views import TurnView, answer_of, last_picture, question_of
from noria.assistant.web.visitors.accounts import Accounts
from noria.assistant.web.visitors.history import Conversation, History, Turn
from noria.assistant.web.visitors.sessions import Sessions, Visitor, new_guest
from noria.core.pages.report import environment
from noria.core.service.callers import Caller
from noria.core.service.serving import Request, Response
from noria.core.traces.ids import user_key
from noria.core.traces.store import TraceView, UnknownTrace

CALLER = Caller("page", {"chat", "feedback"})
"""The page as a caller of the gateway: its traces bear this name."""
LOOKED_AT = 40
"""Turns of a conversation that a page shows at first, and that a model reads."""
CROWD = 20
"""Times of a person's rate that one address has, which may be a proxy's or a whole house's."""
_WATCHED = 20_000


class NotHere(Exception):
    """There is no such thing of this visitor."""


class Refused(Exception):
    """What a visitor asks for is not done; the texts' key says why."""

    def __init__(self, key: str, *, status: int = 400, **places: Any) -> None:
        super().__init__(key)
        self.key, self.status, self.places = key, status, places


@dataclass
class Room:
    """The pages' shared state.

    Args:
        state: the gateway.
        config: settings of the page.
    """

    state: GatewayState
    config: AssistantConfig
    sessions: Sessions = field(init=False)
    history: History = field(init=False)
    desk: Desk = field(init=False)
    texts: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        page = self.config.page
        self.sessions = Sessions(self.state.secret, page, Accounts(self.state.control))
        self.history, self.desk = History(self.state.control), Desk(page.at_once, page.queue)
        self.texts = read_texts(page.texts)
        self._templates = environment("noria.assistant.web")
        self._templates.filters["allowed"] = _is_allowed
        self._rates: OrderedDict[str, Caller] = OrderedDict()
        self.state.store.also.append(self._forgetting)

    # -- visitors -----------------------------------------------------------------------------------------------------

    def is_open(self, request: Request) -> bool:
        """Whether the page is served to a request: by itself only where anybody may ask anyway."""
        on = self.config.page.on
        if on is not None:
            return on
        may = self.config.keep_texts and not self.config.callers and not self.config.peers
        return may and (request.is_local or bool(self.config.page.hosts))

    def key(self, name: str) -> str:
        """Key of a user, as the traces bear it."""
        return user_key(self.state.secret, f"{CALLER.name}\0{name}")

    def check_rate(self, who: str, per_minute: int) -> None:
        """Count what somebody does.

        Raises:
            Refused: 429, it was done too often in the last minute.
        """
        caller = self._rates.pop(who, None) or Caller(who, (), per_minute)
        self._rates[who] = caller
        if len(self._rates) > _WATCHED:
            self._rates.popitem(last=False)
        wait = caller.wait()
        if wait:
            raise Refused("too_often", status=429, seconds=wait)

    @staticmethod
    def address(request: Request) -> str:
        """Address from which a request came: behind a proxy it is the proxy's."""
        return request.client.host if request.client else "-"

    @asynccontextmanager
    async def _forgetting(self, user: str) -> AsyncIterator[None]:
        """Held while a user is erased, whoever asked for it: by the page, the console or the interface."""
        await self.desk.forget_user(user)
        yield
        self.history.remove(user)
        for account in self.sessions.accounts.all():
            if self.key(account.user) == user:
                self.sessions.accounts.remove(account)

    # -- conversations ------------------------------------------------------------------------------------------------

    def view(self, visitor: Visitor, trace: str) -> TraceView:
        """A trace of the visitor.

        Raises:
            NotHere: it is another's, or gone.
        """
        try:
            view = self.state.store.read(trace)
        except UnknownTrace:
            raise NotHere from None
        if view.trace.user != self.key(visitor.name) or view.trace.caller != CALLER.name:
            raise NotHere
        return view

    def turns(self, visitor: Visitor, one: Conversation, *, most: int | None = LOOKED_AT) -> list[TurnView]:
        """The last turns of a conversation as the visitor reads them; those that are gone are left out."""
        seen: set[str] = set()
        found: list[TurnView] = []
        for turn in one.turns if most is None else one.turns[-most:]:
            try:
                view = self.turn(visitor, turn, seen)
            except NotHere:
                continue
            default = last_picture(found)
            if default is not None and view.about == default[1]:
                view = replace(view, usual=True)
            found.append(view)
        return found

    def turn(self, visitor: Visitor, turn: Turn, seen: set[str]) -> TurnView:
        """One turn; `seen` holds the pictures before it, and takes in its own.

        Raises:
            NotHere: its trace is gone.
        """
        user = self.key(visitor.name)

        def address(trace: str, digest: str) -> str:
            return f"{visitor.base}/files/{trace}/{digest}"

        views = [self.view(visitor, name) for name in turn.traces]
        trace = views[0].trace
        text, pictures = question_of(trace)
        answers = [answer_of(view, user, address) for view in views]
        if len(answers) > 1 and int(trace.id[-1], 16) % 2:  # which is left must not decide which is chosen
            answers.reverse()
        about = next((p for p in pictures[-1:] if p in seen), None)
        fresh = tuple(p for p in pictures if p not in seen)
        seen.update(pictures, *(one.pictures for one in answers))
        seen.update(d for one in answers for s in one.shown for d in s.fields["digests"])
        return TurnView(trace.id, trace.began, text, fresh, about, tuple(answers), turn.chosen)

    async def stop(self, pending: Pending) -> None:
        """Stop an answer, and wait until the trace that says so can be read."""
        self.desk.stop(pending)
        if pending.task is None:
            return
        await asyncio.wait([pending.task], timeout=5)
        one = self.history.read(pending.user, pending.conversation)
        for trace in one.turns[-1].traces if one is not None and one.turns else ():
            for _ in range(100):  # what nobody waits for any more is written soon
                with contextlib.suppress(UnknownTrace):
                    self.state.store.read(trace)
                    break
                await asyncio.sleep(0.02)

    # -- pages --------------------------------------------------------------------------------------------------------

    def text(self, key: str, **places: Any) -> str:
        """A text of the page, with its places filled."""
        return self.texts[key].format_map({"title": self.config.page.title, **places})

    def part(self, template: str, visitor: Visitor, **content: Any) -> Markup:
        """A piece of a page as HTML."""
        page = self.config.page
        made = self._templates.get_template(template).render(
            t=self.text, page=page, visitor=visitor, base=visitor.base, token=visitor.token,
            doing=self._doing, direction=direction(page.language), reason=reason,
            image_hosts=page.image_hosts, **content,
        )  # fmt: skip
        return Markup(made)

    def page(
        self,
        template: str,
        visitor: Visitor,
        *,
        status: int = 200,
        said: str = "",
        failed: bool = False,
        **content: Any,
    ) -> Response:
        """A page as the response, with the visitor's cookies."""
        mine = self.history.list(self.key(visitor.name))[:30] if not visitor.embedded else []
        text = self.part(template, visitor, said=said, failed=failed, mine=mine, **content)
        return self.sessions.remember(self.html(text, visitor, status=status), visitor)

    def html(self, text: str, visitor: Visitor, *, status: int = 200) -> Response:
        """HTML that runs the page's own script, and fetches nothing but its own files and the shop's pictures."""
        page = self.config.page
        framed = " ".join(page.embed) if visitor.embedded and page.embed else "'none'"
        pictures = " ".join(("'self'", "blob:", *page.image_hosts))
        policy = (
            f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {pictures}; "
            "media-src 'self'; connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'self'; "
            f"frame-ancestors {framed}"
        )
        headers = {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": policy,
            "cache-control": "no-store",
            "referrer-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": "geolocation=(), microphone=(), payment=(), usb=()",
        }
        if framed == "'none'":
            headers |= {"x-frame-options": "DENY", "cross-origin-opener-policy": "same-origin"}
        return Response(text, status, headers)

    def told(self, visitor: Visitor, key: str, *, status: int = 400, **places: Any) -> Response:
        """A page that says one thing."""
        return self.page(
            "told.html", visitor, status=status, said=self.text(key, **places), failed=status >= 400
        )

    def unable(self, base: str, *, status: int = 503) -> Response:
        """A page that says that something cannot be done now. It needs no control state, and keeps the cookies."""
        nobody = self.sessions.known(new_guest(), None, base)
        text = self.part("told.html", nobody, said=self.text("unable"), failed=True, mine=[])
        return self.html(text, nobody, status=status)

    def _doing(self, step: Any, *, done: bool = False) -> Markup:
        """What a tool does, or has done, in words, by its name and the arguments of the model or its words."""
        name, words = str(step[0]), str(step[1])
        words = asked_of(words) if words.lstrip().startswith("{") else words
        tool, products = self.config.parts.tools.get(name), self.config.products
        kind = tool.kind if tool is not None and tool.kind != "mcp" else _kind_of(name)
        kind = "search" if products is not None and products.tool == name else kind
        said = self.text(f"{'done' if done else 'doing'}_{kind}", name=name.replace("_", " "))
        return escape(said) + (Markup(" <q>%s</q>") % words if words else Markup(""))

    def part_of_pending(self, visitor: Visitor, pending: Pending) -> Markup:
        """Show how far the answer to a message is."""
        from noria.assistant.web.markup import answer_html

        words = [answer_html(one) if one else Markup("") for one in pending.words]
        return self.part(
            "progress.html", visitor, pending=pending, place=self.desk.place(pending), words=words
        )


def _kind_of(name: str) -> str:
    """What a tool of an MCP server does, by its name."""
    plain = name.lower().replace("-", "_")
    kinds: Mapping[str, tuple[str, ...]] = {
        "try_on": ("try_on", "tryon"), "edit": ("edit",), "report": ("report", "research"),
        "search": ("search", "find", "products", "look_up", "lookup", "query"),
        "generate": ("generate", "make_image", "draw"),
    }  # fmt: skip
    return next((kind for kind, parts in kinds.items() if any(part in plain for part in parts)), "other")


def reason(code: str) -> str:
    """Why there is no answer, by the code of an error or the kind of a failure, as the end of a text's key."""
    if code in ("budget", "budget_spent"):
        return "budget"
    if code in ("timeout", "backend_timeout"):
        return "timeout"
    return "busy" if code in ("busy", "rate_limit", "rate_limited", "not_ready") else "other"


def _is_allowed(address: str, hosts: Sequence[str]) -> bool:
    """Whether a picture's address lies at one of these origins."""
    return any(address.startswith(f"{origin}/") for origin in hosts)
