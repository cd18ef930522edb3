"""The shop without its processes: the same pipeline, models and tools in one process, for proofs of many seeds.

What it leaves out is HTTP, journal, companion and the charts of reports; parts, rounds of tools and models are the
gateway's own functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from noria.assistant.parts.loop import ToolRounds
from noria.assistant.parts.makers import WORDS, Made, first_words, picture_result
from noria.assistant.parts.protocol import Part, prepare
from noria.assistant.products.catalogue import NAME as PRODUCTS, Catalogue
from noria.assistant.products.search import ProductSearch
from noria.assistant.world.editor_server import opened
from noria.assistant.world.model_server import ModelServer
from noria.assistant.world.oracle import Seen, waiting
from noria.assistant.world.shop import DATA, INDEX, MODEL, PRICES, SYSTEM, digits_options, prepare_files
from noria.assistant.world.users import Wish
from noria.assistant.world.visiting import content_of
from noria.core.chat.outcomes import Answer, Outcome
from noria.core.completions.requests import CompletionRequest
from noria.core.learning.routes.route import Route
from noria.core.picture_files import open_picture, png
from noria.core.tools import Tool, Toolbox, ToolContext, ToolResult, ToolSpec
from noria.core.traces.ids import Clock
from noria.editing.data.pictures import Scene
from noria.editing.use.session import ThinkThenEdit

AT_ONCE = 64
"""Requests under way at once."""


class Reply(NamedTuple):
    """An answer as a user sees it, the model that gave it, and the tokens that it read and wrote."""

    seen: Seen
    backend: str
    read: int
    written: int

    @property
    def cost(self) -> float:
        """What the model's tokens cost by the shop's prices."""
        return PRICES[self.backend] * (self.read + 4 * self.written) / 1e6

    def saying(self, text: str) -> Reply:
        """This answer in other words; each word more is a token more."""
        written = self.written + len(text.split()) - len(self.seen.text.split())
        seen = replace(self.seen, text=text, seconds=waiting(written, self.backend, len(self.seen.shown)))
        return self._replace(seen=seen, written=written)


@dataclass(frozen=True)
class Variant:
    """What is otherwise about the shop in an arm of a comparison.

    Attributes:
        name: name of the change of the tools, by which its answers are kept.
        tools: makes the tools of a request from the shop's.
        says: makes the words of an answer from the wish and what was seen.
    """

    name: str = ""
    tools: Callable[[list[Tool]], list[Tool]] = list
    says: Callable[[Wish, Seen], str] | None = None


AS_IT_IS = Variant()
"""The shop as it is."""


class InsideShop:
    """The shop in this process; a context.

    Args:
        home: folder for its files, made where there is none.
    """

    def __init__(self, home: Path) -> None:
        prepare_files(home)
        self.home, self.models = home, ModelServer()
        self._known: dict[tuple[str, str, str, str], Reply] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._stack = contextlib.AsyncExitStack()
        self._tools: list[Tool] = []

    async def __aenter__(self) -> InsideShop:
        await self._stack.enter_async_context(self.models.around())
        catalogue = self._stack.enter_context(contextlib.closing(Catalogue(self.home / DATA / PRODUCTS)))
        self._search = ProductSearch(catalogue)
        self._editor = await self._stack.enter_async_context(opened())
        self._digits = DigitsTool()
        self._reports = _Reports(self.home)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def answers(
        self, wishes: Sequence[Wish], parts: Sequence[Part], variant: Variant = AS_IT_IS
    ) -> list[Seen]:
        """What users see of the answers to their wishes, by a bundle's parts; the same case is answered once."""
        return [one.seen for one in await self.replies(wishes, parts, variant)]

    async def replies(
        self, wishes: Sequence[Wish], parts: Sequence[Part], variant: Variant = AS_IT_IS
    ) -> list[Reply]:
        """The answers with the models that gave them and what they cost."""
        return list(await asyncio.gather(*(self._answer(wish, parts, variant) for wish in wishes)))

    async def _answer(self, wish: Wish, parts: Sequence[Part], variant: Variant) -> Reply:
        query = request_of(wish)
        prepared = prepare(query, Route(backend=MODEL, system=SYSTEM), parts, Clock())
        names = ",".join(sorted(prepared.tools or ("all",)))
        key = (wish.name, prepared.route.model_dump_json(), names, variant.name)
        if key not in self._known:
            async with self._places:
                self._known[key] = await self._reply(wish, query, prepared.route, prepared.tools, variant)
        known = self._known[key]
        return known if variant.says is None else known.saying(variant.says(wish, known.seen))

    async def _reply(
        self,
        wish: Wish,
        query: CompletionRequest,
        route: Route,
        names: frozenset[str] | None,
        variant: Variant,
    ) -> Reply:
        async def ask(request: CompletionRequest) -> tuple[Outcome, dict[str, Any] | None]:
            system = {"role": "system", "content": route.system}
            content = {**request.content, "messages": [system, *request.messages]}
            whole = CompletionRequest(content, route.backend, False, False, {})
            return await self.models.answer(whole, route.backend), None

        picture = None if wish.task is None else png(wish.task.image)
        tools = variant.tools([EditTool(self._editor, picture), self._digits, self._reports, self._search])
        outcome = await ToolRounds(Toolbox(tools), ToolContext(), names, rounds=1).answer(query, ask)
        assert isinstance(outcome, Answer)
        written, read = outcome.usage.completion_tokens or 0, outcome.usage.prompt_tokens or 0
        seen = Seen(outcome.text, outcome.shown, waiting(written, route.backend, len(outcome.shown)))
        return Reply(seen, route.backend, read, written)


def request_of(wish: Wish) -> CompletionRequest:
    """The request of a wish, as the gateway reads it."""
    messages = [{"role": "user", "content": content_of(wish)}]
    return CompletionRequest({"messages": messages}, "", False, False, {})


class EditTool:
    """Planner and editor on the picture of a wish."""

    spec = ToolSpec(
        "edit_image", "Edit the last picture of the conversation as the prompt says.",
        {"type": "object", "properties": {"prompt": WORDS}, "required": ["prompt"]}, spends=True, trusted=True,
    )  # fmt: skip

    def __init__(self, edit: ThinkThenEdit, picture: bytes | None) -> None:
        self.edit, self.picture = edit, picture

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what :meth:`Tool.call` says."""
        if self.picture is None:
            return ToolResult("there is no picture in the conversation", error="failed", trusted=True)
        result = (await self.edit.edit(Scene((open_picture(self.picture),)), arguments["prompt"]))[0]
        if result.image is None:
            return ToolResult(result.why, error="failed", trusted=True)
        made = Made(png(result.image), result.plan.text)
        return picture_result(arguments["prompt"], made, self.picture, 0.0)


class DigitsTool:
    """The packaged model of digits.

    Args:
        steps: Euler steps of a drawing; the shop's by default.
    """

    spec = ToolSpec(
        "make_image", "Make a picture as the prompt says.",
        {"type": "object", "properties": {"prompt": WORDS}, "required": ["prompt"]}, spends=True, trusted=True,
    )  # fmt: skip

    def __init__(self, steps: int | None = None) -> None:
        from noria.distill.verbs.serve import ServeConfig, open_painter

        options = digits_options() | ({} if steps is None else {"steps": steps})
        self._painter = open_painter(ServeConfig.model_validate(options))
        self._drawn: dict[str, bytes] = {}

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what :meth:`Tool.call` says."""
        prompt = arguments["prompt"]
        if prompt not in self._drawn:
            (self._drawn[prompt],) = self._painter.draw([prompt], self._painter.noise(0, range(1)))
        return picture_result(prompt, Made(self._drawn[prompt], None), None, 0.0)


class _Reports:
    """The extractive writer over the index of the shop; without charts, which no oracle reads and which cost most."""

    spec = ToolSpec(
        "write_report", "Write a report with charts and sources; the user sees the page.",
        {"type": "object", "properties": {"request": WORDS}, "required": ["request"]}, spends=True,
    )  # fmt: skip

    def __init__(self, home: Path) -> None:
        self._home, self._written = home, dict[str, tuple[str, str, int, int]]()

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        request = arguments["request"]
        if request not in self._written:
            self._written[request] = self._write(request)
        title, markdown, figures, sources = self._written[request]
        summary = first_words(markdown, title)
        shown = {"kind": "report", "title": title, "summary": summary}
        told = f"done: the report is shown to the user (figures {figures}, sources {sources})\n{title}\n{summary}"
        return ToolResult(told, shown=[shown])

    def _write(self, request: str) -> tuple[str, str, int, int]:
        from noria.reports.agents.pipeline import Job
        from noria.reports.search.index import Index

        home = self._home / "reports" / hashlib.sha256(request.encode()).hexdigest()[:32]
        home.mkdir(parents=True, exist_ok=True)
        with Index(self._home / INDEX) as index:
            bundle = Job(home, index, charts=False, images=False).write(request)
        markdown = (home / "report.md").read_text()
        return bundle.report.title, markdown, markdown.count("<figure>"), len(bundle.book.sources)
