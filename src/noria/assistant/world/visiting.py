"""Users at the shop's door: they ask over HTTP, look at what they are shown, and say later what they think."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from noria.assistant.world.oracle import Seen, quality, satisfaction, waiting
from noria.assistant.world.shop import Shop
from noria.assistant.world.users import User, Wish, opinion
from noria.core.errors import RunError, needing
from noria.core.files import write_atomic
from noria.core.records import json_records

if TYPE_CHECKING:
    import aiohttp

AT_ONCE = 24
"""Users who wait for an answer at the same time."""


@dataclass(frozen=True)
class Visit:
    """A question that was answered.

    Attributes:
        wish: key of the wish.
        part: part of the season in which it was asked.
        user, intent: who asked, and for what.
        quality, satisfaction: what the answer was worth, and to the user.
        trace, bundle, skill: trace of the answer, the bundle that answered, and the skill that was chosen.
        failed: whether there was no answer.
    """

    wish: str
    part: str
    user: int
    intent: str
    quality: float
    satisfaction: float
    trace: str
    bundle: str
    skill: str
    failed: bool


class Visits:
    """What was asked so far: lines of a file, each written when its answer is there.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            content = path.read_bytes()
            if content and not content.endswith(b"\n"):  # killed while it wrote
                write_atomic(path, content[: content.rfind(b"\n") + 1])
        lines = [] if not path.exists() else [line for _, line in json_records(path)]
        self.done = {(one.part, one.wish): one for one in (Visit(**line) for line in lines)}

    def add(self, visit: Visit) -> None:
        """Keep a visit."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(visit)) + "\n")
        self.done[visit.part, visit.wish] = visit

    def of(self, part: str) -> list[Visit]:
        """The visits of a part of the season, by their wishes."""
        return [one for (name, _), one in sorted(self.done.items()) if name == part]


class Door:
    """Asks the shop; a context.

    Args:
        shop: the shop.
        visits: what was asked so far: a wish of a part is asked once.
    """

    def __init__(self, shop: Shop, visits: Visits) -> None:
        self.shop, self.visits = shop, visits
        self._places = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Door:
        with needing("serve"):
            import aiohttp
        # A connection that idles longer may be closed by the server while a request goes into it.
        connector = aiohttp.TCPConnector(keepalive_timeout=2)
        timeout = aiohttp.ClientTimeout(180)
        self._session = aiohttp.ClientSession(self.shop.url, timeout=timeout, connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(
        self,
        part: str,
        wishes: Sequence[tuple[User, Wish]],
        *,
        crowd: str = "user",
        seen: Callable[[], Any] = lambda: None,
    ) -> list[Visit]:
        """Ask what was not asked yet; the visits of these wishes.

        Args:
            part: part of the season.
            wishes: who wants what.
            crowd: what users' names begin with.
            seen: called after each.
        """

        async def one(user: User, wish: Wish) -> Visit:
            known = self.visits.done.get((part, wish.name))
            if known is None:
                async with self._places:
                    known = await self._visit(part, user, wish, crowd)
                self.visits.add(known)
            seen()
            return known

        return list(await asyncio.gather(*(one(user, wish) for user, wish in wishes)))

    async def _visit(self, part: str, user: User, wish: Wish, crowd: str) -> Visit:
        body = {
            "model": "noria",
            "user": f"{crowd}-{user.number}",
            "messages": [{"role": "user", "content": content_of(wish)}],
        }
        status, reply, headers = await self._post("/v1/chat/completions", body)
        if status >= 500:
            seen = Seen(failed=True)
            reply = {}
        elif status >= 400:
            raise RunError(f"the shop refuses: {reply}", where=self.shop.url)
        else:
            seen = seen_in(reply, headers.get("x-noria-model", ""))
        trace = str(reply.get("id", ""))
        bundle = headers.get("x-noria-bundle", "")
        if trace and not bundle:  # an experiment deals, and only operators are told
            bundle = str((await self.operate(f"/v1/traces/{trace}"))["trace"]["bundle"] or "")[:16]
        return Visit(
            wish.name, part, user.number, wish.intent, quality(user, wish, seen), satisfaction(user, wish, seen),
            trace, bundle, headers.get("x-noria-skill", ""), seen.failed,
        )  # fmt: skip

    async def tell(self, visits: Sequence[tuple[User, Wish, Visit]], *, crowd: str = "user") -> int:
        """Say what users think of their answers; the number of ratings. The same again changes nothing."""
        rated = 0
        for user, wish, visit in visits:
            if visit.failed:
                continue
            said = opinion(user, wish, visit.satisfaction)
            rated += said.rating is not None
            if said.rating is not None:
                await self._feedback(user, visit, crowd, kind="rating", name="helpful", value=said.rating)
            if said.skill is not None:
                await self._feedback(user, visit, crowd, kind="correction", name="skill", text=said.skill)
            if said.comment:
                await self._feedback(user, visit, crowd, kind="comment", name="comment", text=said.comment)
        return rated

    async def _feedback(self, user: User, visit: Visit, crowd: str, **fields: Any) -> None:
        body = {
            "target": visit.trace,
            "user": f"{crowd}-{user.number}",
            "client_key": fields["kind"],
            **fields,
        }
        status, reply, _ = await self._post("/v1/feedback", body)
        if status >= 300:
            raise RunError(f"the shop refuses feedback: {reply}", where=self.shop.url)

    async def _post(
        self, path: str, body: Mapping[str, Any]
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Status, JSON and headers of an answer; asked again where the connection broke, at most twice."""
        import aiohttp

        for left in reversed(range(3)):
            try:
                async with self._session.post(path, json=body) as answer:
                    return answer.status, await answer.json(), answer.headers
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                if not left:
                    what = f"the shop does not answer: {type(error).__name__}"
                    raise RunError(what, where=self.shop.url, mend="see the logs in its folder") from error
                await asyncio.sleep(0.5)
        raise AssertionError

    async def operate(self, path: str) -> Any:
        """JSON of a call of the operator's."""
        async with self._session.get(path, headers={"authorization": f"Bearer {self.shop.token}"}) as answer:
            return await answer.json()

    async def stop(self, experiment: str, reason: str) -> None:
        """End an experiment without a winner, as the operator."""
        headers = {"authorization": f"Bearer {self.shop.token}"}
        path = f"/v1/experiments/{experiment}/stop"
        async with self._session.post(path, json={"reason": reason}, headers=headers) as answer:
            if answer.status not in (200, 409):  # it may have ended meanwhile
                raise RunError(f"the experiment was not stopped: {await answer.text()}", where=self.shop.url)


def content_of(wish: Wish) -> Any:
    """What is sent: words, and the picture that is to be edited."""
    if wish.task is None:
        return wish.text
    sink = io.BytesIO()
    wish.task.image.save(sink, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode('ascii')}"
    return [{"type": "text", "text": wish.text}, {"type": "image_url", "image_url": {"url": url}}]


def seen_in(reply: Mapping[str, Any], model: str) -> Seen:
    """What a user sees of a completion by a model."""
    message = reply["choices"][0]["message"]
    shown = tuple(message.get("shown") or ())
    tokens = (reply.get("usage") or {}).get("completion_tokens") or 0
    return Seen(message.get("content") or "", shown, waiting(tokens, model, len(shown)))
