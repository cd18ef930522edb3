"""The process beside the gateway: indexes traces, decides experiments, judges answers, and delays no request.

It reads the journal, changes documents on the version that it has seen, and hands judgements to the gateway, which
alone writes traces. Killed at any moment and started again, it resumes from what is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noria.assistant.companion.judging import TraceJudging
from noria.assistant.companion.readings import decide, read_experiment, reading_record
from noria.assistant.companion.turns import Turns
from noria.assistant.companion.upkeep import Upkeep
from noria.assistant.config import AssistantConfig
from noria.assistant.folder import open_control, open_versions, service_name
from noria.assistant.parts.drafting import DraftingWatches
from noria.assistant.products.keeping import FeedKeeper
from noria.assistant.service.bundles import CHAMPION, EXPERIMENT, Bundles
from noria.assistant.service.changes import changed_kinds
from noria.core.errors import NoriaError
from noria.core.experiments.figures import SharedFigures
from noria.core.experiments.lifecycle import OPEN, ExperimentConfig
from noria.core.files import lock
from noria.core.storage.control import Document, StaleVersion
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.records import JudgementRecord, encode

TICK = 1.0
"""Seconds between two looks at the journal."""
POINTS = 200
"""Most points of an experiment's interval over time that are kept."""
KEPT = 200
"""Versions of an experiment's document that are kept beside its first one, at least."""
log = logging.getLogger("noria.companion")


class Companion:
    """The work of the companion, one look at a time.

    Args:
        folder: folder of the gateway.
        config: settings of the gateway.
    """

    def __init__(self, folder: Path, config: AssistantConfig) -> None:
        self.folder, self.config = Path(folder), config
        self.control = open_control(self.folder, config)
        self.bundles = Bundles(self.control, open_versions(self.folder, config), config)
        self.index = TraceIndex(self.folder / "index.sqlite")
        self.upkeep = Upkeep(self.folder, config.clickhouse, self.tell)
        self.name = service_name(self.folder)
        self.shared = None if config.control_env is None else SharedFigures(self.control, self.name)
        feeds = {} if config.products is None else config.products.feeds
        self.feeds = FeedKeeper(self.folder, feeds, self.tell)
        self.drafts = DraftingWatches(config.parts.drafting, self.tell) if config.parts.drafting else None
        self.turns = Turns(self.folder, config, self.control, self.tell)

    def close(self) -> None:
        """Let the files go."""
        self.index.close()
        self.control.close()

    def look(self) -> int:
        """Take in and seal what is new, and decide every open experiment; the number of new records."""
        new = self.index.follow(self.folder)
        if self.bundles.is_on("experiments"):
            decides = self.shared is None or self.control.acquire(EXPERIMENT, self.name, seconds=10 * TICK)
            for document in self.control.read_all(EXPERIMENT):
                value = document.value or {}
                if value.get("stage") in OPEN and not value.get("paused"):
                    config = self.bundles.settings_of(document)
                    if config is None:
                        continue
                    if not decides:  # another gateway decides; it needs what was seen here
                        self._publish(document, config)
                        continue
                    with contextlib.suppress(
                        StaleVersion
                    ):  # an operator was faster: read anew at the next look
                        self._decide(document, config)
        self.upkeep.step()
        return new

    def _decide(self, document: Document, config: ExperimentConfig) -> None:
        """Read an experiment and take the step that it calls for."""
        value = dict(document.value or {})
        champion = self.bundles.pointers.present(CHAMPION)
        if champion is None or champion.bundle != config.champion:
            won = champion is not None and champion.bundle == config.challenger
            self._end(document, "promoted" if won else "stopped", "another champion was set")
            return
        since = int(value.get("since") or document.at * 1e9)
        stage = value["stage"]
        learning = self.config.learning
        reading, step = decide(
            self.index, config, stage, since, shared=self.shared, callers=learning.callers,
            most_unnamed=learning.most_unnamed,
        )  # fmt: skip
        record = reading_record(reading, step)
        value["points"] = with_point(value.get("points", []), record)
        if step.stage == stage:
            if record != value.get("reading"):
                self._write(document, value | {"reading": record, "reason": step.reason, "since": since})
            return
        value |= {"reading": record, "reason": step.reason, "history": [
            *value.get("history", []), {"stage": stage, "until": time.time(), "reason": step.reason}]}  # fmt: skip
        if step.stage == "promoted":
            changed = changed_kinds(self.bundles.artefacts, config.champion, config.challenger)
            if self.config.promotion(changed) == "ask" or not self.bundles.is_on("promotion"):
                if not value.get("won"):
                    self._write(document, value | {"won": True, "since": since})
                    self.tell("won", experiment=document.key, reason=step.reason)
                return
            move = self.bundles.move(
                config.challenger, based_on=champion.version, by=f"experiment {document.key}",
                reason=step.reason, receipt=record,
            )  # fmt: skip
            value["move"] = move.version
        if step.stage in OPEN:
            value["points"] = []  # the next stage reads users of its own
        self._write(document, value | {"stage": step.stage, "since": time.time_ns()})
        self.tell(step.stage, experiment=document.key, reason=step.reason)

    def _publish(self, document: Document, config: ExperimentConfig) -> None:
        """Give the other gateways what this one has seen of an experiment."""
        value = document.value or {}
        since = int(value.get("since") or document.at * 1e9)
        callers = self.config.learning.callers
        read_experiment(self.index, config, value["stage"], since, shared=self.shared, callers=callers)

    def _end(self, document: Document, stage: str, reason: str) -> None:
        self._write(document, dict(document.value or {}) | {"stage": stage, "reason": reason})
        self.tell(stage, experiment=document.key, reason=reason)

    def _write(self, document: Document, value: dict[str, Any]) -> None:
        written = self.control.write(
            EXPERIMENT, document.key, value, based_on=document.version, by="companion"
        )
        if written.version % KEPT == 0:  # a reading changes with every user: its past is in its points
            self.control.thin(EXPERIMENT, document.key, keep=KEPT)

    def tell(self, what: str, **fields: Any) -> None:
        """Log that something happened, and send it to the webhook where there is one."""
        line = {"event": what, "at": time.time(), **fields}
        log.warning("%s", json.dumps(line))
        if self.config.webhook is None:
            return
        request = urllib.request.Request(
            self.config.webhook, json.dumps(line).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5.0):
                pass
        except (OSError, ValueError) as error:
            log.warning("the webhook was not reached: %s", error)


def with_point(points: list[list[float]], record: Mapping[str, Any]) -> list[list[float]]:
    """Points of the interval over time (units, effect, low, high) with the present one; at most `POINTS`, evenly."""
    units = sum(record["units"].values())
    interval = record["interval"]
    if interval["low"] is None or (points and points[-1][0] == units):
        return points
    points = [*points, [units, interval["effect"], interval["low"], interval["high"]]]
    return points if len(points) <= POINTS else points[::2]


def main() -> None:
    """Run until stdin ends, which it does with the gateway. The first line of stdin is the settings as JSON."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s companion %(levelname)s %(message)s")
    folder = Path(sys.argv[1])
    first = sys.stdin.readline()
    if not first:
        return
    config = AssistantConfig.model_validate_json(first)
    with contextlib.suppress(OSError):
        os.nice(5)
    with lock(folder / "companion"):
        asyncio.run(_run(folder, config))


async def _run(folder: Path, config: AssistantConfig) -> None:
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    companion = Companion(folder, config)
    feeds: asyncio.Task[None] | None = None
    failing = ""
    try:
        async with TraceJudging(folder, config, hand_over, companion.bundles) as judging:
            while not ended.done():
                if feeds is None or feeds.done():  # a large feed takes minutes, and nothing else waits for it
                    feeds = asyncio.create_task(asyncio.to_thread(companion.feeds.step))
                try:
                    await asyncio.to_thread(companion.look)
                    await judging.judge(companion.index, panel=companion.bundles.is_on("judging"))
                    await companion.turns.step(companion.index)
                    if companion.drafts is not None:
                        await asyncio.to_thread(companion.drafts.step)
                    failing = ""
                except NoriaError as error:
                    if str(error) != failing:
                        companion.tell("failing", error=str(error))
                    failing = str(error)
                await asyncio.wait([ended], timeout=TICK)
    finally:
        await companion.turns.close()
        companion.close()


async def hand_over(record: JudgementRecord) -> None:
    """Give a judgement to the gateway, as a line on stdout."""
    line = encode(record) + b"\n"
    await asyncio.to_thread(_write_line, line)


def _write_line(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
