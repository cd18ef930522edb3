"""Speed of reports against named peers: parsing, search, duplicates, charts; and growth with the size of a report."""

from __future__ import annotations

import importlib.metadata
import io
import random
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from noria.reports.charts.drawing import draw
from noria.reports.charts.records import Cell, ChartData
from noria.reports.checking.verify import verify_bundle
from noria.reports.document.blocks import FigureBlock, Paragraph, Report, Section, Sentence
from noria.reports.document.bundle import Bundle
from noria.reports.document.parsing import parse_report
from noria.reports.evaluation.duplicates import THRESHOLD, jaccard, near_duplicates, shingles
from noria.reports.evidence.records import Book, Fact, Passage, Source
from noria.reports.reading.documents import parted
from noria.reports.reading.packages import read_factbook
from noria.reports.search.index import Index, build_index
from noria.reports.search.terms import query_terms

if TYPE_CHECKING:
    from noria.core.proofs.bench import Benchmark, Row

QUERIES = (
    "unemployment rate",
    "nuclear share of electricity",
    "life expectancy",
    "crude oil reserves",
    "major rivers",
)


def benchmarks(*, rounds: int = 5) -> Benchmark:
    """Measure every figure; each side runs in this process, in alternation."""
    from noria.core.proofs.bench import Benchmark

    rows = [_parsing(rounds), *_search(rounds), _duplicates(rounds), _charts(rounds), *_growth()]
    return Benchmark("reports", rows)


def _peer(*packages: str) -> str:
    return " + ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def _parsing(rounds: int) -> Row:
    """References, citations and figures of a report of 100 sections, against markdown-it and plain regexes."""
    from markdown_it import MarkdownIt

    text = long_report(100)

    def theirs() -> tuple[int, int, int]:
        cited = figures = 0
        body, _, listed = text.partition("## References")
        for token in MarkdownIt("commonmark").parse(body):
            if token.type == "inline":
                for sentence in re.split(r"(?<=[.!?])\s+", token.content):
                    cited += bool(re.findall(r'<a href="#ref(\d+)">', sentence))
            elif token.type == "html_block":
                figures += len(
                    re.findall(r"<figure>.*?<figcaption[^>]*>(.*?)</figcaption>", token.content, re.DOTALL)
                )
        references = re.findall(r'<a id="ref(\d+)"></a> \[\d+\] (.*?) (\S+)$', listed, re.MULTILINE)
        return len(references), cited, figures

    return _timed(
        "parse 100 sections", "markdown-it-py", (lambda: parse_report(text), theirs), rounds, goal=1.0
    )


def long_report(sections: int) -> str:
    """A report of sections with sentences, citations and a figure each, in our layout."""
    parts = ["# Report"]
    for n in range(1, sections + 1):
        said = " ".join(
            f'The value of part {k} was {k * 1.5} percent in 2023 <a href="#ref{n}">[{n}]</a>.'
            for k in range(12)
        )
        caption = f'Figure {n}: Part. Source: <a href="#ref{n}">[{n}]</a>.'
        image = f'<img src="charts/C{n}.png" alt="bar">'
        figure = f'<figure>{image}<figcaption id="fig{n}">{caption}</figcaption></figure>'
        parts += [f"## Section {n}", said, f'See <a href="#fig{n}">Figure {n}</a> for more.', figure]
    listed = "\n\n".join(
        f'<a id="ref{n}"></a> [{n}] Office (2023). Title {n}. https://a.org/{n}'
        for n in range(1, sections + 1)
    )
    return "\n\n".join([*parts, "## References", listed]) + "\n"


def _search(rounds: int) -> list[Row]:
    """Queries against rank_bm25 and bm25s on the passages of the World Factbook; ten results each."""
    import bm25s
    from rank_bm25 import BM25Okapi

    documents = list(read_factbook())
    texts = [
        f"{d.title} {p.heading} {p.text[start:end]}"
        for d in documents
        for p in d.pieces
        for start, end in parted(p.text)
    ]
    tokens = [query_terms(text) for text in texts]
    queries = [f"{what} {where}" for what in QUERIES for where in ("Germany", "Kenya", "Brazil", "Viet Nam")]
    okapi = BM25Okapi(tokens)
    sparse = bm25s.BM25()
    sparse.index(tokens, show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "i"
        build_index(path, documents, retrieved="")
        with Index(path) as index:

            def ours(asked: list[str]) -> Callable[[], Any]:
                return lambda: [index.search(q, 10) for q in asked]

            def theirs() -> Any:
                return [sparse.retrieve([query_terms(q)], k=10, show_progress=False) for q in queries]

            few = queries[:3]

            def slow() -> Any:
                return [okapi.get_top_n(query_terms(q), texts, 10) for q in few]

            return [
                _timed("3 queries", "rank-bm25", (ours(few), slow), rounds, goal=20.0),
                _timed("20 queries", "bm25s", (ours(queries), theirs), rounds, goal=1.0),
            ]


def _timed(
    name: str, peer: str, sides: tuple[Callable[[], Any], Callable[[], Any]], rounds: int, goal: float
) -> Row:
    """Seconds of ours and theirs, in alternation."""
    from noria.core.proofs.bench import Row, alternate

    timing = alternate(*sides, rounds=rounds)
    return Row.of(name, _peer(peer), "s", timing.ours, timing.theirs, better="lower", goal=goal)


def _duplicates(rounds: int) -> Row:
    """Near duplicates among 1,500 sentences against all pairs; recall is checked and must be .98."""
    from noria.core.proofs.bench import Row, alternate

    rng = random.Random(3)
    base = [" ".join(f"w{rng.randrange(900)}" for _ in range(18)) for _ in range(1200)]
    texts = base + [re.sub(r"w\d+", "changed", one, count=1) for one in base[:300]]

    def theirs() -> list[tuple[int, int]]:
        sets = [shingles(text) for text in texts]
        return [
            (a, b)
            for a in range(len(sets))
            for b in range(a + 1, len(sets))
            if jaccard(sets[a], sets[b]) >= THRESHOLD
        ]

    exact = theirs()
    recall = len(set(near_duplicates(texts)) & set(exact)) / len(exact)
    if recall < 0.98:
        raise AssertionError(f"a recall of {recall:.3f}")
    timing = alternate(lambda: near_duplicates(texts), theirs, rounds=max(2, rounds // 2), warmup=0)
    return Row.of(
        f"duplicates of 1,500, recall {recall:.3f}",
        "all pairs",
        "s",
        timing.ours,
        timing.theirs,
        better="lower",
        goal=20.0,
    )


def _charts(rounds: int) -> Row:
    """PNG of a line chart of 120 points against matplotlib at 300 dpi."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from noria.reports.charts.drawing import png_of_spec, specification

    chart = sample_chart("C1", 40)
    spec = specification(chart)

    def theirs() -> bytes:
        figure, axes = pyplot.subplots(figsize=(6.4, 3.4))
        for name in sorted(set(chart.column("who"))):
            rows = [row for row in chart.rows if row[1] == name]
            axes.plot([int(row[0]) for row in rows], [float(row[2]) for row in rows], marker="o", label=name)
        axes.legend()
        axes.set_title(chart.title)
        out = io.BytesIO()
        figure.savefig(out, dpi=300, bbox_inches="tight")
        pyplot.close(figure)
        return out.getvalue()

    return _timed("chart to PNG", "matplotlib", (lambda: png_of_spec(spec, "C1"), theirs), rounds, goal=3.0)


def sample_chart(id: str, years: int) -> ChartData:
    """A line chart of three series, each cell with a fact `S1#f…`."""
    rows = tuple((str(1980 + n), who, str(n * 1.5 + k)) for k, who in enumerate("abc") for n in range(years))
    cells = tuple(Cell(n, "v", f"S1#f{n}") for n in range(len(rows)))
    return ChartData(
        id, "line", "Values of a, b and c", ("year", "who", "v"), rows, "year", "v", "who", "", cells
    )


def _growth() -> list[Row]:
    """Rendering and verification of 300 figures against three times that of 100: time, and the peak of memory."""
    import tracemalloc

    from noria.core.proofs.bench import Row

    seconds: dict[int, float] = {}
    peaks: dict[int, float] = {}
    _render(5)
    for count in (100, 300):
        tracemalloc.start()
        began = time.process_time()
        _render(count)
        seconds[count] = time.process_time() - began
        peaks[count] = float(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return [
        Row.of(
            "300 figures, processor time",
            "3 × 100 figures",
            "s",
            [seconds[300]],
            [3 * seconds[100]],
            better="lower",
            goal=0.8,
        ),
        Row.of(
            "300 figures, memory",
            "3 × 100 figures",
            "bytes",
            [peaks[300]],
            [3 * peaks[100]],
            better="lower",
            goal=0.8,
        ),
    ]


def _render(count: int) -> None:
    """Write and verify a bundle of as many figures."""
    book = Book()
    chart = sample_chart("C1", 8)
    text = "\n".join(row[2] for row in chart.rows)
    from decimal import Decimal

    from noria.reports.evidence.records import digest

    book.add(
        Source("S1", "text", "a.md", "A", sha256=digest(text)), Passage("S1#p0", "S1", 0, len(text), text)
    )
    for n, row in enumerate(chart.rows):
        book.add(Fact(f"S1#f{n}", "a", f"v{n}", Decimal(row[2]), "", row[0], row[2], "S1#p0"))
    charts = {
        f"C{n}": msgspec.structs.replace(chart, id=f"C{n}", title=f"Chart {n}") for n in range(1, count + 1)
    }
    drawn: dict[str, dict[str, bytes]] = {}
    sections = []
    from noria.reports.evidence.records import encode

    for id, one in charts.items():
        made = draw(one)
        drawn[id] = {"png": made.png, "svg": made.svg.encode(), "spec": encode(made.spec).encode()}
        said = Paragraph((Sentence(f"[[fig:{id}]] shows it, from {chart.rows[0][2]} on.", ("S1#f0",)),))
        sections.append(
            Section(
                id, f"Part {id}", (said, FigureBlock(id, "Values", "line", f"charts/{id}.png", ("S1#f0",)))
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        Bundle(Report("T", "en", tuple(sections)), book, charts, drawn).write(home)
        (home / "archive" / f"{digest(text)}.txt").write_text(text)
        findings = verify_bundle(home).findings
        if findings:
            raise AssertionError(f"{len(findings)} findings, the first: {findings[0]}")


__all__: list[Any] = ["benchmarks"]
