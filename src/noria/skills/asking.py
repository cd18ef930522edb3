"""Many requests to a model at once, within a budget, and whole numbers in its replies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from noria.core.chat import Answer, Budget, ChatCache, ChatRequest, ChatServer, Failure, Outcome, ask_all

Asker: TypeAlias = Callable[[Sequence[ChatRequest]], list[Outcome]]
"""Sends requests and gives one outcome for each; it does not raise for a single request."""


def server_asker(
    server: ChatServer, *, cache: ChatCache | None = None, budget: Budget | None = None
) -> Asker:
    """An asker of a server, with a cache and a budget of money.

    Asking the same again costs nothing: the cache's key is address, model, every setting and the whole message.
    """

    def ask(requests: Sequence[ChatRequest]) -> list[Outcome]:
        return ask_all(server, list(requests), cache=cache, budget=budget) if requests else []

    return ask


@dataclass
class TokenBudget:
    """Tokens that all askers of a command may take together, and those that they took."""

    limit: int
    spent: int = 0


def within_tokens(ask: Asker, budget: TokenBudget | None) -> Asker:
    """An asker that sends nothing more once the budget is spent; what is not sent is a failure, `budget`.

    Answers from the cache cost nothing. An answer whose tokens the server does not count is taken for a third of its
    bytes.

    Args:
        ask: sends requests.
        budget: tokens, which other askers may take, too; no bound by default.
    """
    if budget is None:
        return ask

    def asking(requests: Sequence[ChatRequest]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for start in range(0, len(requests), TOGETHER):
            part = requests[start : start + TOGETHER]
            if budget.spent >= budget.limit:
                why = f"{budget.spent:,} of {budget.limit:,} tokens are spent"
                outcomes += [Failure("budget", why, attempts=0)] * len(part)
                continue
            for outcome in ask(part):
                outcomes.append(outcome)
                if isinstance(outcome, Answer) and not outcome.cached:
                    counts = (outcome.usage.prompt_tokens, outcome.usage.completion_tokens)
                    known = [count for count in counts if count is not None]
                    budget.spent += sum(known) if known else len(outcome.text.encode()) // 3 + 1
        return outcomes

    return asking


TOGETHER = 32
"""Requests between two looks at the tokens spent."""


def whole_number(value: Any, low: int, high: int) -> int | None:
    """An integer within bounds; None for everything else, booleans and out of range included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) and low <= value <= high else None
