"""Asking again without the picture: the bundle that answered, its backend, and the part that judges both answers.

The part is loaded by its name where the configuration asks for it; where its extra is not installed, it is off, and the
companion's log says so.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any, Protocol

from noria.assistant.config import AssistantConfig
from noria.assistant.config.judging import GroundingConfig
from noria.assistant.parts.protocol import prepare
from noria.assistant.service.answering.asking import ask
from noria.assistant.service.bundles import Bundles
from noria.core.chat import ChatClient
from noria.core.chat.forwarding import Forwarder
from noria.core.chat.outcomes import Failure, Outcome
from noria.core.completions.requests import read_completion
from noria.core.errors import MissingExtra, NoriaError, needing
from noria.core.judging.judges import ChatJudge
from noria.core.service.responses import HttpError
from noria.core.traces.ids import Clock
from noria.core.traces.records import JudgementRecord
from noria.core.traces.store import TraceView

with needing("serve"):
    import msgspec

MODULE = "noria.assistant.parts.grounding"
log = logging.getLogger("noria.companion")


class TraceJudge(Protocol):
    """Judges traces beside the panel.

    Attributes:
        spent: cost of this day's judgements, which counts against the budget.
    """

    spent: float

    def records(self, views: Iterable[TraceView]) -> AsyncIterator[JudgementRecord]:
        """The judgements that traces lack."""
        ...


class SameAgain:
    """Asks the bundle of a trace again, with other messages.

    Args:
        bundles: what answered.
        forwarders: connections to the backends by name.
        seconds: longest time of an answer.
    """

    def __init__(self, bundles: Bundles, forwarders: Mapping[str, Forwarder], seconds: float) -> None:
        self.bundles, self.forwarders, self.seconds = bundles, forwarders, seconds
        self._clock = Clock()

    async def __call__(
        self, view: TraceView, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> Outcome:
        """The answer of the bundle to these messages; a failure where it cannot be asked any more."""
        try:
            choice = self.bundles.choice_of(view.trace.bundle)
            query = read_completion(msgspec.json.encode({**settings, "messages": list(messages)}))
            prepared = prepare(query, choice.route, choice.parts, self._clock)
            forwarder = self.forwarders[prepared.route.backend]
            return (await ask(forwarder, prepared.route, query, within=self.seconds))[0]
        except (NoriaError, HttpError, KeyError) as error:
            return Failure("request", f"it cannot be asked again: {error}"[:300], attempts=0)


@asynccontextmanager
async def opened_grounding(
    config: AssistantConfig, settings: GroundingConfig, bundles: Bundles, blob: Callable[[str], bytes | None]
) -> AsyncIterator[TraceJudge | None]:
    """The judge of the grounding, with its connections; None where its extra is not installed.

    Args:
        config: settings of the gateway.
        settings: settings of the judging.
        bundles: what answered.
        blob: content of a picture by its digest.
    """
    async with AsyncExitStack() as stack:
        try:
            module = import_module(MODULE)
            client = await stack.enter_async_context(ChatClient(config.backends[settings.judge]))
        except MissingExtra as error:
            log.warning("whether answers rest on their pictures is not judged: %s", error)
            yield None
            return
        forwarders = {
            name: await stack.enter_async_context(Forwarder(server))
            for name, server in config.backends.items()
        }
        again = SameAgain(bundles, forwarders, settings.seconds)
        yield module.GroundingJudging(ChatJudge(client, settings.judge), again, blob, settings)
