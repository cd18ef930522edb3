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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.core.files import write_atomic
from noria.core.pages.charts import COLORS, Figure, missing, number, theme
from noria.core.runs.run import read_config, read_metrics

if TYPE_CHECKING:
    from markupsafe import Markup


__all__ = [
    "RunPage",
    "RunRecord",
    "environment",
    "page_assets",
    "run_page",
    "write_html",
    "write_page",
    "write_run_report",
]

Block = Figure | str


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
    write_html(path, "page.html", figures, title=title, intro=intro, footer=footer, sections=sections)


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
        sections: sections, as `write_page` takes them.
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


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder tells it, for the page of the run.

    Attributes:
        folder: the run's folder.
        config: settings that the run was made with.
        rows: lines of the log, each with its `step`.
    """

    folder: Path
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def steps(self) -> int:
        """Last step of the log; 0 before the first."""
        return max([0, *(int(row["step"]) for row in self.rows)])

    def file(self, name: str) -> dict[str, Any]:
        """Content of a JSON file in the folder; empty where there is none, or it is damaged."""
        try:
            content = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class RunPage:
    """Content of a run's page, above its settings: a title before the run's name, an introduction, sections."""

    title: str
    intro: str
    sections: Sequence[tuple[str, Sequence[Block]]]


def run_page(system: str, describe: Callable[[RunRecord], RunPage]) -> Callable[..., Path]:
    """Make the function `write_run_page(folder, *, stopped="")` of a system, which writes `report.html`.

    Args:
        system: name of the system.
        describe: draws the page from what is in the folder.

    Returns:
        A function that takes the run's folder and why the run ended early, if it did. It raises RunError where there is
        no run or the disk refuses, and DataError where the log is damaged.
    """

    def write_run_page(folder: Path, *, stopped: str = "") -> Path:
        page = describe(RunRecord(folder, read_config(folder), read_metrics(folder)))
        return write_run_report(folder, system, page.title, page.sections, intro=page.intro, stopped=stopped)

    return write_run_page


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


# -- the file ---------------------------------------------------------------------------------------------------------


def write_html(path: Path | str, template: str, figures: Sequence[Figure], **content: Any) -> None:
    """Fill a template of this package and write the page with its style and scripts, whole or not at all."""
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
