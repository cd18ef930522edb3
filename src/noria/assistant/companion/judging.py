"""Judging in the companion: rules on every trace, a panel of backends on a share, within the money of a day.

Records go to the gateway, which alone writes traces. How far the judging has come is a file; what was judged is found
on its trace, so that a restart pays nothing twice.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from noria.assistant.companion.grounding import TraceJudge, opened_grounding
from noria.assistant.config import AssistantConfig
from noria.assistant.service.bundles import Bundles
from noria.core.chat import ChatClient
from noria.core.errors import DataError, MissingExtra
from noria.core.files import write_atomic
from noria.core.judging.judges import ChatJudge
from noria.core.judging.live import LiveConfig, LiveJudging, Panel, chat_subject, standard_rules
from noria.core.records import read_json
from noria.core.storage.journal_file import JournalReader
from noria.core.traces.index.costs import judged_today
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.records import JudgementRecord, decode
from noria.core.traces.store import TraceView, UnknownTrace, view

log = logging.getLogger("noria.companion")
AT_ONCE = 64
"""Traces that are judged before how far it has come is written down."""


class TraceJudging:
    """Judges the traces of a gateway in their order; used from one event loop, as a context.

    Args:
        folder: folder of the gateway.
        config: settings of the gateway.
        send: hands a record to the gateway.
        bundles: what answered; without it nobody asks whether an answer rests on its picture.
    """

    def __init__(
        self,
        folder: Path,
        config: AssistantConfig,
        send: Callable[[JudgementRecord], Awaitable[None]],
        bundles: Bundles | None = None,
    ) -> None:
        self.folder, self.config, self.send, self.bundles = Path(folder), config, send, bundles
        self._place = self.folder / "judging.json"
        self._stack = AsyncExitStack()
        self._panel: Panel | None = None
        self._live: LiveJudging | None = None
        self._grounding: TraceJudge | None = None
        self._day: datetime.date | None = None
        self.after = self._read_place()
        self._ends = [
            self.after
        ] * 3  # the file holds the oldest: what was handed over last may not be written yet

    async def __aenter__(self) -> TraceJudging:
        judging = self.config.judging
        self._reader = JournalReader(self.folder)
        self._stack.callback(self._reader.close)
        if judging.backends:
            try:
                self._panel = await self._open_panel()
            except MissingExtra as error:
                log.warning("only rules judge: %s", error)
        if judging.grounding is not None and self.bundles is not None:
            self._grounding = await self._stack.enter_async_context(
                opened_grounding(self.config, judging.grounding, self.bundles, self._reader.blob)
            )
        return self

    async def _open_panel(self) -> Panel:
        """The panel of backends, with its connections.

        Raises:
            MissingExtra: what asks them is not installed.
        """
        judges = []
        for name in self.config.judging.backends:
            client = await self._stack.enter_async_context(ChatClient(self.config.backends[name]))
            judges.append(ChatJudge(client, name))
        return Panel(
            judges, self.config.judging.as_checklist(), lambda one: chat_subject(one, self._reader.blob)
        )

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def judge(self, index: TraceIndex, *, panel: bool = True) -> int:
        """Judge the traces that came since the last time; the number of traces.

        Args:
            index: index of the traces.
            panel: whether the panel judges, too; where it is switched off, what came meanwhile is left out by it.
        """
        seen = 0
        while names := index.after(self.after, limit=AT_ONCE):
            views = [one for name in names if (one := self._view(name)) is not None]
            live = self._today(index, panel=panel)
            async for record in live.records(views):
                await self.send(record)
            if self._grounding is not None and panel:
                async for record in self._grounding.records(views):
                    await self.send(record)
            self.after = names[-1]
            self._ends = [*self._ends[1:], self.after]
            write_atomic(self._place, json.dumps({"after": self._ends[0]}))
            seen += len(names)
        return seen

    def _today(self, index: TraceIndex, *, panel: bool) -> LiveJudging:
        """The judging of this day (UTC), with what the day has cost so far."""
        today = datetime.datetime.now(datetime.UTC).date()
        judging = self.config.judging
        if self._live is None or today != self._day:
            self._day = today
            limits = LiveConfig(
                share=judging.share, budget=judging.budget_per_day, most_cost=judging.most_cost
            )
            self._live = LiveJudging(
                [standard_rules(seconds=judging.slow)], self._panel, limits, spent=judged_today(index)
            )
            if self._grounding is not None:
                self._grounding.spent = judged_today(index, grounding=True)
        self._live.panel = self._panel if panel else None
        return self._live

    def _view(self, name: str) -> TraceView | None:
        """A trace with what was said about it; None where it was erased."""
        try:
            records = [decode(frame.body, f"frame {frame.sequence}") for frame in self._reader.about(name)]
            return view(records, name)
        except (UnknownTrace, DataError):
            return None

    def _read_place(self) -> str:
        try:
            place = read_json(self._place)
            return str(place["after"])
        except (DataError, KeyError, TypeError):
            return ""
