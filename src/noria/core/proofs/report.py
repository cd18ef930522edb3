"""The page of a proof: claims with their verdicts, intervals and settings."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from noria.core.pages.charts import number
from noria.core.pages.report import write_html

if TYPE_CHECKING:
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Claim, Evidence


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
        evidences: evidence of each system.
        intro: text below the title; an empty line starts a new paragraph.
        rerun: command that makes this report again.
        footer: last line of the page.

    Raises:
        RunError: the file cannot be written; the old one, if any, stays whole.
    """
    systems: list[dict[str, Any]] = [
        {
            "name": evidence.system,
            "claims": _verdicts(evidence),
            "checks": list(evidence.checks),
            "arms": _arms(evidence.claims),
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
    verdicts = [verdict for evidence in evidences for verdict in evidence.verdicts.values()]
    checks = [check for evidence in evidences for check in evidence.checks]
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
        checks=(sum(check.holds for check in checks), len(checks)),
        ratios=any(claim.comparison == "log_ratio" for claim in claims),
        margins=any(claim.margin for claim in claims),
    )


# -- values for the template ------------------------------------------------------------------------------------------

MARKS = {"supported": "✓", "refuted": "✗", "inconclusive": "~"}
PLOT = 168.0  # pixels: the width of an interval, or of an arm's dots


def _verdicts(evidence: Evidence) -> list[dict[str, Any]]:
    """Rows of a system in the table of verdicts."""
    verdicts, p_values, reasons = evidence.verdicts, evidence.p_values, evidence.unfair()
    return [
        _row(claim)
        | {
            "verdict": verdicts[claim.id],
            "mark": MARKS[verdicts[claim.id]],
            "p": p_values[claim.id],
            "unfair": reasons.get(claim.id, []),
        }
        for claim in evidence.claims
    ]


def _row(claim: Claim) -> dict[str, Any]:
    """A claim's effect in the table of verdicts, in words and in pixels."""
    effect, interval = claim.effect, claim.ci95
    ratio = claim.comparison == "log_ratio"
    arms = [claim.arms[name] for name in (claim.subject, claim.baseline)]
    lost = sum(not (_is_measured(a, ratio) and _is_measured(b, ratio)) for a, b in zip(*arms, strict=True))
    if effect is None:
        words, why = "—", "no seed has both values"
    elif interval is None:
        words, why = _effects([effect], ratio)[0], "one seed has no interval"
    else:
        words, why = "{} [{}, {}]".format(*_effects([effect, *interval], ratio)), ""
    if lost and effect is not None:
        why = f"{why}; {lost} of {len(arms[0])} seeds missing, left out".removeprefix("; ")

    reach = 1.05 * max(abs(x) for x in (effect or 0, *(interval or ()), claim.margin)) or 1.0
    pixel = _scale(-reach, reach)
    return {
        "claim": claim,
        "means": [(claim.subject, _mean(arms[0], ratio)), (claim.baseline, _mean(arms[1], ratio))],
        "words": words,
        "why": why,
        "zero": pixel(0),
        "margin": pixel(claim.margin) if claim.margin else None,
        "effect": None if effect is None else pixel(effect),
        "interval": None if interval is None else [pixel(x) for x in interval],
    }


def _arms(claims: Sequence[Claim]) -> list[Arm]:
    """What every arm was paid, each once."""
    arms: list[Arm] = []
    for claim in claims:
        arms += [arm for arm in claim.paid.values() if arm not in arms]
    return arms


def _measurements(claims: Sequence[Claim], seeds: Any) -> list[dict[str, Any]]:
    """Tables of the arms' values, one for all claims that share a metric and its values."""
    groups: dict[str, list[Claim]] = {}
    for claim in claims:
        arms = {name: list(values) for name, values in claim.arms.items()}
        groups.setdefault(json.dumps([claim.metric, arms]), []).append(claim)
    return [_measurement_table(group, seeds) for group in groups.values()]


def _measurement_table(claims: Sequence[Claim], seeds: Any) -> dict[str, Any]:
    """Table of the values that `claims` share: a row for each arm, a column for each seed."""
    claim = claims[0]
    arms = {name: list(values) for name, values in claim.arms.items()}
    width = max(map(len, arms.values()), default=0)
    columns = [f"#{number}" for number in range(1, width + 1)]
    if isinstance(seeds, list) and len(seeds) == width:
        columns = [f"seed {seed}" for seed in seeds]
    measured = [float(x) for values in arms.values() for x in values if _is_measured(x, ratio=False)]
    low, high = min(measured, default=0.0), max(measured, default=0.0)
    log = claim.comparison == "log_ratio" and low > 0
    pixel = _scale(low, high, log=log)
    rows = [
        {
            "arm": arm,
            "mean": _mean(values, log),
            "values": values + [None] * (width - len(values)),
            "dots": [pixel(x) for x in values if _is_measured(x, ratio=False)],
        }
        for arm, values in arms.items()
    ]
    return {
        "metric": claim.metric,
        "better": claim.better,
        "claims": [claim.id for claim in claims],
        "columns": columns,
        "log": log,
        "rows": rows,
    }


def _scale(low: float, high: float, *, log: bool = False) -> Callable[[float], float]:
    """Make the function from values to pixels along a plot."""
    transform: Callable[[float], float] = math.log if log else float
    low, high = transform(low), transform(high)
    return lambda x: (
        round(6 + (PLOT - 12) * (transform(x) - low) / (high - low), 2) if high > low else PLOT / 2
    )


def _is_measured(value: float | None, ratio: bool) -> TypeGuard[float]:
    """Whether a value counts in a claim; a ratio needs positive ones."""
    return value is not None and math.isfinite(value) and (value > 0 or not ratio)


def _mean(values: Sequence[float | None], geometric: bool) -> float | None:
    """Mean of the measured values; the geometric mean where ratios are compared."""
    measured = [float(x) for x in values if _is_measured(x, geometric)]
    if not measured:
        return None
    return statistics.geometric_mean(measured) if geometric else statistics.fmean(measured)


def _effects(effects: Sequence[float], ratio: bool) -> list[str]:
    """Format an effect and its interval to as many decimals as the largest needs. Log ratios become factors."""
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
