"""Answers kept by what was asked: a file for each, named by the SHA-256 of the whole request."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from noria.core.chat.outcomes import Answer, Outcome, Refusal, Usage
from noria.core.errors import RunError
from noria.core.files import write_atomic

__all__ = ["ChatCache"]

logger = logging.getLogger(__name__)


class ChatCache:
    """A folder of answers and refusals; failures are not kept. Several processes may use it at once.

    An entry appears whole or not at all, and carries a digest of itself: one that was cut or changed is as good as
    absent, and is written anew. It holds the reply only: neither what was asked nor any key.

    Args:
        folder: made when the first entry is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._full = False

    def path(self, key: str) -> Path:
        """The file of an entry."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Answer | Refusal | None:
        """What is kept, or None."""
        try:
            entry = json.loads(self.path(key).read_bytes())
            kept = entry["outcome"]
            if entry["key"] != key or entry["sha256"] != _digest(kept):
                return None
            usage = Usage(**kept.pop("usage"))
            kind: type[Answer | Refusal] = {"answer": Answer, "refusal": Refusal}[kept.pop("kind")]
            return kind(**kept, usage=usage, cost=0.0, attempts=0, cached=True)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, outcome: Outcome) -> None:
        """Keep an answer or a refusal. A disk that refuses is told once, and costs no more than the entry."""
        if not isinstance(outcome, Answer | Refusal):
            return
        kept: dict[str, Any] = asdict(replace(outcome, cost=None))
        for name in ("cost", "attempts", "cached", "seconds"):
            del kept[name]
        kept["kind"] = type(outcome).__name__.lower()
        entry = {"key": key, "sha256": _digest(kept), "outcome": kept}
        try:
            # Not synced: what a power cut tears is noticed by its digest.
            write_atomic(self.path(key), json.dumps(entry), sync=False)
        except RunError as error:
            if not self._full:
                logger.warning("answers are not kept: %s", error)
            self._full = True


def _digest(kept: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
