"""The shadow: challengers answer a share of the requests, too, and nobody sees what they say."""

from __future__ import annotations

import asyncio
import logging

from noria.assistant.service.answering.backends import Backends
from noria.assistant.service.answering.keeping import TraceKeeper
from noria.assistant.service.answering.money import CallersMoney
from noria.assistant.service.bundles import Choice, Serving
from noria.assistant.service.recording import Recorder, Recording
from noria.core.chat.outcomes import Outcome
from noria.core.errors import NoriaError
from noria.core.experiments.assignment import position
from noria.core.service.responses import HttpError

log = logging.getLogger("noria.serving")
_MOST_AT_ONCE = 16


class Shadow:
    """Lets challengers in the shadow answer.

    Args:
        share: share of the requests that they answer.
        recorder: begins their recordings.
        backends: what they ask.
        traces: keeps their traces.
        money: money of the callers, of which a share is for what they answer.
    """

    def __init__(
        self, share: float, recorder: Recorder, backends: Backends, traces: TraceKeeper, money: CallersMoney
    ) -> None:
        self._share, self._recorder, self._backends, self._traces = share, recorder, backends, traces
        self._money = money
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, recording: Recording, serving: Serving | None) -> None:
        """Let the challengers of what serves answer a request that was answered, where it falls in the share."""
        if (
            serving is None
            or recording.choice.bundle != serving.bundle
            or recording.query.content.get("tools")
            or any(step.kind == "tool" for step in recording.steps)
        ):
            return  # an answer with tools is one of several, and the tools may act
        for experiment in serving.experiments:
            if experiment.stage != "shadow" or len(self._tasks) >= _MOST_AT_ONCE:
                continue
            if position(experiment.config.salt, recording.id) < self._share:
                task = asyncio.create_task(
                    self._answer(recording, experiment.challenger, experiment.config.name)
                )
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for the answers under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, recording: Recording, choice: Choice, experiment: str) -> None:
        hidden = self._recorder.begin(recording.query, recording.identity, choice)
        hidden.labels |= {"shadow": experiment, "of": recording.id}
        try:
            reserved = await self._money.reserve_hidden(hidden)
        except HttpError:
            return  # the money for the shadow is spent: the experiment reads what it has
        outcome: Outcome | None = None
        try:
            outcome, _ = await self._backends.ask(hidden.route, recording.query)
        finally:
            self._money.settle_answer(hidden, reserved, outcome)
        try:
            self._traces.check_kept(recording.id)  # its user may have taken it back meanwhile
            self._traces.post(hidden, outcome)
        except NoriaError as error:
            log.warning("an answer in the shadow was not kept: %s", error)
