"""From a request to a verified report: contracts, charts, resumption, and what a verification finds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st

from noria.core.errors import DataError
from noria.reports.agents.contracts import MOST_VISUALS, Plan, Requirement, SectionPlan, repair_plan
from noria.reports.agents.pipeline import Job, Limits
from noria.reports.agents.requests import demands_of, language_of, read_request
from noria.reports.charts.drawing import draw, png_of_spec, specification, svg_of_spec
from noria.reports.charts.records import KINDS, ChartData, alt_text, check_cells
from noria.reports.charts.specs import values, vega_lite
from noria.reports.checking.verify import verify, verify_bundle, verify_markdown
from noria.reports.document.blocks import figures, sentences
from noria.reports.document.bundle import Bundle, read_bundle
from noria.reports.document.exports import export
from noria.reports.document.markdown import write_markdown
from noria.reports.document.parsing import markers_of, parse_report
from noria.reports.reading.documents import Document, Piece
from noria.reports.search.index import Index, build_index, corpus_documents
from noria.reports.verbs.verify import command
from tests.reports.conftest import REQUEST, lands

Made = tuple[Path, Bundle]


def test_a_request_becomes_a_report_that_verifies(made: Made) -> None:
    folder, bundle = made
    result = verify_bundle(folder)
    assert result.findings == []
    assert result.unchecked == 0
    assert [c.kind for c in bundle.charts.values()] == ["line", "bar"]
    assert [f.path for f in figures(bundle.report)] == ["charts/C1.png", "images/I3.png", "charts/C2.png"]
    assert all(
        s.cites
        for _, s in sentences(bundle.report)
        if re.search(r"\d", s.text.replace("[[fig:", "")) and "fig:" not in s.text
    )


def test_killed_after_any_stage_it_resumes_with_the_same_bytes(
    made: Made, index: Index, tmp_path: Path
) -> None:
    folder, _ = made
    whole = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for kept in sorted((folder / "stages").iterdir()):
        again = tmp_path / kept.stem
        (again / "stages").mkdir(parents=True)
        shutil.copy(kept, again / "stages")
        Job(again, index).write(REQUEST)
        assert {p.name: p.read_bytes() for p in again.rglob("*") if p.is_file()} == whole


def test_a_limit_leaves_a_partial_report_that_says_so(index: Index, tmp_path: Path) -> None:
    bundle = Job(tmp_path, index, limits=Limits(seconds=0.001)).write(REQUEST)
    assert "limit" in bundle.report.stopped
    assert len([m for m in bundle.report.missing if m.why == bundle.report.stopped]) == 2
    assert "partial" in (tmp_path / "report.md").read_text()


def test_without_charts_each_is_listed_with_its_reason(index: Index, tmp_path: Path) -> None:
    bundle = Job(tmp_path, index, charts=False, images=False).write(REQUEST)
    assert figures(bundle.report) == []
    assert [m.id for m in bundle.report.missing] == ["C1", "I3", "C2"]


def test_an_edited_plan_is_kept(index: Index, tmp_path: Path) -> None:
    job = Job(tmp_path, index)
    _, plan = job.plan(REQUEST)
    edited = msgspec.structs.replace(plan, title="My title")
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(edited))
    assert job.write(REQUEST).report.title == "My title"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_corrupted_cells_are_found_exactly(made: Made, tmp_path: Path, count: int) -> None:
    folder, bundle = made
    chart = bundle.charts["C1"]
    rows = [list(row) for row in chart.rows]
    for row in range(count):
        rows[row][-1] = str(Decimal(rows[row][-1]) + 1)
    broken = msgspec.structs.replace(chart, rows=tuple(map(tuple, rows)))
    assert check_cells(chart, bundle.book) == ([], 9)
    assert len(check_cells(broken, bundle.book)[0]) == count
    copy = tmp_path / "r"
    shutil.copytree(folder, copy)
    (copy / "charts" / "C1.json").write_bytes(msgspec.json.encode(broken))
    found = [f for f in verify(copy).findings if ": row" in f.where]
    assert len(found) == count


def _broken(folder: Path, copy: Path, name: str, old: str, new: str) -> list[str]:
    shutil.copytree(folder, copy)
    file = next(path for path in sorted(copy.glob(name)) if old in path.read_text())
    text = file.read_text()
    file.write_text(text.replace(old, new, 1))
    return [f"{f.kind}: {f.what}" for f in verify(copy).findings]


def test_each_thing_that_was_tampered_with_is_found(made: Made, tmp_path: Path) -> None:
    folder, _ = made
    assert any(
        "archived text was changed" in w
        for w in _broken(folder, tmp_path / "a", "archive/*.txt", "7.4%", "9.9%")
    )
    assert any(
        "9.9%: not in what is cited" in w
        for w in _broken(folder, tmp_path / "b", "report.md", "7.4%", "9.9%")
    )
    assert any(
        "not what the source says" in w
        for w in _broken(folder, tmp_path / "c", "ledger.json", '"raw": "7.4%"', '"raw": "8.4%"')
    )
    assert any(
        "does not show" in w for w in _broken(folder, tmp_path / "d", "charts/C1.vl.json", "7.4", "8.4")
    )
    copy = tmp_path / "e"
    shutil.copytree(folder, copy)
    shutil.copy(copy / "charts" / "C2.png", copy / "charts" / "C1.png")
    assert [f.what for f in verify(copy).findings] == ["the picture is not what the specification draws"]


def test_nothing_outside_of_the_folder_is_opened(tmp_path: Path) -> None:
    text = (
        "# T\n\n## A\n\nIt was 5% [1].\n\n![x](../../../../etc/passwd)\n\n![y](file:///etc/passwd)\n\n## "
        "References\n\n[1] A. ../../../etc/passwd\n"
    )
    result = verify_markdown(text, folder=tmp_path)
    assert sum("outside" in f.what or "missing" in f.what for f in result.findings) == 2
    assert result.coverage["sources"].blocked == 1


def test_another_systems_markdown(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text("land,share\nA,12.5\n")
    text = (
        "# T\n\n## Part\n\nA has 12.5% [1]. B has 40% [1, 3].\n\nSee it "
        "below.\n\n![Shares](charts/a.png)\n\n*Figure 2: Shares. [1]*\n\n"
        "## References\n\n[1] Facts. facts.csv\n\n[2] Other. https://example.com/x\n"
    )
    result = verify_markdown(text, folder=tmp_path)
    what = "\n".join(f.what for f in result.findings)
    for part in (
        "[3] is not in the list",
        "[2] is never cited",
        "placeholder",
        "40%: not in",
        "file is missing",
        "figure 1 is numbered 2",
    ):
        assert part in what
    assert "12.5" not in what


def test_numbers_that_cite_nothing_are_findings_and_years_are_not(tmp_path: Path) -> None:
    text = (
        "# T\n\nRevenue was 37 billion in 2024, and fell by 80 %.\n\nIn 2023 it moved, as Figure 2 shows.\n"
    )
    result = verify_markdown(text, folder=tmp_path)
    assert [(f.kind, f.where) for f in result.findings] == [("traceability", "line 3")]
    assert result.coverage["sentences"].unchecked == 1
    assert result.exit_code(strict=False) == 1


@pytest.mark.parametrize(
    "rest", ["Words alone.", "So it was 5% [1].\n\n## References\n\n[1] A. https://a.org/x"]
)
def test_a_report_of_which_nothing_could_be_checked_is_no_success(tmp_path: Path, rest: str) -> None:
    (tmp_path / "r.md").write_text(f"# T\n\n{rest}\n")
    given = CliRunner().invoke(command, [str(tmp_path / "r.md")], standalone_mode=False)
    assert (given.return_value, "nothing could be checked" in given.output) == (1, True)
    assert "0 findings" in given.output


def test_what_follows_the_references_is_read_as_text(tmp_path: Path) -> None:
    text = (
        "# T\n\n## A\n\nIt was 5% [1].\n\n## References\n\n### Web\n\n[1] A. https://a.org/x\n\n"
        "## Outlook\n\nIt will be 9%.\n"
    )
    parsed = parse_report(text)
    assert ([r.number for r in parsed.references], parsed.sentences[-1].line) == ([1], 15)
    assert [f.where for f in verify_markdown(text, folder=tmp_path).findings] == ["line 15"]


def test_a_number_that_was_written_into_a_finished_report_without_a_source_is_found(
    made: Made, tmp_path: Path
) -> None:
    folder, _ = made
    shutil.copytree(folder, tmp_path / "r")
    file = tmp_path / "r" / "report.md"
    file.write_text(file.read_text().replace("\n## ", "\nSpain had 99.9% then.\n\n## ", 1))
    assert any("without a source: Spain" in f.what for f in verify(tmp_path / "r").findings)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("[1]", (1,)),
        ("[1, 3]", (1, 3)),
        ("[2-4]", (2, 3, 4)),
        ('<a href="#ref7">[7]</a>', (7,)),
        ("[[5]](#ref5)", (5,)),
        ("[^8]", (8,)),
        ("[a]", ()),
        ('<a href="#ref²">[2]</a>', ()),
    ],
)
def test_markers_of_every_kind(text: str, numbers: tuple[int, ...]) -> None:
    assert markers_of(f"So it is {text}.") == numbers


def test_our_own_layout_is_parsed_whole(made: Made) -> None:
    folder, bundle = made
    parsed = parse_report((folder / "report.md").read_text())
    assert [f.path for f in parsed.figures] == [f.path for f in figures(bundle.report)]
    assert [f.anchor for f in parsed.figures] == [1, 2, 3]
    assert len(parsed.references) == len(bundle.book.sources)
    assert sum(bool(s.cites) for s in parsed.sentences) == sum(
        bool(s.cites) for _, s in sentences(bundle.report)
    )


def test_code_is_no_citation() -> None:
    parsed = parse_report("# T\n\nText [1].\n\n```\nx = a[2]\n```\n\n## References\n\n[1] A https://a.org\n")
    assert {n for s in parsed.sentences for n in s.cites} == {1}


def test_parsing_takes_time_in_proportion() -> None:
    import time

    def seconds(count: int) -> float:
        text = (
            "# T\n\n"
            + "\n\n".join(f"## S{n}\n\nValue is {n}% [{n}]." for n in range(1, count))
            + "\n\n## References\n\n"
            + "\n".join(f"[{n}] R https://a.org/{n}" for n in range(1, count))
        )
        began = time.perf_counter()
        parse_report(text)
        return time.perf_counter() - began

    seconds(200)
    assert min(seconds(4000) for _ in range(3)) < 16 * max(min(seconds(1000) for _ in range(3)), 0.01)


def test_evidence_is_data_in_every_format(index: Index, made: Made) -> None:
    _, bundle = made
    report = msgspec.structs.replace(bundle.report, title="</title><script>alert(1)</script> \u202eabc")
    hostile = Bundle(report, bundle.book, bundle.charts, bundle.drawn)
    page = hostile.page()
    assert "<script>alert" not in page
    assert "\u202e" not in write_markdown(report, bundle.book)
    assert "<script>" not in write_markdown(report, bundle.book)


def test_exports_open_in_other_libraries(made: Made) -> None:
    import io

    docx, pypdf = pytest.importorskip("docx"), pytest.importorskip("pypdf")
    _, bundle = made
    word = export(bundle, "docx")
    assert len(docx.Document(io.BytesIO(word)).inline_shapes) == 3
    assert export(bundle, "docx") is not word
    import zipfile

    notes = zipfile.ZipFile(io.BytesIO(word)).read("word/footnotes.xml").decode()
    assert "Fact book" in notes
    text = "".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(export(bundle, "pdf"))).pages)
    assert "Unemployment rate" in text
    assert json.loads(export(bundle, "csl"))[0]["type"] == "webpage"
    assert export(bundle, "bib").decode().count("@misc{") == len(bundle.book.sources)


def test_a_bundle_is_read_back_whole(made: Made) -> None:
    folder, bundle = made
    again = read_bundle(folder)
    assert (again.report, again.charts) == (bundle.report, bundle.charts)
    assert again.book == bundle.book


# -- contracts --------------------------------------------------------------------------------------------------------

_visuals = st.lists(
    st.builds(
        Requirement,
        st.sampled_from(["C1", "C2"]),
        st.just("chart"),
        st.just("g"),
        st.sampled_from(["bar", "nonsense"]),
    ),
    max_size=6,
).map(tuple)
_sections = st.lists(
    st.builds(
        SectionPlan,
        st.just("x"),
        st.text("ab", min_size=1, max_size=5),
        st.just(""),
        st.integers(0, 5000),
        _visuals,
    ),
    max_size=9,
).map(tuple)


@settings(max_examples=60)
@given(_sections, st.integers(0, 6000))
def test_every_plan_is_mended_to_the_contract_and_only_once(
    sections: tuple[SectionPlan, ...], words: int
) -> None:
    plan, _ = repair_plan(Plan("t", "en", sections, words=words))
    assert repair_plan(plan) == (plan, [])
    assert len(plan.sections) <= 7
    assert plan.sections[0].visuals == plan.sections[-1].visuals == ()
    assert all(len(s.visuals) <= MOST_VISUALS for s in plan.sections)
    assert len(plan.dropped) + sum(len(s.visuals) for s in plan.sections) == sum(
        len(s.visuals) for s in sections
    )
    body = sum(s.words for s in plan.sections[1:-1])
    edges = plan.sections[0].words + plan.sections[-1].words
    if len(plan.sections) > 2 and words - edges >= 50 * (len(plan.sections) - 2):
        assert body + edges == words


def test_requests_are_read(index: Index) -> None:
    request = read_request(REQUEST + " About 1,200 words.", index)
    assert request.entities == ("France", "Germany", "Japan")
    assert request.measures == ("Unemployment rate", "Median income")
    assert request.words == 1200
    assert [d.kind for d in request.demands] == ["line", "bar", "image"]
    assert language_of("请比较 France 与 Germany 的失业率") == "zh"


def test_the_benchmarks_requests_are_read() -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / "tvir" / "query.json"
    if not path.is_file():
        pytest.skip("TVIR-Bench's tasks are not here")
    tasks = json.loads(path.read_text())
    languages = [language_of(task["query"]) for task in tasks]
    assert (languages.count("zh"), languages.count("en")) == (50, 50)
    assert sum(any(d.kind == "radar" for d in demands_of(task["query"])) for task in tasks) >= 35


# -- charts -----------------------------------------------------------------------------------------------------------


def _chart(kind: str = "bar", names: tuple[str, str] = ("name", "value [tn.]")) -> ChartData:
    rows = (("a", "1,200"), ("b", ""), ("c", "3"))
    return ChartData("C1", kind, "T", names, rows, names[0], names[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("table", "request_", "shown"),
    [
        ("substance,energy in J\nA,1.2e30\nB,3.4e30\nC,2e30\n", "Draw a bar chart of energy in J by substance.", 3),
        (
            "year,energy\n" + "".join(f"{year},{year % 7}\n" for year in range(1999, 2012)) + "total,900\n",
            "Draw a line chart of energy by year.",
            13,
        ),
    ],
)  # fmt: skip
def test_numbers_of_thirty_digits_and_a_line_of_totals_become_a_report(
    tmp_path: Path, table: str, request_: str, shown: int
) -> None:
    (tmp_path / "t.csv").write_text(table)
    warnings: list[str] = []
    build_index(tmp_path / "i", corpus_documents([str(tmp_path / "t.csv")], warnings), retrieved="2026-01-02")
    with Index(tmp_path / "i") as index:
        bundle = Job(tmp_path / "r", index).write(request_)
    assert (warnings, [len(chart.rows) for chart in bundle.charts.values()]) == ([], [shown])
    assert verify_bundle(tmp_path / "r").findings == []


def test_names_with_dots_and_brackets_mean_nothing_to_vega() -> None:
    plain, odd = draw(_chart(names=("name", "value"))), draw(_chart(names=("a.b[0]", "x'y\"z")))
    assert plain.svg.count('aria-roledescription="bar"') == odd.svg.count('aria-roledescription="bar"') == 2


def test_nulls_are_gaps_and_separators_are_read() -> None:
    assert [row["c1"] for row in values(_chart())] == [1200.0, None, 3.0]


def test_the_picture_is_the_same_in_every_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    code = (
        "import hashlib; from noria.reports.charts.drawing import "
        "draw; from noria.reports.charts.records import ChartData;"
        "c = ChartData('C1','line','T',('day','v'),(('2020-01-01','1'),('2020-07-01','2')),'day','v');"
        "print(hashlib.sha256(draw(c).png).hexdigest())"
    )
    import os

    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"TZ": zone},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for zone in ("Asia/Shanghai", "America/Los_Angeles")
    }
    assert len(seen) == 1


def test_months_keep_their_order() -> None:
    chart = ChartData(
        "C1", "bar", "T", ("month", "v"), (("Mar", "1"), ("Jan", "2"), ("Feb", "3")), "month", "v"
    )
    assert vega_lite(chart)["encoding"]["x"]["sort"] == ["Jan", "Feb", "Mar"]


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("map", "diagram", "radar")])
def test_every_kind_is_drawn_and_repeats_its_bytes(kind: str) -> None:
    chart = ChartData(
        "C1",
        kind,
        "T",
        ("year", "who", "v"),
        (("2020", "a", "1"), ("2021", "a", "2"), ("2020", "b", "2")),
        "year",
        "v",
        "who",
    )  # type: ignore[arg-type]
    drawing = draw(chart)
    assert drawing.png[:4] == b"\x89PNG"
    assert png_of_spec(drawing.spec, "C1") == drawing.png
    assert "2" in alt_text(chart)


def test_what_cannot_be_drawn_says_why() -> None:
    with pytest.raises(DataError, match="three indicators"):
        draw(ChartData("C1", "radar", "T", ("a", "b"), (("x", "1"), ("y", "2")), "a", "b"))
    with pytest.raises(DataError, match="borders"):
        draw(_chart("map"))
    with pytest.raises(DataError, match="without rows"):
        draw(ChartData("C1", "bar", "T", ("a", "b"), (), "a", "b"))


def test_no_specification_reads_a_file_or_an_address() -> None:
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "data": {"url": "file:///etc/passwd", "format": {"type": "csv"}},
        "mark": "point",
        "encoding": {"x": {"field": "root"}},
    }
    with pytest.raises(DataError, match="names an address"):
        png_of_spec(spec, "x")


TRIANGLE = [[[0, 0], [10, 0], [-5, 10], [-5, -10]], [[20, 0], [10, 0], [-5, 10], [-5, -10]]]
BORDERS = {
    "type": "Topology",
    "arcs": TRIANGLE,
    "objects": {
        "countries": {
            "type": "GeometryCollection",
            "geometries": [
                {"type": "Polygon", "arcs": [[0]], "id": 250},
                {"type": "Polygon", "arcs": [[1]], "id": "410"},
            ],
        }
    },
}


def test_a_map_knows_countries_by_number_and_names_those_it_lacks() -> None:
    rows = (("France", "1"), ("South Korea", "2"), ("Atlantis", "3"))
    chart = ChartData("C1", "map", "Lands", ("who", "v"), rows, "who", "v")
    spec = specification(chart, countries=BORDERS)
    shapes = spec["layer"][0]["data"]["values"]["objects"]["countries"]["geometries"]
    assert [shape["properties"]["name"] for shape in shapes] == ["France", "South Korea"]
    assert "Atlantis" in spec["title"]["subtitle"]
    plain = specification(msgspec.structs.replace(chart, rows=rows[:2]), countries=BORDERS)
    assert "subtitle" not in plain["title"]
    fills = [set(re.findall(r'fill="(#[0-9a-f]{6}|rgb[^"]*)"', svg_of_spec(s, "C1"))) for s in (spec, plain)]
    assert all(len(fill) >= 3 for fill in fills)  # the ground, and a colour for each of two values
    with pytest.raises(DataError, match="no country"):
        specification(msgspec.structs.replace(chart, rows=rows[2:]), countries=BORDERS)


def test_what_was_cut_is_not_called_the_lowest(tmp_path: Path) -> None:
    documents = [
        Document(
            f"l/{n}.json",
            f"Land{n}",
            pieces=[Piece(f"{n}% (2024)", "X > Tax", f"Land{n}", "Tax rate")],
            origin=b"",
        )
        for n in range(1, 31)
    ]
    build_index(tmp_path / "i", documents, retrieved="")
    with Index(tmp_path / "i") as index:
        bundle = Job(tmp_path / "r", index).write("The tax rate of all lands")
    text = " ".join(s.text for _, s in sentences(bundle.report))
    assert "highest in Land30" in text
    assert "lowest" not in text


def test_a_table_of_scaled_units_is_written_without_a_finding(tmp_path: Path) -> None:
    (tmp_path / "freight.csv").write_text(
        "year,river,freight (million t)\n2022,Rhine,155\n2023,Rhine,149\n2022,Danube,30\n2023,Danube,31\n"
    )
    build_index(
        tmp_path / "i.index", corpus_documents([str(tmp_path / "freight.csv")], []), retrieved="2026-01-02"
    )
    with Index(tmp_path / "i.index") as opened:
        bundle = Job(tmp_path / "r", opened).write(
            "How did the freight on the Rhine and on the Danube change from 2022 to 2023? Draw a line chart of it."
        )
    assert (
        bundle.report.title == "How did the freight on the Rhine and on the Danube change from 2022 to 2023?"
    )
    text = (tmp_path / "r" / "report.md").read_text()
    assert "In 2023, freight was 149 million t in Rhine and 31 million t in Danube" in text
    assert bundle.charts["C1"].columns[1] == "river"
    assert verify_bundle(tmp_path / "r").findings == []


def test_tables_without_a_description_are_found_by_their_columns_and_names(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.csv").write_text(
        "year,river,freight (t)\n2022,Rhine,155\n2023,Rhine,149\n2022,Danube,30\n2023,Danube,31\n"
    )
    (files / "b.md").write_text(
        "# Waters\n\n| river | length (km) | basin |\n|---|---|---|\n| Rhine | 1,230 | 9 |\n| Danube | 2,850 | 8 |\n"
    )
    (files / "c.csv").write_text("year,town,people\n2022,Ulm,1\n2023,Ulm,2\n")
    build_index(tmp_path / "i.index", corpus_documents([str(files)], []), retrieved="2026-01-02")
    text = "The freight of the Danube by year, as a line chart. Compare the lengths of rivers in a bar chart."
    with Index(tmp_path / "i.index") as opened:
        assert [opened.source(hit.id).url for hit in opened.search("towns", tables=True)] == ["c.csv"]
        bundle = Job(tmp_path / "r", opened).write(text)
    shown = {chart.id: (chart.kind, chart.y) for chart in bundle.charts.values()}
    assert shown == {"C1": ("line", "freight (t)"), "C2": ("bar", "length (km)")}
    assert verify_bundle(tmp_path / "r").findings == []
    assert "; length (km)" not in (tmp_path / "r" / "report.md").read_text()  # the description is no prose


def test_a_sentence_on_a_table_has_its_section_beside_those_on_measures(tmp_path: Path) -> None:
    path = tmp_path / "freight.csv"
    path.write_text(
        "year,river,freight (t)\n2022,Rhine,155\n2023,Rhine,149\n2022,Danube,30\n2023,Danube,31\n"
    )
    build_index(tmp_path / "i.index", [*lands(), *corpus_documents([str(path)], [])], retrieved="2026-01-02")
    text = (
        "Compare the unemployment rate of France and Japan in a bar chart. "
        "How did the freight on the Danube and the Rhine change? Draw a line chart of the freight."
    )
    with Index(tmp_path / "i.index") as opened:
        plan = Job(tmp_path / "r", opened).plan(text)[1]
        alone = read_request(text.partition(". ")[0], opened)
    titles = [(section.title, [one.chart for one in section.visuals]) for section in plan.sections[1:-1]]
    assert titles == [("Unemployment rate", ["bar"]), ("Freight", ["line"])]
    assert alone.beside == ()


def test_a_hostile_ledger_or_chart_is_one_line(made: Made, tmp_path: Path) -> None:
    def broken(name: str, change: Callable[[Any], None]) -> Path:
        copy = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(made[0], copy, ignore=shutil.ignore_patterns("stages"))
        value = json.loads((copy / name).read_text())
        change(value)
        (copy / name).write_text(json.dumps(value))
        return copy

    def circle(book: Any) -> None:
        entry = next(
            iter(book["derived"].values()), {"operation": "sum", "value": "1", "unit": "", "label": ""}
        )
        book["derived"] = {
            id: entry | {"id": id, "operands": [other]} for id, other in (("D1", "D2"), ("D2", "D1"))
        }

    def chain(book: Any) -> None:
        circle(book)
        entry = book["derived"]["D1"]
        book["derived"] = {f"D{n}": entry | {"id": f"D{n}", "operands": [f"D{n + 1}"]} for n in range(3000)}

    for name, change, why in (
        ("ledger.json", circle, "follow from each other"),
        ("ledger.json", chain, "more than 100 times"),
        ("charts/C1.json", lambda chart: chart["rows"][0].append("1"), "more or fewer cells"),
    ):
        with pytest.raises(DataError, match=why):
            verify(broken(name, change))
    odd = {"layer": ["x", {"transform": [1, {"lookup": "a"}, {"lookup": "a", "from": 3}]}], "data": 3}
    for key, value in odd.items():
        changed = broken("charts/C1.vl.json", lambda spec, key=key, value=value: spec.update({key: value}))
        with contextlib.suppress(DataError):  # Vega refuses it
            assert any("does not show" in f.what for f in verify(changed).findings)

    source, archived = next(iter(made[1].book.sources)), hashlib.sha256(b"\xff").hexdigest()
    copy = broken("ledger.json", lambda book: book["sources"][source].update(sha256=archived))
    (copy / "archive" / f"{archived}.txt").write_bytes(b"\xff")
    assert any("no text in UTF-8" in f.what for f in verify(copy).findings)


@pytest.mark.parametrize(
    "opening",
    ["<figure ", '<a href="#ref1">', "<img ", "<figure><figcaption>", "[[1", "![a](", "<figure><img "],
)
def test_a_thing_that_is_opened_again_and_again_and_never_closed_is_read_in_one_pass(opening: str) -> None:
    def seconds(times: int) -> float:
        began = time.process_time()
        verify_markdown("# T\n\nIt was 5. " + opening * times + "\n", folder=None)
        return time.process_time() - began

    seconds(10)
    assert seconds(40_000) < 8 * max(
        0.05, seconds(10_000)
    )  # four times the text: a quadratic reader takes 16 times
