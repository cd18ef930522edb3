"""Research on the web: queries, results of several services, pages read into the report's own index (S1).

The user's own addresses are read first and need no search. A page is evidence once it was fetched behind the guard,
read and archived; what was left out is recorded with its reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from noria.core.errors import ConfigError, DataError, RunError
from noria.core.fetching import Resolve, resolve
from noria.core.files import read_bytes, write_atomic
from noria.reports.agents.asking import SpentError
from noria.reports.agents.contracts import Plan
from noria.reports.agents.requests import Request, read_request
from noria.reports.agents.roles import Agents, Extractive
from noria.reports.evidence.records import decode, digest, encode
from noria.reports.search.building import build_index
from noria.reports.search.index import Index
from noria.reports.search.protocol import Hit, SearchService, SourceRules
from noria.reports.search.web import WebSearch, gather, read_pages, read_pictures


@dataclass(frozen=True)
class Search:
    """Where and how much a report may search.

    Attributes:
        services: services that answer queries.
        addresses: the user's own pages, read first.
        rules: which sources may be used.
        pages: most pages that are read, the user's own not counted.
        rounds: most rounds of queries and reading.
        language: language of the queries; empty takes the report's.
        client, resolver: HTTP client and resolver of names; the defaults are those of the system.
    """

    services: Sequence[SearchService] = ()
    addresses: tuple[str, ...] = ()
    rules: SourceRules = field(default_factory=SourceRules)
    pages: int = 12
    rounds: int = 2
    language: str = ""
    client: Any = None
    resolver: Resolve = resolve

    @property
    def wanted(self) -> bool:
        """Whether there is anything to fetch."""
        return bool(self.services or self.addresses)


class Findings(msgspec.Struct):
    """Record of a research: queries, pages that were read, and what was left out with its reason."""

    queries: list[str] = msgspec.field(default_factory=list)
    pages: list[str] = msgspec.field(default_factory=list)
    left_out: list[str] = msgspec.field(default_factory=list)


def report_index(
    folder: Path,
    base: Path | None,
    text: str,
    agents: Agents,
    search: Search,
    version: str,
    queries: tuple[str, ...] = (),
) -> tuple[Path, Findings]:
    """Index that a report is written from: the local corpus, or that with the pages of a search behind it.

    The search is made once: a report that was killed resumes with the pages that were read.

    Args:
        folder: folder of the report; queries of its `plan.json` are searched for as they stand there.
        base: local corpus; None where there is none.
        text: request in words.
        agents: who names queries.
        search: what is searched and how much.
        version: what the search depends on beside the request.
        queries: queries of a plan that is elsewhere.

    Raises:
        ConfigError: there is neither a corpus nor a search.
        DataError: a damaged corpus or plan, or a search without a page.
    """
    if not search.wanted:
        if base is None:
            raise ConfigError(
                "no corpus and no search", where="--index", mend="give an index, a service or an address"
            )
        return base, Findings()
    plan = folder / "plan.json"
    queries = decode(read_bytes(plan), Plan, str(plan)).queries if plan.is_file() else queries
    path = folder / "stages" / f"sources-{digest(chr(0).join([version, text, *queries]))[:24]}.index"
    if path.is_file():
        return path, decode(read_bytes(path.with_suffix(".json")), Findings, str(path))
    with contextlib.ExitStack() as stack:
        request = read_request(text, None if base is None else stack.enter_context(Index(base)))
    try:
        return path, research(request, queries, agents, search, base, path)
    except SpentError:
        return path, research(request, queries, Extractive(), search, base, path)


def research(
    request: Request, queries: Sequence[str], agents: Agents, search: Search, base: Path | None, path: Path
) -> Findings:
    """Search, read, and write an index of what was read behind that of a local corpus.

    Args:
        request: the request.
        queries: queries of an edited plan; empty leaves them to the agents.
        agents: who names queries.
        search: services, addresses and limits.
        base: local corpus; None where there is none.
        path: file of the new index; its record is beside it.

    Raises:
        DataError: nothing was read, and there is no local corpus.
        SpentError: a limit of money or tokens.
    """
    findings = Findings(queries=list(queries))
    documents = list(
        read_pages(search.addresses, findings.left_out, client=search.client, resolver=search.resolver)
    )
    hits = _rounds(request, agents, search, findings) if search.services else []
    pages = read_pages(
        [hit.url for hit in hits], findings.left_out, client=search.client, resolver=search.resolver
    )
    dates = {hit.url: hit.date for hit in hits}
    for page in pages:
        page.date = page.date or dates.get(page.url, "")
        if search.rules.allows(page.url, page.date):
            documents.append(page)
        else:
            findings.left_out.append(f"{page.url}: refused by the rules of sources")
    documents += _pictures(request, search, findings)
    findings.pages = [page.url for page in documents]
    if not documents and base is None:
        raise DataError(
            "the search gave no page that could be read",
            where="--service, --address",
            mend=_reasons(findings),
        )
    write_atomic(
        path.with_suffix(".json"), encode(findings)
    )  # first: the index is the sign that both are whole
    build_index(path, documents, retrieved=date.today().isoformat(), base=base)
    return findings


def _rounds(request: Request, agents: Agents, search: Search, findings: Findings) -> list[Hit]:
    """Results of the plan's queries, or of rounds of queries for which the agents see the titles so far."""
    language = search.language or request.language
    hits: dict[str, Hit] = {}
    for turn in range(search.rounds):
        fixed = bool(findings.queries) and turn == 0
        asked = (
            findings.queries
            if fixed
            else agents.queries(request, language, [hit.title for hit in hits.values()])
        )
        new = [query for query in asked if fixed or query not in findings.queries]
        if not new:
            break
        findings.queries += [] if fixed else new
        found = gather(search.services, new, search.rules, search.pages, findings.left_out)
        hits |= {hit.url: hit for hit in found if hit.url not in hits and hit.url not in search.addresses}
        if fixed:
            break
    return list(hits.values())[: search.pages]


def _pictures(request: Request, search: Search, findings: Findings) -> list[Any]:
    """Pictures for what the request asks to see, from the services that search pictures."""
    from noria.reports.agents.images import is_decoration

    wanted = [demand.words for demand in request.demands if demand.kind == "image"]
    hits = []
    for service in search.services:
        if isinstance(service, WebSearch):
            for words in wanted[:3]:
                try:
                    hits += service.images(words)
                except RunError as error:
                    findings.left_out.append(str(error))
    kept = [hit for hit in hits if not is_decoration(hit.caption, hit.url) and search.rules.allows(hit.url)]
    return list(read_pictures(kept[:6], findings.left_out, client=search.client, resolver=search.resolver))


def _reasons(findings: Findings) -> str:
    return "; ".join(findings.left_out[:3]) or "give other words, services or addresses"
