"""From settings to a report: the folder, a plan with its cost, the job over its corpus, the result."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from noria.core.digests import digest_of
from noria.core.errors import ConfigError, RunError
from noria.core.files import read_text, write_atomic
from noria.core.records import json_object
from noria.reports.agents.estimate import Estimate, estimate
from noria.reports.agents.pipeline import Job, Limits, Watch, unwatched
from noria.reports.agents.research import Findings, Search, report_index
from noria.reports.agents.roles import Extractive
from noria.reports.checking.findings import Verification
from noria.reports.checking.verify import verify_bundle
from noria.reports.document.blocks import figures, sentences
from noria.reports.document.bundle import Bundle, read_bundle
from noria.reports.evaluation.comparing import changed_numbers
from noria.reports.evidence.records import encode
from noria.reports.finished.refreshing import finished, moved
from noria.reports.jobs.options import rules_of
from noria.reports.search.index import Index, build_index

if TYPE_CHECKING:
    from noria.reports.agents.contracts import Plan
    from noria.reports.jobs.options import ReportOptions


def check_folder(folder: Path, text: str) -> None:
    """Refuse a folder of another request, or of something else; nothing is written.

    Raises:
        RunError: the folder holds a report of another request, or something else.
    """
    path = folder / "request.txt"
    if path.is_file() and read_text(path) != text:
        raise RunError(
            "the folder holds a report of another request", where=str(folder), mend="give another --output"
        )
    held = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    if not path.is_file() and held - {"plan.json", "stages"}:
        raise RunError(
            "the folder holds something else than a report", where=str(folder), mend="give another --output"
        )


def prepare_folder(folder: Path, text: str) -> None:
    """Keep the request beside the report, in a folder that was checked."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "request.txt", text)


@contextlib.contextmanager
def open_job(
    config: ReportOptions,
    base: Path | None,
    folder: Path,
    text: str,
    search: Search,
    queries: tuple[str, ...] = (),
    *,
    limits: Limits | None = None,
    watch: Watch = unwatched,
) -> Iterator[tuple[Job, Findings]]:
    """A report's job over its corpus, with what a search brought in and left out.

    Args:
        config: settings of the report.
        base: local corpus; None where there is none.
        folder: folder of the report.
        text: request in words.
        search: search on the web, whose time counts.
        queries: queries of a plan that is not in the folder.
        limits: limits of the run; by default the seconds of the settings, from now on.
        watch: receiver of the progress.
    """
    limits = limits or Limits(config.seconds)
    if base is not None:
        Index(base).base.close()  # a damaged corpus is refused before anything is written
    config.countries(), config.style()
    check_folder(folder, text)
    version = "" if base is None else digest_of(base)
    agents, rules = config.agents(folder), rules_of(config)
    if search.wanted:
        watch(0.0, "searching")
    seen = f"{version}{config.model}{rules}{search.addresses}{search.pages}{search.rounds}{search.language}"
    path, findings = report_index(folder, base, text, agents, search, seen, queries)
    with Index(path, rules) as index:
        prepare_folder(folder, text)
        job = config.job(folder, index, agents, digest_of(path))
        job.limits, job.watch = limits, watch
        yield job, findings


def plan_report(
    config: ReportOptions, base: Path | None, folder: Path, text: str, search: Search
) -> tuple[Plan, Estimate]:
    """Plan a report by rules into `plan.json`, or read the plan that is there; and estimate what it will cost.

    No model and no service is asked.

    Raises:
        ConfigError: there is neither a corpus nor a search.
    """
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        if base is None:
            if not search.wanted:
                raise ConfigError(
                    "no corpus and no search", where="--index", mend="give an index or a service"
                )
            base = Path(place) / "empty.index"
            build_index(base, [], retrieved="", allow_empty=True)
        index = stack.enter_context(Index(base, rules_of(config)))
        check_folder(folder, text)
        server = config.server() if config.url or config.model else None
        prepare_folder(folder, text)
        request, plan = config.job(folder, index, Extractive(), "").plan(text)
        if search.services and not plan.queries:
            queries = Extractive().queries(request, search.language or request.language, ())
            plan = msgspec.structs.replace(plan, queries=queries)
            write_atomic(folder / "plan.json", encode(plan))
        return plan, estimate(plan, request, index, server, search)


def refresh_report(
    config: ReportOptions,
    base: Path | None,
    report: Path,
    folder: Path,
    search: Search,
    *,
    limits: Limits | None = None,
    watch: Watch = unwatched,
) -> tuple[Bundle, Findings, list[dict[str, str]]]:
    """Write a finished report again by its plan from newer sources, into another folder.

    Returns:
        The new bundle, what the search brought in, and each number that changed, which `changes.json` lists, too.

    Raises:
        DataError: there is no finished report.
    """
    text, plan = finished(report)
    before = read_bundle(report)
    opened = open_job(config, base, folder, text, search, plan.queries, limits=limits, watch=watch)
    with opened as (job, findings):
        if not (folder / "plan.json").is_file():
            write_atomic(folder / "plan.json", encode(moved(plan, before, job.index)))
        bundle = job.write(text)
    rows = changed_numbers(before, bundle)
    write_atomic(folder / "changes.json", encode(rows))
    return bundle, findings, rows


def outcome(bundle: Bundle, folder: Path, findings: Findings) -> tuple[dict[str, Any], Verification]:
    """Counts of a finished report, what is missing of it and what it cost; and its verification."""
    report, verification = bundle.report, verify_bundle(folder)
    spending = folder / "stages" / "spending.json"
    counts = {
        "sections": len(report.sections),
        "sentences": sum(1 for _ in sentences(report)),
        "figures": len(figures(report)),
        "sources": len(bundle.book.sources),
        "findings": len(verification.findings),
        "stopped": report.stopped,
        "missing": [msgspec.to_builtins(one) for one in report.missing],
        "left_out": findings.left_out,
        "spent": json_object(spending, "a file of costs") if spending.is_file() else None,
    }
    return counts, verification
