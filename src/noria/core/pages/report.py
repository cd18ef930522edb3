"""Pages of results: one HTML file each, which needs no network, no server and no other file.

Charts are drawn by Vega, which is part of the page. A content security policy forbids everything else: the browser
runs the two scripts of the page, evaluates no text as code, and fetches nothing. All text is escaped.
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

from noria.core.errors import DataError, RunError
from noria.core.files import decoding, write_atomic
from noria.core.pages.charts import COLORS, Figure, missing, number, theme
from noria.core.progress import duration
from noria.core.records import json_object, read_json
from noria.core.runs.run import read_config, read_metrics

if TYPE_CHECKING:
    from markupsafe import Markup

Block = Figure | str


def write_page(
    path: Path | str,
    title: str,
    sections: Sequence[tuple[str, Sequence[Block]]],
    *,
    intro: str = "",
    footer: str = "",
) -> None:
    """Write a page of sections, each a heading with figures and paragraphs.

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
        folder: folder of the run.
        system: name of the system.
        title: title of the page, before the name of the run.
        sections: sections, as `write_page` takes them.
        intro: text below the title.
        stopped: why the run ended early, if it did.

    Raises:
        RunError: there is no run, or the disk refuses.
    """
    path = folder / "report.html"
    write_page(
        path,
        f"{title}: {folder.resolve().name}",
        [*sections, ("Settings", _settings(folder))],
        intro=f"{intro}\n\nStopped: {stopped}." if stopped else intro,
        footer=f"Made by noria {system} from the files in this folder.",
    )
    return path


@dataclass(frozen=True)
class RunRecord:
    """Content of a run's folder, for the page of the run.

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
            return json_object(self.folder / name, "a file of the run")
        except DataError:
            return {}


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
        record = RunRecord(folder, read_config(folder), read_metrics(folder))
        with decoding(folder, f"a run of noria {system}", error=RunError):
            page = describe(record)
        return write_run_report(folder, system, page.title, page.sections, intro=page.intro, stopped=stopped)

    return write_run_page


def _settings(folder: Path) -> list[Block]:
    """Settings of a run, and the package versions that it last ran with."""
    rows: list[list[str]] = []
    for name, value in read_config(folder).items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        rows += [[f"{name}.{key}" if key else name, json.dumps(v, ensure_ascii=False)] for key, v in inner]
    blocks: list[Block] = [Figure.table("The run's settings", ["setting", "value"], rows)]
    try:
        versions = read_json(folder / "versions.json")
    except DataError:
        versions = []
    if isinstance(versions, list) and versions and isinstance(versions[-1], dict):
        packages = ", ".join(f"{name} {version}" for name, version in versions[-1].items())
        blocks.append(f"Packages: {packages}.")
    return blocks


def page_assets() -> dict[str, str]:
    """Style sheet and scripts of every page by file name, for a service that serves them beside its HTML.

    A page with charts has its themes as JSON in an element of the id `themes`, and loads `vega.js`, then `page.js`.
    """
    return {"page.css": _style(), "vega.js": _vega(), "page.js": _resource("page.js")}


# -- the file ---------------------------------------------------------------------------------------------------------


def write_html(path: Path | str, template: str, figures: Sequence[Figure], **content: Any) -> None:
    """Render a template of this package with its style and scripts, and write the page whole or not at all."""
    from markupsafe import Markup

    # Vega has 0.9 MB, which a page without a chart does not need.
    scripts = [_vega(), _resource("page.js")] if any(figure.kind == "chart" for figure in figures) else []
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    html = (
        environment()
        .get_template(template)
        .render(
            **content,
            policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
            "img-src data:; media-src data:; base-uri 'none'; form-action 'none'",
            scripts=[Markup(script) for script in scripts],
            style=Markup(_style()),
            themes={mode: theme(mode) for mode in COLORS},
            made=datetime.now(UTC),
        )
    )
    write_atomic(Path(path), html)


@functools.cache
def environment(*packages: str) -> Any:
    """Jinja's environment for pages: the templates of these packages, and those that all pages share.

    All text is escaped; an undefined name in a template is an error.
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


def _style() -> str:
    """The style sheet, with the colours of both modes."""
    light, dark = (
        " ".join(f"--{name}: {color};" for name, color in colors.items()) for colors in COLORS.values()
    )
    root = f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    return root + _resource("page.css")


def _resource(name: str) -> str:
    return (files("noria.core") / "templates" / name).read_text(encoding="utf-8")


def _json(value: Any) -> Markup:
    """JSON for a script element, without characters that HTML would parse."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _grouped(blocks: Sequence[Block]) -> list[list[Block]]:
    """Group consecutive pictures; every other block is a group of its own."""
    groups: list[list[Block]] = []
    for block in blocks:
        picture = isinstance(block, Figure) and block.kind == "picture"
        last = groups[-1][-1] if groups else None
        if picture and isinstance(last, Figure) and last.kind == "picture":
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "figure"


def _duration(seconds: float | None) -> str:
    return "—" if seconds is None or not math.isfinite(seconds) else duration(seconds)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
