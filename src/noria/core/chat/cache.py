"""Cache of answers on disk: a file each, named by the SHA-256 of the whole request."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from noria.core.chat.messages import ToolCall
from noria.core.chat.outcomes import Answer, Outcome, Refusal, Usage
from noria.core.chat.wire import read_parts
from noria.core.errors import DataError, RunError
from noria.core.files import read_bytes, write_atomic

logger = logging.getLogger(__name__)


class ChatCache:
    """A folder of answers and refusals; failures are not kept. Several processes may use it at once.

    An entry appears whole or not at all, and holds a digest of itself: one that was cut or changed counts as absent,
    and is written anew. It holds the reply only, neither the request nor any key.

    Args:
        folder: folder of the entries; made with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._full = False

    def path(self, key: str) -> Path:
        """Path of the file of an entry."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Answer | Refusal | None:
        """The outcome in the cache, or None."""
        try:
            entry = json.loads(read_bytes(self.path(key)))  # models' words may hold half a character
            values = entry["outcome"]
            if entry["key"] != key or entry["sha256"] != _digest(values):
                return None
            usage = Usage(**values.pop("usage"))
            if "tool_calls" in values:
                values["tool_calls"] = tuple(ToolCall(**call) for call in values["tool_calls"])
                values["parts"] = read_parts(values["parts"])
            kind: type[Answer | Refusal] = {"answer": Answer, "refusal": Refusal}[values.pop("kind")]
            return kind(**values, usage=usage, cost=0.0, attempts=0, cached=True)
        except (DataError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def put(self, key: str, outcome: Outcome) -> None:
        """Store an answer or a refusal. Where the disk refuses, the first time is logged and the entry is lost."""
        if not isinstance(outcome, Answer | Refusal):
            return
        values: dict[str, Any] = asdict(outcome)
        for name in ("cost", "attempts", "cached", "seconds"):
            del values[name]
        if isinstance(outcome, Answer):
            values["parts"] = [piece for part in outcome.parts for piece in part.wire()]
        values["kind"] = type(outcome).__name__.lower()
        entry = {"key": key, "sha256": _digest(values), "outcome": values}
        try:
            # Not synced: the digest shows what a power cut has torn.
            write_atomic(self.path(key), json.dumps(entry), sync=False)
        except RunError as error:
            if not self._full:
                logger.warning("answers are not kept: %s", error)
            self._full = True


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
