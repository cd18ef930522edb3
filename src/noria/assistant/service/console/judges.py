"""The console's page of the judges: what a person says of a random sample, and the probes of the gates' judges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.folder import TURNS_FOLDER
from noria.assistant.service.console.messages import message_of, messages_of
from noria.core.errors import NoriaError
from noria.core.records import json_object
from noria.core.service.serving import Request
from noria.core.traces.chats import chat_span
from noria.core.traces.index.people import people_and_judges
from noria.core.traces.store import TraceStore, UnknownTrace

LABELLED_AT_ONCE = 5
TURNS = 20
"""Newest turns whose probes are shown."""


class JudgePages:
    """Content of the page of the judges.

    Args:
        store: traces.
        config: settings of the gateway.
    """

    def __init__(self, store: TraceStore, config: AssistantConfig) -> None:
        self.store, self.config = store, config

    def judges(self, request: Request) -> Mapping[str, Any]:
        """Agreement of judges and people, answers to label without the judges' word, and probes."""
        share = self.config.judging.human_share
        found = people_and_judges(self.store.index, share)
        waiting = [one for name in found.waiting[:LABELLED_AT_ONCE] if (one := self._answer(name))]
        receipts = sorted((self.store.folder / TURNS_FOLDER).glob("*/receipt.json"), reverse=True)[:TURNS]
        return {
            "share": share,
            "found": found,
            "waiting": waiting,
            "probes": [probe for path in receipts for probe in _probes(path)],
        }

    def _answer(self, trace: str) -> dict[str, Any] | None:
        """A trace as somebody reads it who does not know what the judges said; None where it has gone or is empty."""
        try:
            view = self.store.read(trace)
        except UnknownTrace:
            return None
        span = chat_span(view)
        if span is None:
            return None
        return {"id": trace, "messages": messages_of(span.input), "answer": message_of(span.output)["text"]}


def _probes(path: Path) -> list[dict[str, Any]]:
    """Probes of the judge of a turn's gate; none where the turn had none, or its receipt cannot be read."""
    try:
        notes = json_object(path, "a receipt").get("gate notes") or {}
        return [{"turn": int(path.parent.name), **probe} for probe in notes.get("probe of the judge", [])]
    except (NoriaError, TypeError, ValueError, AttributeError):
        return []
