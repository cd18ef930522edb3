"""Keeping the traces of answers: on the disk before an answer is given, or in time where nobody waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.service.recording import Recorder, Recording
from noria.core.chat.outcomes import Outcome
from noria.core.errors import NoriaError, RunError
from noria.core.service.responses import HttpError
from noria.core.storage.journal import FOREVER
from noria.core.traces.records import Trace
from noria.core.traces.store import TraceStore, UnknownTrace

log = logging.getLogger("noria.serving")


class TraceKeeper:
    """Keeps the traces of answers.

    Args:
        config: settings of the gateway.
        store: traces.
        recorder: makes traces.

    Attributes:
        counted: hears the status, seconds and usage of each trace that an answer waits for.
    """

    def __init__(self, config: AssistantConfig, store: TraceStore, recorder: Recorder) -> None:
        self._config, self._store, self._recorder = config, store, recorder
        self.counted: Any = lambda status, seconds, usage: None

    def check(self) -> None:
        """Check that traces can be kept.

        Raises:
            HttpError: 503, they cannot.
        """
        if self._store.journal.broken is not None:
            raise HttpError(503, "store_failed", "traces cannot be kept, so nothing is answered")

    def check_kept(self, trace: str) -> None:
        """Check that a trace is still there.

        Raises:
            UnknownTrace: it was never kept, or its user has been erased.
        """
        self._store.caller_of(trace)

    async def keep(self, recording: Recording, outcome: Outcome | None) -> None:
        """Keep the trace of an outcome; it is on the disk when this returns.

        Raises:
            HttpError: as `write` does.
        """
        await self.write(*self._trace(recording, outcome))

    async def write(self, trace: Trace, blobs: Mapping[str, bytes]) -> None:
        """Keep a trace; it is on the disk when this returns.

        Raises:
            HttpError: 503, the disk refuses; 410, its user was erased after the request had begun.
        """
        self.counted(trace.status, (trace.ended - trace.began) / 1e9, trace.usage)
        try:
            await self._store.write(trace, blobs=blobs, expires=self._expires())
        except UnknownTrace:
            raise HttpError(
                410, "user_erased", "the user was erased meanwhile, so the answer is neither kept nor given"
            ) from None
        except RunError as error:
            log.error("a trace was not kept, and its answer not given: %s", error)
            raise HttpError(
                503, "store_failed", "the trace cannot be kept, so the answer is not given"
            ) from None

    def post(self, recording: Recording, outcome: Outcome | None) -> None:
        """Let the trace of an outcome be kept in time.

        Raises:
            NoriaError: it cannot be, or its user was erased after the request had begun.
        """
        trace, blobs = self._trace(recording, outcome)
        self._store.post(trace, blobs=blobs, expires=self._expires())

    def _expires(self) -> int:
        """Second since 1970 at which the pictures of a trace that is kept now may be removed."""
        days = self._config.keep_pictures_days
        return FOREVER if days is None else int(time.time() + 86400 * days)

    def post_cancelled(self, recording: Recording) -> None:
        """Let the trace of a request whose caller left be kept in time; that it cannot be is logged."""
        try:
            self.post(recording, None)
        except NoriaError as error:
            log.error("the trace of a cancelled request was not kept: %s", error)

    def _trace(self, recording: Recording, outcome: Outcome | None) -> tuple[Trace, dict[str, bytes]]:
        return self._recorder.trace(recording, outcome, self._config.backends[recording.route.backend].model)
