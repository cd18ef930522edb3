"""The page a job leaves behind: one HTML file that needs no network, no server and no other file.

Charts are drawn by Vega, which is part of the page. A content security policy forbids everything else: the browser
runs the two scripts written here, evaluates no text as code, and fetches nothing. All text is escaped, whoever wrote
it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from noria.core.charts import COLORS, Figure, missing, number, theme
from noria.core.files import write_atomic
from noria.core.runs import read_config

if TYPE_CHECKING:
    from markupsafe import Markup

    from noria.core.proof import Claim, Evidence

__all__ = ["environment", "page_assets", "write_page", "write_report", "write_run_report"]

Block = Figure | str


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
    _write(
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


def write_run_report(
    folder: Path,
    system: str,
    title: str,
    sections: Sequence[tuple[str, Sequence[Block]]],
    *,
    intro: str,
    stopped: str = "",
) -> Path:
    """Write `report.html` of a run: the sections, then its settings and the versions that it ran with.

    Args:
        folder: the run's.
        system: whose run it is.
        title: before the folder's name.
        sections: as of `write_page`.
        intro: what was run on what.
        stopped: why it ended early, if it did.

    Raises:
        RunError: there is no run, or the disk refuses.
    """
    path = folder / "report.html"
    write_page(
        path,
        f"{title}: {folder.resolve().name}",
        [*sections, ("Settings", _of_run(folder))],
        intro=f"{intro}\n\nStopped: {stopped}." if stopped else intro,
        footer=f"Made by noria {system} from the files in this folder.",
    )
    return path


def _of_run(folder: Path) -> list[Block]:
    """A run's settings, and the package versions it last ran with."""
    flat: list[list[str]] = []
    for name, value in read_config(folder).items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat += [[f"{name}.{key}" if key else name, json.dumps(v, ensure_ascii=False)] for key, v in inner]
    blocks: list[Block] = [Figure.table("The run's settings", ["setting", "value"], flat)]
    try:
        known = json.loads((folder / "versions.json").read_bytes())
    except (OSError, ValueError):
        known = []
    if known:
        blocks.append(
            "Packages: " + ", ".join(f"{name} {version}" for name, version in known[-1].items()) + "."
        )
    return blocks


def page_assets() -> dict[str, str]:
    """What a page needs beside its HTML, for a service that hands it out itself: style sheet and scripts by name.

    A page with charts carries its themes as JSON in an element of the id `themes`, loads `vega.js`, then `page.js`.
    """
    light, dark = (
        " ".join(f"--{name}: {color};" for name, color in colors.items()) for colors in COLORS.values()
    )
    root = f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    return {"page.css": root + _resource("page.css"), "vega.js": _vega(), "page.js": _resource("page.js")}


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


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


# -- the file ---------------------------------------------------------------------------------------------------------


def _write(path: Path | str, template: str, figures: Sequence[Figure], **content: Any) -> None:
    from markupsafe import Markup

    # The bundle weighs 0.9 MB: a page without a chart goes without it.
    scripts = [_vega(), _resource("page.js")] if any(figure.kind == "chart" for figure in figures) else []
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts
    )
    html = (
        environment()
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
def environment(*packages: str) -> Any:
    """Jinja's environment for pages: the templates of these packages, and those of every page.

    All text is escaped; a name that a template does not find is an error.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in (*packages, "noria.core")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number,
        missing=missing,
        duration=_duration,
        moment=_moment,
        json=_json,
        slug=_slug,
        grouped=_grouped,
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


def _grouped(blocks: Sequence[Block]) -> list[list[Block]]:
    """Pictures that follow each other together, everything else alone."""
    groups: list[list[Block]] = []
    for block in blocks:
        picture = isinstance(block, Figure) and block.kind == "picture"
        before = groups[-1][-1] if groups else None
        if picture and isinstance(before, Figure) and before.kind == "picture":
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "figure"
