"""The pages as a reader's browser shows them: everything drawn, nothing fetched, no text taken for code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest

from noria.core.errors import RunError
from noria.core.pages.charts import (
    Figure,
    Piece,
    curves as log_curves,
    image_grid,
    lines as curves,
    missing,
    number,
    series,
    theme,
)
from noria.core.pages.report import RunPage, RunRecord, run_page, write_page
from noria.core.proofs.proof import Claim, Evidence
from noria.core.proofs.report import write_report
from noria.core.runs.run import Run

NASTY = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def claim(**changes: Any) -> Claim:
    values: dict[str, Any] = {
        "id": "c",
        "statement": "A is closer than B",
        "metric": "distance",
        "better": "lower",
        "subject": "A",
        "baseline": "B",
        "arms": {"A": [1.0, 1.1, 0.9], "B": [2.0, 2.2, 1.9]},
    }
    return Claim(**values | changes)


def lines(rows: list[dict[str, Any]]) -> alt.Chart:
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(x="x:Q", y=alt.Y("y:Q", scale=alt.Scale(type="log")), color="arm:N")
    )


ROWS = [{"x": x, "y": 10.0**x, "arm": arm} for x in range(4) for arm in ("one", "two")]


Open = Callable[..., tuple[Any, list[str], list[str]]]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Open a page: itself, what the console complained of, and what it asked of the network."""
    contexts = []

    def go(path: Path, **options: Any) -> tuple[Any, list[str], list[str]]:
        context = browser.new_context(
            **{"viewport": {"width": 1200, "height": 900}, "offline": True} | options
        )
        contexts.append(context)
        page = context.new_page()
        complaints: list[str] = []
        asked: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=20_000)
        return page, complaints, [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]

    yield go
    for context in contexts:
        context.close()


@pytest.fixture
def report(tmp_path: Path) -> Path:
    images = np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8)
    facets = lines(ROWS).properties(width=200).facet(column="arm:N")
    evidence = Evidence(
        system="distill",
        claims=[
            claim(id="good"),
            claim(id="bad", subject="B", baseline="A", statement="B is closer than A"),
            claim(id="unsure", arms={"A": [1.0, 3.0], "B": [2.0, 1.9]}),
            claim(id="lost", arms={"A": [1.0, None, math.nan], "B": [2.0, 2.0, 2.0]}, comparison="log_ratio"),
        ],
        seconds=12.0,
        versions={"torch": "2.13.0"},
        figures=[
            Figure.chart("Lines", lines(ROWS), "Two of them."),
            Figure.chart("Facets", facets),
            Figure.table("Table", ["arm", "value"], [["A", "1.5"], [NASTY, math.nan]]),
            Figure.picture("Samples", image_grid(images, ["first", "second"], scale=3)),
        ],
        notes=["A note.", NASTY],
        config={"seeds": [1, 2, 3], "nested": {"a": 1}},
    )
    path = tmp_path / "report.html"
    write_report(
        path, title=f"Proof {NASTY}", evidences=[evidence], intro="What was run.", rerun="noria prove"
    )
    return path


def test_a_report_is_drawn_without_a_complaint_and_without_the_network(report: Path, visit: Open) -> None:
    page, complaints, asked = visit(report)
    assert complaints == []
    assert asked == []
    assert page.locator(".drawing svg.marks").count() == 2
    assert page.locator(".drawing.error").count() == 0
    # Real marks: a line for each arm in the first chart, and points on it.
    first = page.locator(".drawing").first
    assert first.locator("g.mark-line path").count() == 2
    assert first.locator("g.mark-symbol path").count() >= 8
    box = page.locator("img[src^='data:image/png']").first.bounding_box()
    assert box["height"] > 40


def test_each_claim_has_its_verdict_and_what_is_missing_is_said(report: Path, visit: Open) -> None:
    page, _, _ = visit(report)
    text = page.inner_text("main")
    for verdict in ("supported", "refuted", "inconclusive"):
        assert verdict in text
    rows = page.locator(".verdicts tbody tr, .verdicts tr").all_inner_texts()
    assert sum("inconclusive" in row for row in rows) == 2
    assert "noria prove" in page.inner_text("body")
    assert "NaN" not in text
    assert "undefined" not in text


def test_curves_of_a_log_have_a_legend_where_there_is_more_than_one(tmp_path: Path, visit: Open) -> None:
    rows = [{"step": n, "b": 1 / n, "a": 2 / n} for n in (1, 2, 3)]
    figures = [
        Figure.chart("One", curves(series(rows, {"a": "loss"}), y="nats")),
        Figure.chart("Two", curves(series(rows, {"b": "rejection", "a": "loss"}), legend="kind", marks=True)),
    ]
    write_page(tmp_path / "p.html", "Run", [("Training", figures)])
    page, complaints, _ = visit(tmp_path / "p.html")
    assert complaints == []
    one, two = page.locator(".drawing").all()
    assert one.locator("g.mark-line path").count() == 1
    assert one.locator(".role-legend").count() == 0
    assert page.get_by_text("Click a name in the legend").count() == 1
    assert "nats" in (one.text_content() or "")
    assert two.locator(".role-legend-label text").all_text_contents() == ["rejection", "loss"]
    assert two.locator("g.mark-symbol path").count() >= 6


def test_text_is_never_taken_for_code(report: Path, visit: Open) -> None:
    page, _, _ = visit(report)
    assert page.evaluate("window.hacked") is None
    assert NASTY in page.title()
    assert NASTY in page.inner_text("body")


def test_the_page_redraws_for_a_narrow_dark_screen(report: Path, visit: Open) -> None:
    page, complaints, _ = visit(report, color_scheme="dark", viewport={"width": 390, "height": 800})
    assert page.locator("html").get_attribute("data-drawn") == "dark"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing sticks out of the page"
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-drawn=light]", timeout=20_000)
    page.set_viewport_size({"width": 1000, "height": 800})
    page.wait_for_timeout(600)
    assert page.locator(".drawing svg.marks").first.bounding_box()["width"] > 600
    assert complaints == []


def test_a_click_in_the_legend_singles_a_series_out(report: Path, visit: Open) -> None:
    page, complaints, _ = visit(report)
    first = page.locator(".drawing").first
    faint = "g.mark-line path[opacity='0.08'], g.mark-line path[style*='0.08']"
    assert first.locator(faint).count() == 0
    first.locator(".role-legend-label text, .role-legend-symbol path").first.click(force=True)
    page.wait_for_timeout(300)
    assert first.locator(faint).count() == 1
    assert complaints == []


def test_a_page_of_sections_has_a_link_to_each(tmp_path: Path, visit: Open) -> None:
    figure = Figure.chart("Loss", lines(ROWS))
    write_page(tmp_path / "p.html", "Run", [("One", [figure]), ("Two", ["Words & more."]), ("Three", [])])
    page, complaints, _ = visit(tmp_path / "p.html")
    assert complaints == []
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1
    assert page.locator("nav a").count() == 3
    assert "Words & more." in page.inner_text("main")


def test_shaded_text_is_whole_safe_and_darker_where_it_should_be(tmp_path: Path, visit: Open) -> None:
    pieces = [
        Piece("a  b\n"),
        Piece(NASTY, 0.0, NASTY),
        Piece(" mid", 0.5, "half", mark=True),
        Piece(" most", 1.0),
    ]
    chart = Figure.chart("Beside it", lines(ROWS))
    write_page(tmp_path / "page.html", "Text", [("One", [Figure.shaded("Shaded", pieces, "Caption"), chart])])
    page, complaints, asked = visit(tmp_path / "page.html")
    assert (complaints, asked) == ([], [])
    assert page.locator("p.shaded").evaluate("e => e.textContent") == f"a  b\n{NASTY} mid most"
    assert page.evaluate("window.hacked") is None
    ground = "e => getComputedStyle(e).backgroundColor"
    colors = [page.locator("p.shaded span").nth(n).evaluate(ground) for n in range(4)]
    assert len(set(colors)) == 3  # nothing to say and the least shade look alike
    assert page.locator("p.shaded span").nth(2).get_attribute("title") == "half"
    with pytest.raises(ValueError):
        Figure.shaded("Shaded", [Piece("x", 1.5)])


def test_a_chart_that_cannot_be_drawn_says_so_in_its_place(tmp_path: Path, visit: Open) -> None:
    broken = {"data": {"values": [{"a": 1}]}, "mark": "nonsense", "encoding": {"x": {"field": "a"}}}
    write_page(
        tmp_path / "p.html", "Run", [("One", [Figure.chart("X", broken), Figure.chart("Y", lines(ROWS))])]
    )
    page, complaints, _ = visit(tmp_path / "p.html")
    assert "could not be drawn" in page.inner_text("main")
    assert complaints != []
    assert page.locator(".drawing svg.marks").count() == 1, "the other chart stands"


def test_a_page_without_charts_needs_no_script(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", "Run", [("One", ["Words."])])
    assert "<script" not in (tmp_path / "p.html").read_text()


def test_an_old_page_survives_a_failed_write(tmp_path: Path) -> None:
    (tmp_path / "p.html").mkdir()
    with pytest.raises(RunError):
        write_page(tmp_path / "p.html", "Run", [])


# -- figures ----------------------------------------------------------------------------------------------------------


def test_missing_values_of_a_chart_are_counted_not_drawn() -> None:
    rows = [
        {"x": 1, "y": math.nan, "arm": "a"},
        {"x": 2, "y": math.inf, "arm": "a"},
        {"x": 3, "y": 1.0, "arm": "a"},
    ]
    figure = Figure.chart("T", lines(rows))
    assert figure.data["missing"] == 2
    assert "NaN" not in str(figure.data["spec"])
    assert Figure.chart("T", lines([])).data["empty"]


def test_a_chart_that_would_fetch_its_data_is_refused() -> None:
    with pytest.raises(ValueError, match="would fetch"):
        Figure.chart("T", {"data": {"url": "https://example.org/x.csv"}, "mark": "point"})


def test_a_table_keeps_missing_apart_from_zero() -> None:
    figure = Figure.table("T", ["a", "b", "c"], [[0, None, "nan"], [1, 2.5, "x"]])
    assert figure.data["rows"][0] == [0, {"missing": "no value"}, {"missing": "not a number"}]
    assert figure.data["numeric"] == [True, True, False]
    with pytest.raises(ValueError, match="3 cells under 2 headings"):
        Figure.table("T", ["a", "b"], [[1, 2, 3]])


def test_pictures_are_png() -> None:
    with pytest.raises(ValueError, match="not a PNG"):
        Figure.picture("T", b"GIF89a")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12345.678, "12,346"),
        (-0.00012, "−1.2×10⁻⁴"),
        (1.5, "1.50"),
        (True, "yes"),
        (0.04999, "0.05"),
        (2.5e9, "2.5×10⁹"),
    ],
)
def test_numbers_as_they_are_read(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("cell", "why"), [(None, "no value"), (math.nan, "not a number"), (-math.inf, "infinite"), (0, None)]
)
def test_what_is_missing(cell: Any, why: str | None) -> None:
    assert missing(cell) == why


def test_a_grid_of_images_keeps_every_pixel() -> None:
    import io

    from PIL import Image

    images = np.random.default_rng(0).integers(256, size=(2, 3, 5, 4), dtype=np.uint8)
    sheet = np.asarray(Image.open(io.BytesIO(image_grid(images, ["a", "b"], scale=2))))
    for row in range(2):
        for column in range(3):
            wanted = images[row, column].repeat(2, 0).repeat(2, 1)
            spots = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], wanted.shape)
            assert (spots == wanted).all((2, 3)).sum() == 1
    for broken in (images.astype(float), images[0], images[:0]):
        with pytest.raises(ValueError, match=r"expected uint8|labels for images"):
            image_grid(broken, ["a", "b"])


def test_both_themes_say_the_same_things() -> None:
    assert theme("light").keys() == theme("dark").keys()
    colours = [re.findall(r"#[0-9a-f]{6}", str(theme(mode))) for mode in ("light", "dark")]  # type: ignore[arg-type]
    assert len(colours[0]) == len(colours[1]) > 8
    assert colours[0] != colours[1]


def test_the_page_of_a_run_is_drawn_from_its_folder(tmp_path: Path) -> None:
    config = {"lr": 0.5, "model": {"name": "m"}}
    with Run.open(tmp_path / "mine", config=config, versions={"python": "3"}) as run:
        for step in (1, 2):
            run.log(step, loss=1 / step)
    (tmp_path / "mine" / "score.json").write_text('{"right": 7}')
    (tmp_path / "mine" / "torn.json").write_text('{"right":')

    def described(record: RunRecord) -> RunPage:
        assert (record.steps, record.file("score.json"), record.file("torn.json")) == (2, {"right": 7}, {})
        figures = log_curves(record.rows, {"Loss": {"loss": "loss"}, "Nothing": {"absent": "absent"}})
        assert [figure.title for figure in figures] == ["Loss"]
        return RunPage("A training", f"{record.steps} steps.", [("While training", figures)])

    page = run_page("toy", described)(tmp_path / "mine", stopped="the loss is NaN").read_text()
    for words in ("A training: mine", "2 steps.", "Stopped: the loss is NaN.", "model.name", "python 3"):
        assert words in page
    with pytest.raises(RunError, match="no run here"):
        run_page("toy", described)(tmp_path)
