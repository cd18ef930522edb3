"""Conversations of a user: titles and the ids of their traces. What was said stands in the traces alone."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from noria.core.storage.control import Document, SQLControl, StaleVersion

MOST_TURNS = 200
"""Most turns of a conversation."""
_RETRIES = 20


@dataclass(frozen=True)
class Turn:
    """One message and its answer.

    Attributes:
        trace: id of the trace.
        beside: id of the trace of a second answer, for a choice.
        chosen: id of the trace that was chosen.
        sent: name of the form that sent it, so that it counts once.
    """

    trace: str
    beside: str | None = None
    chosen: str | None = None
    sent: str = ""

    @property
    def counts(self) -> str:
        """Id of the trace whose answer the next message continues."""
        return self.chosen or self.trace

    @property
    def traces(self) -> tuple[str, ...]:
        """Ids of its traces."""
        return (self.trace,) if self.beside is None else (self.trace, self.beside)


@dataclass(frozen=True)
class Conversation:
    """A conversation of a visitor.

    Attributes:
        id: random name, which stands in its address.
        title: words in the list; empty for a picture without words.
        began: second since 1970 of its first message.
        last: second since 1970 of its last one.
        turns: messages with their answers, in order.
    """

    id: str
    title: str = ""
    began: float = 0.0
    last: float = 0.0
    turns: tuple[Turn, ...] = ()


@dataclass
class History:
    """Conversations by user, in the control store.

    Args:
        control: documents of the gateway.
    """

    control: SQLControl

    def list(self, user: str) -> list[Conversation]:
        """Conversations of a user's key, the last one first."""
        found = [_conversation(one) for one in self.control.read_all(_kind(user))]
        return sorted(found, key=lambda one: (-one.last, one.id))

    def read(self, user: str, name: str) -> Conversation | None:
        """A conversation of a user; None where there is none of this name."""
        document = self.control.read(_kind(user), name)
        return None if document is None or document.value is None else _conversation(document)

    def add(self, user: str, name: str, turn: Turn, title: str) -> None:
        """Add a turn; the first one makes the conversation."""

        def change(one: Conversation | None) -> Conversation:
            now = time.time()
            one = one or Conversation(name, title, now)
            return replace(one, last=now, turns=(*one.turns, turn))

        self._change(user, name, change)

    def rename(self, user: str, name: str, title: str) -> None:
        """Give a conversation another title; nothing happens where it is gone."""
        self._change(user, name, lambda one: one and replace(one, title=title))

    def choose(self, user: str, name: str, trace: str, chosen: str) -> None:
        """Note which of two answers a user chose."""

        def change(one: Conversation | None) -> Conversation | None:
            if one is None:
                return None
            turns = (replace(t, chosen=chosen) if t.trace == trace else t for t in one.turns)
            return replace(one, turns=tuple(turns))

        self._change(user, name, change)

    def remove(self, user: str, name: str | None = None) -> None:
        """Remove a conversation, or all of a user, with what they were before."""
        self.control.purge(_kind(user), name)

    def _change(self, user: str, name: str, change: Any) -> None:
        for _ in range(_RETRIES):
            document = self.control.read(_kind(user), name)
            before = None if document is None or document.value is None else _conversation(document)
            after: Conversation | None = change(before)
            if after is None:
                return
            try:
                version = 0 if document is None else document.version
                self.control.write(_kind(user), name, _value(after), based_on=version, by="page")
            except StaleVersion:
                continue  # another window of the same user
            self.control.thin(_kind(user), name, keep=1)
            return


def new_name() -> str:
    """Name of a new conversation."""
    return secrets.token_hex(10)


def is_name(text: str) -> bool:
    """Whether a text can be the name of a conversation."""
    return len(text) == 20 and all(c in "0123456789abcdef" for c in text)


def _kind(user: str) -> str:
    return f"page-conversations {user}"


def _value(one: Conversation) -> dict[str, Any]:
    turns = [[t.trace, t.beside, t.chosen, t.sent] for t in one.turns]
    return {"title": one.title, "began": one.began, "last": one.last, "turns": turns}


def _conversation(document: Document) -> Conversation:
    value: Mapping[str, Any] = document.value or {}
    turns = tuple(Turn(*one) for one in value["turns"])
    return Conversation(document.key, value["title"], value["began"], value["last"], turns)
