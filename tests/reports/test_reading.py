"""Reading and the index: what is read, what is left out with its reason, and what hostile files do."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import shutil
import socket
import sqlite3
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from noria.core.errors import DataError, NoriaError, RunError
from noria.core.fetching import check_address, fetch, offline
from noria.reports.figures.pictures import open_picture
from noria.reports.reading.data import read_delimited, read_json_data, read_parquet
from noria.reports.reading.folders import read_corpus
from noria.reports.reading.markup import decode_page, read_html, read_markdown
from noria.reports.reading.office import check_zip, read_docx, read_pdf, read_xlsx
from noria.reports.search.index import Index, build_index
from noria.reports.search.protocol import Hit, SourceRules, fuse
from noria.reports.verbs import group
from tests.reports.conftest import Corpus, lands, png


def test_what_is_left_out_is_named(corpus: Corpus) -> None:
    text = "\n".join(corpus.warnings)
    for word in ("broken.pdf", "JavaScript", "'.exe'"):
        assert word in text
    assert corpus.counts["pictures"] == 1
    assert corpus.counts["facts"] == 12


def test_a_passage_is_a_slice_of_its_archived_text(index: Index) -> None:
    for query in ("Loire long", "unemployment France", "coal use"):
        passage = index.passage(index.search(query, 1)[0].id)
        assert passage is not None
        assert index.text(passage.source)[passage.start : passage.end] == passage.text


def test_the_best_hit_is_the_one_that_says_it(index: Index) -> None:
    best = index.search("unemployment rate Germany 2023", 1)[0]
    assert (best.title, best.heading) == ("Germany. Fact book", "Economy > Unemployment rate > 2023")
    assert index.search("zzz qqq") == []


def test_scripts_are_not_text() -> None:
    (page,) = read_html(
        b"<title>T</title><script>alert(1)</script><p>One&nbsp;two <b>three</b></p><style>p{}</style>", "u"
    )
    assert [piece.text for piece in page.pieces] == ["One two three"]


@pytest.mark.parametrize(
    "raw",
    [
        "温度为 25".encode(),
        "温度为 25".encode("gb18030"),
        b'<meta charset="gb2312">' + "温度为 25".encode("gb2312"),
    ],
    ids=["utf8", "gb", "named"],
)
def test_chinese_pages_are_decoded(raw: bytes) -> None:
    assert "温度为 25" in decode_page(raw)


@pytest.mark.parametrize(
    ("name", "raw", "why"),
    [
        ("a.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), "compressed"),
        ("a.md", bz2.compress(b"# T"), "compressed"),
        ("a.html", b"<p>\0</p>", "NUL characters"),
        ("a.jsonl", b'{"a": 1}\n{"a": ' + b"9" * 400 + b"}", "a.jsonl:2"),
        ("a.json", b"[" * 3000, "nested"),
        ("a.csv", b",".join(b"c%d" % n for n in range(10_001)) + b"\n1\n", "10,000 columns"),
        ("a.csv", b"c," * 4999 + b"c\n" + b"1\n" * 5000, "20,000,000 cells"),
        ("a.json", json.dumps([{str(n): 1} for n in range(21_000)]).encode() , "cells"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_left_out_with_its_reason(tmp_path: Path, name: str, raw: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(raw)
    ((document, warning),) = read_corpus(str(tmp_path))
    assert document is None
    assert why in warning
    assert name in warning


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("# 温度\n".encode("utf-16"), "# 温度\n"),
        (b'<meta charset="idna"><p>' + b"a" * 80 + b".", None),
        (b'<meta charset="punycode"><p>x', None),
        (b'<meta charset="raw_unicode_escape"><p>\\ud800', None),
        (b'<meta charset="hex"><p>x', None),
        (b'<meta charset="utf7"><p>+ADw-', None),
        (b'<meta charset="U7"><p>+ADw-', None),
        (b'<meta charset="raw-unicode-escape"><p>\\u0041', None),
    ],
)
def test_an_encoding_that_is_named_is_one_or_is_ignored(raw: bytes, text: str | None) -> None:
    assert decode_page(raw) == (raw.decode() if text is None else text)


def test_only_line_feeds_end_the_lines_of_tables_and_records() -> None:
    odd = "a\u2028b\u0085c"
    (table,) = read_delimited(f"x,y\n{odd},1\nq,2\n".encode(), "t.csv")
    assert table.table is not None
    assert len(table.table.rows) == 2
    (lines,) = read_json_data(f'{{"x": "{odd}"}}\n{{"x": NaN}}\n{{"x": Infinity}}'.encode(), "t.jsonl")
    assert lines.table is not None
    assert [row[0] for row in lines.table.rows] == ["a b c", "", "inf"]


def test_a_packed_column_and_a_span_are_measured_before_they_are_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"a": ["x" * 10_000] * 500}), out)
    assert len(out.getvalue()) < 20_000
    (read,) = read_parquet(out.getvalue(), "t.parquet")
    assert read.table is not None
    assert len(read.table.rows) == 500
    monkeypatch.setattr("noria.reports.reading.data.LARGEST_UNPACKED", 1_000_000)
    with pytest.raises(DataError, match="unpacks to more"):
        read_parquet(out.getvalue(), "t.parquet")

    docx = pytest.importorskip("docx")
    file = docx.Document()
    file.add_table(2, 1).cell(0, 0)._tc.grid_span = 2_000_000_000
    saved = io.BytesIO()
    file.save(saved)
    with pytest.raises(DataError, match="columns"):
        read_docx(saved.getvalue(), "t.docx")


def test_tables_of_a_package_are_named_where_they_are_left_out_and_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "p" / "data").mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    (tmp_path / "p" / "data" / "bad.csv").write_bytes(gzip.compress(b"a", mtime=0))
    (tmp_path / "p" / "data" / "good.csv").write_text("a,b\n1,2\n")
    tables = [{"type": "table", "path": path} for path in ("../../secret.csv", "bad.csv", "good.csv")]
    described = {"resources": ["x", *tables, tables[-1] | {"licenses": [1], "sources": 2}]}
    (tmp_path / "p" / "datapackage.json").write_text(json.dumps(described))
    given = list(read_corpus(str(tmp_path / "p")))
    assert [document.url for document, _ in given if document] == ["vega-datasets/data/good.csv"] * 2
    warnings = [warning for document, warning in given if document is None]
    assert ["does not stay inside" in warnings[0], "compressed" in warnings[1]] == [True, True]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE about SET value = 'x' WHERE name = 'counts'",
        "UPDATE facts SET value = 'many'",
        "UPDATE facts SET value = 'NaN'",
        "UPDATE sources SET text = x'00'",
        "UPDATE tables SET cells = x'00'",
    ],
)
def test_a_damaged_value_of_an_index_is_one_line(corpus: Corpus, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "i"
    shutil.copy(corpus.index, path)
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute(damage)
        base.commit()
    with pytest.raises(DataError, match="index"), Index(path) as opened:
        opened.facts(), opened.text("S1"), opened.table(opened.table_sources()[0])


def test_an_id_that_nothing_has_gives_nothing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    for id in ("S1#p" + "9" * 30, "S" + "9" * 5000 + "#p1", "S1#p²", "S1#p"):
        assert index.passage(id) is None
    table = index.table_sources()[0]
    for place in ("rxcy", "r" + "9" * 5000 + "c1", "f²", "f" + "9" * 30):
        assert index.fact(f"{table}#{place}") is None
    monkeypatch.setattr("noria.reports.search.index.LARGEST_CONTENT", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        index.text("S1")


def test_deep_and_broken_markup_ends() -> None:
    read_html(b"<a>" * 20_000 + b"<table><tr><td>x", "u")
    read_markdown(b"[a](" * 50_000, "u")


def test_a_packed_bomb_is_refused_before_it_is_unpacked() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * 30_000_000)
    with pytest.raises(DataError, match="unpacks to"):
        read_docx(out.getvalue(), "bomb.docx")
    with pytest.raises(DataError, match="damaged"):
        check_zip(b"PK\x03\x04", "x.xlsx")


def test_office_files_are_read() -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["year", "n.m"])
    book.active.append([2020, 3.5])
    out = io.BytesIO()
    book.save(out)
    (document,) = read_xlsx(out.getvalue(), "b.xlsx")
    assert document.table is not None
    assert document.table.rows == (("2020", "3.5"),)
    with pytest.raises(NoriaError):
        read_pdf(b"%PDF-1.7\n garbage", "g.pdf")


@pytest.mark.parametrize(
    "data",
    [b"", b"<svg onload='x()'/>", png()[:200], b"GIF89a" + b"\xff" * 8],
    ids=["empty", "svg", "cut", "gif"],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        open_picture(data, "p")


def test_too_many_pixels_are_refused() -> None:
    out = io.BytesIO()
    Image.new("1", (8000, 8000)).save(out, format="PNG")
    assert len(out.getvalue()) < 50_000
    with pytest.raises(DataError, match="pixels"):
        open_picture(out.getvalue(), "bomb")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://127.0.0.1/",
        "http://169.254.169.254/x",
        "http://[::1]/",
        "http://10.0.0.1/",
        "ftp://a.org/",
        "http://u:p@a.org/",
        "http://a.org:22/",
        "http://[::ffff:127.0.0.1]/",
    ],
)
def test_addresses_that_are_not_the_public_web_are_refused(url: str) -> None:
    with pytest.raises(DataError):
        check_address(
            url,
            resolver=lambda host, port: (
                [host.strip("[]")] if host[0].isdigit() or ":" in host else ["93.184.216.34"]
            ),
        )


def test_a_redirect_to_loopback_is_refused() -> None:
    httpx2 = pytest.importorskip("httpx2")

    def answer(request: object) -> object:
        return httpx2.Response(302, headers={"location": "http://127.0.0.1/secret"})

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    with pytest.raises(DataError, match="not public"):
        fetch(
            "http://example.org/",
            client=client,
            resolver=lambda host, port: ["127.0.0.1" if host.startswith("127") else "93.184.216.34"],
        )


def test_offline_forbids_sockets_and_gives_them_back() -> None:
    with offline(), pytest.raises(RunError, match="--offline"):
        socket.create_connection(("127.0.0.1", 9))
    with offline(), pytest.raises(RunError, match="look-up"):
        socket.getaddrinfo("example.org", 80)
    assert socket.getaddrinfo("127.0.0.1", 80)


def test_fusion_is_reciprocal_rank_with_rules() -> None:
    def hit(url: str) -> Hit:
        return Hit("", url, url, 1.0)

    first = [hit("https://a.org/1"), hit("https://b.org/1"), hit("https://x.a.org/2")]
    second = [hit("https://b.org/1"), hit("https://c.org/1")]
    assert fuse([first, second], SourceRules(), 9)[0].url == "https://b.org/1"
    assert [h.url for h in fuse([first, second], SourceRules(never=("a.org",), prefer=("c.org",)), 9)] == [
        "https://c.org/1",
        "https://b.org/1",
    ]
    assert len(fuse([[hit(f"https://a.org/{n}") for n in range(9)]], SourceRules(per_domain=2), 9)) == 2
    assert not SourceRules(until="2020").allows("u", "2021-05-01")


def test_the_same_corpus_gives_the_same_ids(corpus: Corpus, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_index(tmp_path / name, lands(), retrieved="2026-01-02")
    with Index(tmp_path / "a") as one, Index(tmp_path / "b") as other:
        assert one.facts() == other.facts()


def test_a_damaged_index_is_one_line(tmp_path: Path) -> None:
    for raw in (b"", b"SQLite format 3\0" + b"\0" * 200, b"text"):
        (tmp_path / "i").write_bytes(raw)
        with pytest.raises(DataError):
            Index(tmp_path / "i")
    with sqlite3.connect(tmp_path / "j") as base:
        base.execute("CREATE TABLE about (name, value)")
    with pytest.raises(DataError, match="version"):
        Index(tmp_path / "j")
    with pytest.raises(DataError, match="nothing to index"):
        build_index(tmp_path / "k", [], retrieved="")
    assert not (tmp_path / "k").exists()


def test_web_services_are_asked_by_their_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    httpx2 = pytest.importorskip("httpx2")
    from noria.core.errors import ConfigError
    from noria.reports.search.web import WebSearch, gather

    monkeypatch.setenv("TAVILY_API_KEY", "secret-key")
    seen = []

    def answer(request):
        seen.append(request)
        if request.url.host == "searx.example":
            return httpx2.Response(
                200, json={"results": [{"url": "https://a.org/1", "title": "A"}, {"url": "file:///x"}]}
            )
        return httpx2.Response(500)

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    warnings: list[str] = []
    services = [WebSearch("searxng", "https://searx.example", client), WebSearch("tavily", client=client)]
    hits = gather(services, ["coal"], SourceRules(), 5, warnings)
    assert [hit.url for hit in hits] == ["https://a.org/1"]
    assert warnings == ["tavily: the service answers 500"]
    assert seen[1].headers["authorization"] == "Bearer secret-key"
    assert "authorization" not in seen[0].headers
    monkeypatch.delenv("TAVILY_API_KEY")
    with pytest.raises(ConfigError, match="no key"):
        WebSearch("tavily")


def test_a_service_is_read_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    httpx2 = pytest.importorskip("httpx2")
    from noria.reports.search import web

    given = []

    def endless() -> Iterator[bytes]:
        while True:
            given.append(1)
            yield b" " * 1_000_000

    for content, why in ((endless(), "more than"), (b"[" * 100_000, "nested"), (b"{", "not JSON")):
        client = httpx2.Client(
            transport=httpx2.MockTransport(
                lambda request, content=content: httpx2.Response(200, content=content)
            )
        )
        with pytest.raises(RunError, match=why):
            web.WebSearch("searxng", "https://searx.example", client).search("coal")
    assert len(given) <= 6


def test_errors_of_an_mcp_server_do_not_tell_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mcp")
    from noria.reports.search.mcp import McpSearch

    for server, name in (
        ("https://mcp.example/mcp/?apiKey=secret", "mcp.example"),
        ("/opt/tools/searcher --key=secret", "searcher"),
    ):

        async def fail(*_: object) -> None:
            raise OSError("refused")

        monkeypatch.setattr(McpSearch, "_search", fail)
        with pytest.raises(RunError, match=f"^{name}: no results: OSError") as error:
            McpSearch(server).search("coal")
        assert "secret" not in str(error.value)


def test_rules_of_sources_hold_for_an_index_of_local_files(corpus: Corpus, tmp_path: Path) -> None:
    words = [
        "index",
        str(corpus.folder),
        "-o",
        str(tmp_path / "i"),
        "-q",
        "--never",
        "sales.csv",
        "--never",
        "temps.json",
    ]
    given = CliRunner().invoke(group, words)
    assert "sales.csv: refused by the rules of sources" in given.stderr
    with Index(tmp_path / "i") as opened:
        urls = {opened.source(id).url for id in opened.table_sources()}
    assert urls == {"notes.md#table-1"}


def test_fetched_pages_become_documents_or_warnings() -> None:
    httpx2 = pytest.importorskip("httpx2")
    from noria.reports.search.web import read_pages

    def answer(request):
        if "js" in str(request.url):
            return httpx2.Response(200, html="<p>Please enable JavaScript</p>")
        if "big" in str(request.url):
            return httpx2.Response(200, headers={"content-type": "video/mp4"}, content=b"x")
        return httpx2.Response(200, html="<title>T</title><p>Coal fell by 12%.</p>")

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    warnings: list[str] = []
    urls = ["https://a.org/ok", "https://a.org/js", "https://a.org/big", "http://localhost/x"]
    pages = list(
        read_pages(
            urls,
            warnings,
            client=client,
            resolver=lambda host, port: ["127.0.0.1" if host == "localhost" else "93.184.216.34"],
        )
    )
    assert [page.title for page in pages] == ["T"]
    assert len(warnings) == 3


def _scan() -> bytes:
    """A PDF whose one page is a picture of two lines."""
    from PIL import ImageDraw, ImageFont

    page = Image.new("RGB", (1240, 500), "white")
    font = ImageFont.load_default(size=40)
    for top, line in (
        (80, "Annual report of the harbour"),
        (220, "In 2023 the harbour handled 4,812 ships."),
    ):
        ImageDraw.Draw(page).text((80, top), line, fill="black", font=font)
    out = io.BytesIO()
    page.save(out, format="PDF", resolution=150)
    return out.getvalue()


def test_a_scanned_page_is_read_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from noria.reports.integrations import ocr

    monkeypatch.setitem(sys.modules, "rapidocr", None)
    ocr._engine.cache_clear()
    (document,) = read_pdf(_scan(), "scan.pdf")
    assert document.empty
    assert "[ocr]" in document.warnings[0]
    monkeypatch.undo()
    pytest.importorskip("rapidocr")
    (document,) = read_pdf(_scan(), "scan.pdf")
    assert "4,812" in document.pieces[0].text
    assert "harbour" in document.pieces[0].text


def test_the_proof_refuses_a_folder_that_is_not_vega_datasets_before_it_indexes(tmp_path: Path) -> None:
    from noria.reports.proof.arms import run_index

    with pytest.raises(DataError, match="datapackage"):
        run_index(str(tmp_path / "corpus.index"), str(tmp_path))
    assert not (tmp_path / "corpus.index").exists()
