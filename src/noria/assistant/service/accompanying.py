"""The companion beside the gateway: kept running, and what it judges written."""

from __future__ import annotations

import asyncio
import logging

from noria.assistant.config import AssistantConfig
from noria.core.errors import NoriaError
from noria.core.service.children import keep_running
from noria.core.traces.records import JudgementRecord, decode
from noria.core.traces.store import TraceStore, UnknownTrace

log = logging.getLogger("noria.serving")


async def accompany(store: TraceStore, config: AssistantConfig) -> None:
    """Keep the companion running, and write what it judges."""
    await keep_running(
        "the companion",
        ["noria.assistant.companion.companion", str(store.folder)],
        config.model_dump_json,
        read=lambda process: _take_judgements(process, store),
    )


async def _take_judgements(process: asyncio.subprocess.Process, store: TraceStore) -> None:
    """Write each judgement that the companion hands over, until it ends."""
    assert process.stdout is not None
    async for line in process.stdout:
        try:
            record = decode(line, "the companion")
            if isinstance(record, JudgementRecord):
                await store.judge(record)
        except UnknownTrace:
            continue  # its user was erased meanwhile
        except NoriaError as error:
            log.warning("a judgement was not kept: %s", error)
