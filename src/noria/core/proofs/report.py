"""The page of a proof: claims with their verdicts, intervals and settings."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from noria.core.pages.charts import missing, number
from noria.core.pages.report import write_html

if TYPE_CHECKING:
    from noria.core.proofs.proof import Claim, Evidence

__all__ = ["write_report"]


def write_report(
    path: Path | str,
    *,
    title: str,
    evidences: Sequence[Evidence],
    intro: str = "",
    rerun: str = "",
    footer: str = "",
) -> None:
    """Write a proof's report: the verdict on every claim on top, then each system's evidence.

    Args:
        path: the HTML file.
        title: title of the page.
        evidences: one for each system.
        intro: what was run, at which scale; paragraphs part at empty lines.
        rerun: the command that makes this report again.
        footer: a last line.

    Raises:
        RunError: the file cannot be written; the old one, if any, stays whole.
    """
    systems: list[dict[str, Any]] = [
        {
            "name": evidence.system,
            "claims": [_verdict(claim) for claim in evidence.claims],
            "measurements": _measurements(evidence.claims, evidence.config.get("seeds")),
            "blocks": list(evidence.figures),
            "notes": list(evidence.notes),
            "seconds": evidence.seconds,
            "versions": dict(evidence.versions),
            "settings": _settings(evidence.config),
        }
        for evidence in evidences
    ]
    claims = [claim for evidence in evidences for claim in evidence.claims]
    verdicts = [claim.verdict for claim in claims]
    write_html(
        path,
        "report.html",
        [figure for evidence in evidences for figure in evidence.figures],
        title=title,
        intro=intro,
        footer=footer,
        rerun=rerun,
        systems=systems,
        tally=[(verdict, verdicts.count(verdict)) for verdict in MARKS if verdict in verdicts],
        ratios=any(claim.comparison == "log_ratio" for claim in claims),
        margins=any(claim.margin for claim in claims),
    )


# -- what the templates show ------------------------------------------------------------------------------------------

MARKS = {"supported": "✓", "refuted": "✗", "inconclusive": "~"}
PLOT = 168.0  # pixels: the width of an interval, or of an arm's dots


def _verdict(claim: Claim) -> dict[str, Any]:
    """A claim's row in the table of verdicts."""
    effect, interval = claim.effect, claim.ci95
    ratio = claim.comparison == "log_ratio"
    arms = [claim.arms[name] for name in (claim.subject, claim.baseline)]
    lost = sum(not (_measured(a, ratio) and _measured(b, ratio)) for a, b in zip(*arms, strict=True))
    if effect is None:
        words, why = "—", "no seed has both values"
    elif interval is None:
        words, why = _together([effect], ratio)[0], "one seed has no interval"
    else:
        words, why = "{} [{}, {}]".format(*_together([effect, *interval], ratio)), ""
    if lost and effect is not None:
        why = f"{why}; {lost} of {len(arms[0])} seeds missing, left out".removeprefix("; ")

    reach = 1.05 * max(abs(x) for x in (effect or 0, *(interval or ()), claim.margin)) or 1.0
    place = _scale(-reach, reach)
    return {
        "claim": claim,
        "verdict": str(claim.verdict),
        "mark": MARKS[claim.verdict],
        "means": [(claim.subject, _mean(arms[0], ratio)), (claim.baseline, _mean(arms[1], ratio))],
        "words": words,
        "why": why,
        "zero": place(0),
        "margin": place(claim.margin) if claim.margin else None,
        "effect": None if effect is None else place(effect),
        "interval": None if interval is None else [place(x) for x in interval],
    }


def _measurements(claims: Sequence[Claim], seeds: Any) -> list[dict[str, Any]]:
    """The values of all arms, one table for the claims that share a metric and its values."""
    tables: dict[str, dict[str, Any]] = {}
    for claim in claims:
        arms = {name: list(values) for name, values in claim.arms.items()}
        columns = max(map(len, arms.values()), default=0)
        known = isinstance(seeds, list) and len(seeds) == columns
        table = tables.setdefault(
            json.dumps([claim.metric, arms]),
            {
                "metric": claim.metric,
                "better": claim.better,
                "claims": [],
                "columns": [
                    f"seed {seed}" if known else f"#{seed}"
                    for seed in (seeds if known else range(1, columns + 1))
                ],
                "log": claim.comparison == "log_ratio",
                "arms": arms,
            },
        )
        table["claims"].append(claim.id)
    for table in tables.values():
        there = [x for values in table["arms"].values() for x in values if missing(x) is None]
        table["log"] = table["log"] and min(there, default=0) > 0
        place = _scale(min(there, default=0), max(there, default=0), log=table["log"])
        table["rows"] = [
            {
                "arm": arm,
                "mean": _mean(values, table["log"]),
                "values": values + [None] * (len(table["columns"]) - len(values)),
                "dots": [place(x) for x in values if missing(x) is None],
            }
            for arm, values in table["arms"].items()
        ]
    return list(tables.values())


def _scale(low: float, high: float, *, log: bool = False) -> Callable[[float], float]:
    """From values to pixels along a plot."""
    bend: Callable[[float], float] = math.log if log else float
    low, high = bend(low), bend(high)
    return lambda x: round(6 + (PLOT - 12) * (bend(x) - low) / (high - low), 2) if high > low else PLOT / 2


def _measured(value: float | None, ratio: bool) -> TypeGuard[float]:
    """Whether a claim counts it; a ratio needs it positive."""
    return value is not None and math.isfinite(value) and (value > 0 or not ratio)


def _mean(values: Sequence[float | None], geometric: bool) -> float | None:
    """The mean of what there is; the geometric mean where ratios are compared."""
    there = [float(x) for x in values if _measured(x, geometric)]
    if not there:
        return None
    return statistics.geometric_mean(there) if geometric else statistics.fmean(there)


def _together(effects: Sequence[float], ratio: bool) -> list[str]:
    """An effect and its interval, all to the same decimal: three digits of the largest. Log ratios become factors."""
    if ratio:
        effects = [math.exp(min(x, 700.0)) for x in effects]
    largest = max(abs(x) for x in effects)
    if 1e-3 <= largest < 1e7:
        decimals = max(0, 2 - math.floor(math.log10(largest)))
        shown = [f"{x:{'' if ratio else '+'},.{decimals}f}".replace("-", "−") for x in effects]
    else:
        shown = [number(float(x), sign=not ratio) for x in effects]
    return [f"{text}×" if ratio else text for text in shown]


def _settings(config: Mapping[str, Any]) -> str:
    import yaml

    plain = json.loads(json.dumps(dict(config), default=str))
    if not plain:
        return ""
    return yaml.safe_dump(
        plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    ).rstrip()
