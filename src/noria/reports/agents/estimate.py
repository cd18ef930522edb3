"""What a report will cost, before anything is spent: requests, tokens and money of a plan, searches and pages."""

from __future__ import annotations

from typing import Any

import msgspec

from noria.core.chat import ChatServer
from noria.core.chat.budget import MEDIA_TOKENS, estimated_cost
from noria.reports.agents.asking import TOKENS, request_for
from noria.reports.agents.contracts import Plan, requirements
from noria.reports.agents.extractive import section_series
from noria.reports.agents.models import TURNS
from noria.reports.agents.prose import Prose, section_instruction, section_material, section_tokens
from noria.reports.agents.requests import Request
from noria.reports.agents.research import Search
from noria.reports.agents.roles import Context
from noria.reports.agents.writer import write_section
from noria.reports.evidence.records import Book
from noria.reports.search.index import Index

CHART = (900, 150)
"""Tokens of a question about a chart, in and out."""
PICTURES = (500 + 4 * MEDIA_TOKENS, 80)
"""Tokens of a question about four pictures, in and out."""
QUERIES = (500, 80)
"""Tokens of a question for queries, in and out."""
REPAIRS = 1.3
"""Requests for each that is planned: sentences that are sent back, replies that are broken."""


class Estimate(msgspec.Struct, frozen=True):
    """Estimated cost of a plan.

    Attributes:
        requests: requests to the model.
        tokens_in, tokens_out: tokens of them.
        cost: money, in the currency of the prices; None where a price is unknown.
        most: money if every reply is as long as it may be and each question is put twice; None like `cost`.
        searches, pages: queries to search services, and pages to fetch, at most.
    """

    requests: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    most: float | None
    searches: int = 0
    pages: int = 0


def estimate(
    plan: Plan, request: Request, index: Index, server: ChatServer | None, search: Search | None = None
) -> Estimate:
    """Estimate what is still to be paid for a plan; its sections' own prompts are made and measured.

    Args:
        plan: outline, edited or not.
        request: the request.
        index: the corpus; pages that are still to be searched for are not in it, and make prompts longer.
        server: model and prices; None where no model writes.
        search: search on the web; None where there is none.
    """
    rounds = 0 if search is None or not search.services else search.rounds
    searches = rounds * max(1, len(plan.queries)) * (0 if search is None else len(search.services))
    pages = 0 if search is None else len(search.addresses) + (search.pages if rounds else 0)
    if server is None:
        return Estimate(0, 0, 0, 0.0, 0.0, searches, pages)
    parts = [QUERIES] * rounds
    parts += [CHART if need.kind == "chart" else PICTURES for need in requirements(plan)]
    most = [(sent, TURNS * 2 * out) for sent, out in parts]
    context = Context(request, index, Book())
    for section in plan.sections[1:-1]:
        named = (section_series(m, section, request, index, context.book) for m in section.measures)
        series = [one for one in named if one is not None]
        plain = write_section(section, series, (), request, index, context.book)
        told = section_material(section, series, (), plain, context)
        longest = section_tokens(section, request.language)
        prompt = request_for(Prose, section_instruction(request.language), [told], 0)
        sent = int(estimated_cost(TOKENS, prompt.wire("")))
        parts.append((sent, longest // 2))
        most.append((2 * sent, 2 * longest))
    sent, out = (int(REPAIRS * sum(part[n] for part in parts)) for n in (0, 1))
    top = tuple(int(REPAIRS * sum(part[n] for part in most)) for n in (0, 1))
    return Estimate(
        int(REPAIRS * len(parts) + 0.5),
        sent,
        out,
        _cost(server, sent, out),
        _cost(server, *top),
        searches,
        pages,
    )


def _cost(server: ChatServer, sent: int, out: int) -> float | None:
    prices: Any = server.prices
    return (prices.input * sent + prices.output * out) / 1e6 if prices.known else None


def in_words(one: Estimate) -> str:
    """An estimate in one line."""
    parts = []
    if one.requests:
        parts.append(f"{one.requests:,} requests, {one.tokens_in:,} tokens in, {one.tokens_out:,} out")
        money = "cost unknown (give --prices)"
        if one.cost is not None and one.most is not None:
            money = f"cost about {one.cost:.4g}, at most {one.most:.4g}"
        parts.append(money)
    if one.pages:
        parts.append(f"{one.searches:,} searches, at most {one.pages:,} pages")
    return "; ".join(parts) or "nothing: no model and no search"
