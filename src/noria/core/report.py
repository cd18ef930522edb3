"""The page a job leaves behind: one HTML file that needs no network, no server and no other file.

Charts are drawn by Vega, which is part of the page. A content security policy forbids everything else: the browser
runs the two scripts written here, evaluates no text as code, and fetches nothing. All text is escaped, whoever wrote it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from noria.core.charts import COLORS, Figure, missing, number, theme
from noria.core.files import write_atomic

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["ClaimLike", "EvidenceLike", "write_page", "write_report"]

Block = Figure | str


class ClaimLike(Protocol):
    """What the page reads of a claim; `noria.core.proof.Claim` is one."""

    @property
    def id(self) -> str: ...
    @property
    def statement(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def better(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def baseline(self) -> str: ...
    @property
    def arms(self) -> Mapping[str, Sequence[float | None]]: ...
    @property
    def margin(self) -> float: ...
    @property
    def source(self) -> str: ...
    @property
    def effect(self) -> float | None: ...
    @property
    def ci95(self) -> Sequence[float | None] | None: ...
    @property
    def verdict(self) -> str: ...


class EvidenceLike(Protocol):
    """What the page reads of a system's evidence; `noria.core.proof.Evidence` is one."""

    @property
    def system(self) -> str: ...
    @property
    def claims(self) -> Sequence[ClaimLike]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def versions(self) -> Mapping[str, str]: ...
    @property
    def figures(self) -> Sequence[Figure]: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...


def write_report(
    path: Path | str,
    *,
    title: str,
    evidences: Sequence[EvidenceLike],
    intro: str = "",
    rerun: str = "",
    footer: str = "",
) -> None:
    """Write a proof's report: the verdict on every claim on top, then each system's evidence.

    Args:
        path: the HTML file.
        title: of the page.
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
            "claims": [_claim(claim) for claim in evidence.claims],
            "measurements": _measurements(evidence.claims),
            "blocks": list(evidence.figures),
            "notes": list(evidence.notes),
            "seconds": evidence.seconds,
            "versions": dict(evidence.versions),
            "settings": _settings(evidence.config),
        }
        for evidence in evidences
    ]
    verdicts = [claim["verdict"] for system in systems for claim in system["claims"]]
    _write(
        path,
        "report.html",
        [figure for evidence in evidences for figure in evidence.figures],
        title=title,
        intro=intro,
        footer=footer,
        rerun=rerun,
        systems=systems,
        tally=[(verdict, verdicts.count(verdict)) for verdict in dict.fromkeys([*VERDICTS, *verdicts])],
    )


def write_page(
    path: Path | str,
    title: str,
    sections: Sequence[tuple[str, Sequence[Block]]],
    *,
    intro: str = "",
    footer: str = "",
) -> None:
    """Write a page of headed sections, each a list of figures and paragraphs: a training run's report, say.

    Raises:
        RunError: the file cannot be written; the old one, if any, stays whole.
    """
    figures = [block for _, blocks in sections for block in blocks if isinstance(block, Figure)]
    _write(path, "page.html", figures, title=title, intro=intro, footer=footer, sections=sections)


# -- what the templates show ------------------------------------------------------------------------------------------

VERDICTS = {"supported": "✓", "refuted": "✗", "inconclusive": "~"}


def _claim(claim: ClaimLike) -> dict[str, Any]:
    low, high = claim.ci95 or (None, None)
    effect = claim.effect
    seeds = min((len(claim.arms.get(arm, ())) for arm in (claim.subject, claim.baseline)), default=0)
    why = missing(effect) or missing(low) or missing(high)
    return {
        "id": claim.id,
        "statement": claim.statement,
        "metric": claim.metric,
        "better": claim.better,
        "subject": claim.subject,
        "baseline": claim.baseline,
        "means": [_mean(claim.arms.get(arm, ())) for arm in (claim.subject, claim.baseline)],
        "seeds": seeds,
        "source": claim.source,
        "verdict": str(claim.verdict),
        "mark": VERDICTS.get(str(claim.verdict), "?"),
        "effect": effect,
        "ci95": (low, high) if why is None else None,
        "why": "one seed has no interval" if why and seeds == 1 else why and f"no interval: {why}",
        "plot": _interval(effect, low, high, claim.margin),
        "margin": claim.margin,
    }


@dataclass(frozen=True)
class _Axis:
    """Values to pixels."""

    low: float
    high: float
    width: float
    log: bool = False

    def __call__(self, value: float) -> float:
        place, low, high = (
            (math.log(x) if self.log else x for x in (value, self.low, self.high))
            if self.log
            else (value, self.low, self.high)
        )
        return (
            round(6 + (self.width - 12) * (place - low) / (high - low), 2) if high > low else self.width / 2
        )


def _interval(
    effect: float | None, low: float | None, high: float | None, margin: float
) -> dict[str, float | None]:
    """Where effect and interval stand on a line with zero in its middle."""
    shown = [abs(x) for x in (effect, low, high, margin) if x is not None and math.isfinite(x)]
    reach = max(shown, default=0.0) * 1.05 or 1.0
    axis = _Axis(-reach, reach, PLOT)
    place = {
        name: axis(x) if missing(x) is None and x is not None else None
        for name, x in (("effect", effect), ("low", low), ("high", high))
    }
    return {**place, "zero": PLOT / 2, "margin": axis(margin) if margin else None}


PLOT = 168.0


def _measurements(claims: Sequence[ClaimLike]) -> list[dict[str, Any]]:
    """The values of all arms, one table for each metric that claims share."""
    tables: dict[str, dict[str, Any]] = {}
    for claim in claims:
        arms = {name: list(values) for name, values in claim.arms.items()}
        key = json.dumps([claim.metric, claim.better, arms], default=str)
        table = tables.setdefault(
            key, {"metric": claim.metric, "better": claim.better, "arms": arms, "claims": []}
        )
        table["claims"].append(claim.id)
    for table in tables.values():
        values = [x for arm in table["arms"].values() for x in arm if missing(x) is None]
        low, high = min(values, default=0.0), max(values, default=0.0)
        log = low > 0 and high / low > 30
        axis = _Axis(low, high, PLOT, log)
        table["log"] = log
        table["rows"] = [
            {
                "arm": name,
                "values": arm,
                "mean": _mean(arm),
                "dots": [axis(x) for x in arm if x is not None and missing(x) is None],
            }
            for name, arm in table["arms"].items()
        ]
        table["seeds"] = max((len(arm) for arm in table["arms"].values()), default=0)
    return list(tables.values())


def _mean(values: Sequence[float | None]) -> float | None:
    there = [x for x in values if x is not None and math.isfinite(x)]
    return sum(there) / len(there) if there and len(there) == len(values) else None


def _settings(config: Mapping[str, Any]) -> str:
    import yaml

    plain = json.loads(json.dumps(dict(config), default=str))
    return "" if not plain else yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100).rstrip()


def _duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "—"
    if seconds < 10:
        return f"{number(float(seconds), digits=2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [
        f"{hours} h" if hours else "",
        f"{minutes} min" if minutes else "",
        f"{rest} s" if not hours and rest else "",
    ]
    return " ".join(part for part in parts if part)


def _together(values: Sequence[float], *, sign: bool = False) -> list[str]:
    """Numbers that belong together, all to the same decimal: three digits of the largest."""
    largest = max(abs(x) for x in values)
    if not 1e-3 <= largest < 1e7:
        return [number(float(x), sign=sign) for x in values]
    decimals = max(0, 2 - math.floor(math.log10(largest)))
    return [f"{x:{'+' if sign else ''},.{decimals}f}".replace("-", "−") for x in values]


# -- the file ---------------------------------------------------------------------------------------------------------


def _write(path: Path | str, template: str, figures: Sequence[Figure], **content: Any) -> None:
    from markupsafe import Markup

    # The bundle weighs 0.9 MB: a page without a chart goes without it.
    scripts = [_vega(), _resource("page.js")] if any(figure.kind == "chart" for figure in figures) else []
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts
    )
    html = (
        _environment()
        .get_template(template)
        .render(
            **content,
            policy=f"default-src 'none'; script-src {hashes or chr(39) + 'none' + chr(39)}; style-src 'unsafe-inline'; "
            "img-src data:; base-uri 'none'; form-action 'none'",
            scripts=[Markup(script) for script in scripts],
            style=Markup(_resource("page.css")),
            colors=COLORS,
            themes={mode: theme(mode) for mode in COLORS},
            made=datetime.now(UTC),
        )
    )
    write_atomic(Path(path), html)


@functools.cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("noria.core"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, missing=missing, duration=_duration, together=_together, json=_json, slug=_slug
    )
    environment.tests["figure"] = lambda block: isinstance(block, Figure)
    return environment


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets `window.vegaEmbed`."""
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return re.sub(r"<(/script|!--)", r"\\x3c\1", script.replace("\r\n", "\n"), flags=re.IGNORECASE)


def _resource(name: str) -> str:
    return (files("noria.core") / "templates" / name).read_text(encoding="utf-8")


def _json(value: Any) -> Markup:
    """JSON for a script element, with nothing in it that HTML would read as its own."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "figure"
