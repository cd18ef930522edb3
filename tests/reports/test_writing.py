"""Writing by a model in full, search on the web wired into it, rules of sources, limits of money, and a plan first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from noria.core.chat import ChatServer
from noria.core.chat.settings import Prices
from noria.core.errors import ConfigError, DataError, NoriaError, RunError
from noria.reports.agents.asking import Asker, Spending
from noria.reports.agents.models import ModelAgents
from noria.reports.agents.pipeline import Job
from noria.reports.agents.research import Search, report_index
from noria.reports.agents.roles import Extractive
from noria.reports.checking.verify import verify_bundle
from noria.reports.document.blocks import FigureBlock, figures, sentences
from noria.reports.evidence.records import decode
from noria.reports.search.index import Index
from noria.reports.search.protocol import SourceRules
from noria.reports.search.web import WebSearch
from noria.reports.verbs import group
from tests.chat_server import Reply, chat_server
from tests.reports.conftest import REQUEST, Corpus, png

OUTLINE = {
    "title": "Work and income",
    "sections": [
        {
            "title": "Work",
            "words": 200,
            "measures": ["Unemployment rate"],
            "visuals": [
                {"goal": "trend of unemployment", "kind": "chart", "chart": "pie"},
                {"goal": "the red bridge", "kind": "image"},
            ],
        },
        {"title": "Income", "words": 200, "measures": ["Median income"], "visuals": []},
    ],
}
CHART = {
    "kind": "line",
    "measures": ["Unemployment rate"],
    "entities": ["France", "Atlantis"],
    "title": "Rates",
}
PROSE = {
    "sentences": [
        {"text": "In 2024 the rate of France was 7.4%.", "cites": ["S1#f0"]},
        {"text": "The trend is in [[fig:C1]] and [[fig:C9]].", "cites": []},
        {"text": "More follows."},
        {"text": "It reached 88% of all.", "heading": True},
    ]
}


def _model(body: dict[str, Any], number: int) -> Reply:
    """A model that plans two sections, chooses a chart and a picture, and writes."""
    name = body["response_format"]["json_schema"]["name"]
    replies: dict[str, Any] = {
        "outline": OUTLINE,
        "chart": CHART,
        "choice": {"number": 1, "shows": "A bridge of red steel."},
        "prose": PROSE,
        "queries": {"queries": ["unemployment of France"]},
        "said": {"text": "No number.", "cites": []},
    }
    return Reply(json.dumps(replies[name]))


def _agents(url: str, **limits: Any) -> ModelAgents:
    server = ChatServer(url=url, model="m", attempts=1, prices=Prices(input=1, output=1))
    return ModelAgents(Asker(server, **limits))


def test_a_model_chooses_chart_and_picture_and_cells_stay_the_corpuss(index: Index, tmp_path: Path) -> None:
    with chat_server(_model) as double:
        agents = _agents(double.url)
        bundle = Job(tmp_path, index, agents=agents).write(REQUEST)
    chart = bundle.charts["C1"]
    assert (chart.kind, chart.title) == ("line", "Rates")
    assert {row[chart.columns.index("Name")] for row in chart.rows} <= {"France"}
    assert agents.tally.invented >= 1  # Atlantis
    picture = next(f for f in figures(bundle.report) if f.id == "I2")
    assert (picture.caption, picture.alt) == ("red bridge", "A bridge of red steel.")
    sent = [
        part
        for body in double.seen
        for m in body["messages"]
        for part in m["content"]
        if isinstance(part, dict)
    ]
    assert any(part["type"] == "image_url" for part in sent)
    work = bundle.report.sections[1]
    place = next(
        n for n, block in enumerate(work.blocks) if isinstance(block, FigureBlock) and block.id == "C1"
    )
    assert "[[fig:C1]]" in "".join(s.text for s in work.blocks[place - 1].sentences)  # type: ignore[union-attr]
    text = (tmp_path / "report.md").read_text()
    assert "C9" not in text
    assert "88%" not in text
    assert verify_bundle(tmp_path).findings == []


@pytest.mark.parametrize("number", [0, 7, -1])
def test_a_picture_that_is_not_there_is_not_shown(index: Index, tmp_path: Path, number: int) -> None:
    def respond(body: dict[str, Any], n: int) -> Reply:
        choice = body["response_format"]["json_schema"]["name"] == "choice"
        return Reply(json.dumps({"number": number})) if choice else _model(body, n)

    with chat_server(respond) as double:
        agents = _agents(double.url)
        bundle = Job(tmp_path, index, agents=agents).write(REQUEST)
    if number == 0:
        assert "I2" not in bundle.drawn
        assert any("no picture that fits" in one.why for one in bundle.report.missing)
    else:
        assert bundle.drawn["I2"]
        assert agents.tally.invented >= 1


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_budget_ends_the_run_with_what_was_drawn_and_says_so(index: Index, tmp_path: Path) -> None:
    def respond(body: dict[str, Any], number: int) -> Reply:
        return Reply(_model(body, number).text, usage={"prompt_tokens": 1000, "completion_tokens": 500})

    with chat_server(respond) as double:
        file = tmp_path / "spending.json"
        # Outline, chart, picture and first section cost .0015 each; the second section could cost more than is left.
        bundle = Job(tmp_path / "part", index, agents=_agents(double.url, money=0.0071, file=file)).write(
            REQUEST
        )
        asked = len(double.seen)
        again = Job(tmp_path / "again", index, agents=_agents(double.url, money=0.0071, file=file))
        again.agents.asker.budget.spent = 0.0071  # type: ignore[attr-defined]
        last = again.write(REQUEST)
    assert "budget of 0.0071 is reached" in bundle.report.stopped
    assert "Income" in bundle.report.stopped
    assert [section.title for section in bundle.report.sections] == ["Introduction", "Work", "Conclusion"]
    assert "This report is partial" in (tmp_path / "part" / "report.md").read_text()
    assert len(bundle.charts) == 1
    assert verify_bundle(tmp_path / "part").findings == []
    spent = decode(file.read_bytes(), Spending, "")
    assert 0 < spent.cost <= 0.0071
    assert len(double.seen) == asked  # nothing is sent once it is spent
    assert last.report.stopped
    assert len(last.charts) == 2  # drawn by rule, as the engine's outline asks
    assert not (tmp_path / "again" / "plan.json").exists()


def test_a_limit_of_tokens_is_kept(index: Index, tmp_path: Path) -> None:
    with chat_server(_model) as double:
        bundle = Job(tmp_path, index, agents=_agents(double.url, tokens=100)).write(REQUEST)
        assert double.seen == []
    assert "tokens is reached" in bundle.report.stopped
    with pytest.raises(ConfigError, match="prices"):
        Asker(ChatServer(url="http://127.0.0.1:9/v1", model="m"), money=1.0)


def test_a_model_that_is_down_is_named_beside_the_report_that_rules_wrote(
    corpus: Corpus, tmp_path: Path
) -> None:
    with chat_server(lambda body, number: Reply(status=400)) as double:
        words = ["write", REQUEST, "-i", str(corpus.index), "-o", str(tmp_path / "r"), "-q", "--model", "m"]
        given = _noria(*words, "--url", double.url)
        asked = len(double.seen)
    lost = decode((tmp_path / "r" / "stages" / "spending.json").read_bytes(), Spending, "").lost
    assert 0 < lost <= asked
    assert f"model: {lost} questions without a usable reply" in given.output


def _noria(*words: str) -> Any:
    return CliRunner().invoke(group, list(words))


def test_a_plan_costs_nothing_is_edited_and_kept(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    with chat_server(_model) as double:
        words = [
            "write", REQUEST, "-i", str(corpus.index), "-o", str(folder), "--url", double.url, "--model", "m",
            "--prices", "1,2", "--json",
        ]  # fmt: skip
        shown = _noria(*words, "--plan-only")
        assert shown.exit_code == 0, shown.output
        assert double.seen == []
        cost = json.loads(shown.output)["estimate"]
        assert 0 < cost["cost"] < cost["most"]
        plan = json.loads((folder / "plan.json").read_text())
        plan["title"] = "My own title"
        plan["sections"] = [plan["sections"][0], plan["sections"][1], plan["sections"][-1]]
        (folder / "plan.json").write_text(json.dumps(plan))
        done = _noria(*words)
        assert done.exit_code == 0, done.output
        made = len(double.seen)
    report = json.loads((folder / "report.json").read_text())
    assert report["title"] == "My own title"
    assert len(report["sections"]) == 3
    assert not any(body["response_format"]["json_schema"]["name"] == "outline" for body in double.seen)
    assert json.loads(done.output)["spent"]["tokens"] == 15 * made
    assert made <= cost["requests"] + 3


# -- rules of sources -------------------------------------------------------------------------------------------------


def test_rules_hide_sources_from_every_search(corpus: Corpus, tmp_path: Path) -> None:
    with Index(corpus.index, SourceRules(never=("lands/France.json",))) as index:
        assert index.refused == 1
        assert "France" not in index.entities()
        assert not any("France" in hit.title for hit in index.search("unemployment rate France", 50))
        bundle = Job(tmp_path, index).write(REQUEST)
    assert not any("France" in source.title for source in bundle.book.sources.values())
    with Index(corpus.index, SourceRules(prefer=("lands/Japan.json",))) as index:
        assert index.search("unemployment rate France", 5)[0].url == "lands/Japan.json"
    with Index(corpus.index, SourceRules(until="2024")) as index:
        assert index.entities() == []  # the fact book is of 2025
    with Index(corpus.index, SourceRules(only=("lands",))) as index:
        assert index.images("red bridge") == []
        assert len(index.entities()) == 3


def test_stale_evidence_is_marked_and_the_date_printed(corpus: Corpus, tmp_path: Path) -> None:
    with Index(corpus.index, SourceRules(until="2026")) as index:
        bundle = Job(tmp_path, index, stale_before="2023-01-01").write(REQUEST)
        old = {fact.id for fact in bundle.book.facts.values() if fact.period == "2022"}
        assert old
        assert set(bundle.report.stale) == old
        assert "Sources until 2026" in (tmp_path / "report.md").read_text()
        assert "older than asked for" in (tmp_path / "report.html").read_text()
        Job(tmp_path, index, stale_before="2027").write(REQUEST)
    assert "[older than asked for]" in (tmp_path / "report.md").read_text()
    assert verify_bundle(tmp_path).findings == []


# -- the web ----------------------------------------------------------------------------------------------------------

PAGES = {
    "/own": "<title>My page</title><p>Own figures: the Rhine carried 151 ships.</p>",
    "/one": "<title>Ships</title><p>Traffic fell by 12% in 2023, to 940 ships.</p>",
    "/js": "<title>JS</title><p>Please enable JavaScript</p>",
    "/bad": "<title>Bad</title><p>Never use 77.</p>",
}


@pytest.fixture
def web() -> Any:
    """A web of four pages and a picture, and a SearXNG that lists them; what was asked for is in `asked`."""
    httpx2 = pytest.importorskip("httpx2")
    asked: list[str] = []

    def answer(request: Any) -> Any:
        asked.append(str(request.url))
        if request.url.path == "/search":
            if request.url.params.get("categories") == "images":
                found = [
                    {"img_src": "https://p.example/b.png", "url": "https://p.example/", "title": "red bridge"}
                ]
                return httpx2.Response(200, json={"results": found})
            names = ("one", "js", "bad", "gone")
            hosts = {"bad": "bad.example"}
            found = [{"url": f"https://{hosts.get(n, 'a.example')}/{n}", "title": n} for n in names]
            return httpx2.Response(200, json={"results": found})
        if request.url.path == "/b.png":
            return httpx2.Response(200, headers={"content-type": "image/png"}, content=png())
        page = PAGES.get(request.url.path)
        return httpx2.Response(200, html=page) if page else httpx2.Response(404)

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    client.asked = asked
    return client


def _search(web: Any, **more: Any) -> Search:
    rules = SourceRules(never=("bad.example",))
    services = [WebSearch("searxng", "https://searx.example", web)]
    return Search(services, rules=rules, client=web, resolver=lambda host, port: ["93.184.216.34"], **more)


def test_pages_of_a_search_are_evidence_and_are_read_once(web: Any, corpus: Corpus, tmp_path: Path) -> None:
    search = _search(web, addresses=("https://mine.example/own",))
    text = "How many ships were there? Add a photo of a red bridge."
    for _ in range(2):
        path, record = report_index(tmp_path, None, text, Extractive(), search, "")
    assert sum("/one" in url for url in web.asked) == 1  # the second run reads the index of the first
    assert record.pages == ["https://mine.example/own", "https://a.example/one", "https://p.example/b.png"]
    assert any("js" in why for why in record.left_out)
    assert any("404" in why for why in record.left_out)
    assert not any("bad.example" in url for url in web.asked)
    with Index(path, search.rules) as index:
        bundle = Job(tmp_path, index).write(text)
    said = " ".join(s.text for _, s in sentences(bundle.report))
    assert "940 ships" in said
    assert bundle.drawn["I1"]
    assert verify_bundle(tmp_path).findings == []
    both, _ = report_index(tmp_path / "b", corpus.index, text, Extractive(), search, "")
    with Index(both) as index, Index(corpus.index) as alone:
        assert index.counts["sources"] == alone.counts["sources"] + 3
        assert index.source("S1") == alone.source("S1")
        assert index.search("Rhine ships", 1)[0].url == "https://mine.example/own"


def test_a_model_names_the_queries_in_the_language_asked_for(web: Any, tmp_path: Path) -> None:
    with chat_server(_model) as double:
        search = _search(web, language="zh")
        _, record = report_index(tmp_path, None, "ships", _agents(double.url), search, "")
    assert record.queries == ["unemployment of France"]
    assert "Chinese" in json.dumps(double.seen[0])
    assert "one" in json.dumps(double.seen[1])  # the second round is shown the titles of the first


def test_an_edited_plan_names_the_queries(web: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(
        json.dumps({"title": "T", "language": "en", "sections": [], "queries": ["just this"]})
    )
    _, record = report_index(tmp_path, None, "ships", Extractive(), _search(web), "")
    assert record.queries == ["just this"]
    assert sum("q=just+this" in url or "q=just%20this" in url for url in web.asked) == 1


def test_a_search_without_a_page_is_one_line(web: Any, tmp_path: Path) -> None:
    search = Search(addresses=("http://localhost/x",), client=web)
    with pytest.raises(DataError, match="no page that could be read"):
        report_index(tmp_path, None, "ships", Extractive(), search, "")
    with pytest.raises(ConfigError, match="no corpus"):
        report_index(tmp_path, None, "ships", Extractive(), Search(), "")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--searxng", "http://127.0.0.1:9"], "no page that could be read"),
        (["--service", "tavily"], "TAVILY_API_KEY"),
        ([], "no corpus"),
        (["--budget", "3", "--address", "http://127.0.0.1:9/"], "without a model"),
        (["--address", "https://a.example/", "--offline"], "--offline"),
    ],
    ids=["no answer", "no key", "nothing", "no model", "offline"],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], why: str
) -> None:
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    command = ["write", "ships", "-o", str(tmp_path / "r"), *words]
    with pytest.raises(NoriaError, match=why):
        CliRunner().invoke(group, command, catch_exceptions=False)
    assert not (tmp_path / "r").exists()


SERVER = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("s")
@server.tool(name="look")
def look(query: str) -> str:
    return "nothing here"
@server.tool(name="web_search")
def web_search(query: str) -> list[dict[str, str]]:
    return [{"url": "https://a.example/" + query, "title": "A"}, {"url": "file:///etc/passwd", "title": "B"}]
@server.tool(name="search_text")
def search_text(query: str) -> str:
    return "See https://b.example/x. And (https://c.example/y)"
server.run("stdio")
"""


@pytest.mark.slow
def test_a_tool_of_an_mcp_server_is_a_search_service(tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    from noria.reports.search.mcp import McpSearch

    (tmp_path / "server.py").write_text(SERVER)
    command = f"{sys.executable} {tmp_path / 'server.py'}"
    assert [hit.url for hit in McpSearch(command).search("ships")] == ["https://a.example/ships"]
    listed = McpSearch(command, "search_text").search("ships")
    assert [hit.url for hit in listed] == ["https://b.example/x", "https://c.example/y"]
    with pytest.raises(RunError, match="no tool"):
        McpSearch(command, "nowhere").search("ships")
    with pytest.raises(RunError):
        McpSearch(str(tmp_path / "absent")).search("ships")


# -- a process that is killed -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_while_a_section_is_written_it_resumes_with_the_same_bytes(
    corpus: Corpus, tmp_path: Path
) -> None:
    waits, go = threading.Event(), threading.Event()

    def respond(body: dict[str, Any], number: int) -> Reply:
        second = "Income" in json.dumps(body) and body["response_format"]["json_schema"]["name"] == "prose"
        if second and not go.is_set():
            waits.set()
            return Reply(hang=True)
        return _model(body, number)

    def start(folder: Path) -> subprocess.Popen[bytes]:
        words = [
            "reports",
            "write",
            REQUEST,
            "-i",
            str(corpus.index),
            "-o",
            str(folder),
            "--url",
            url,
            "--model",
            "m",
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "noria.cli", *words], stdout=subprocess.PIPE, env=os.environ
        )

    with chat_server(respond) as double:
        url = double.url
        killed = start(tmp_path / "a")
        assert waits.wait(60)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert not (tmp_path / "a" / "report.md").exists()
        before = len(double.seen)
        go.set()
        for process in [start(tmp_path / "a"), start(tmp_path / "b")]:
            process.communicate(timeout=60)
        # The killed one asks again only what was under way; the other one asks everything.
        assert len(double.seen) == before + 1 + before
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


def _bytes(folder: Path) -> dict[str, bytes]:
    kept = [p for p in folder.rglob("*") if p.is_file() and "stages" not in p.parts]
    assert any(p.name == "report.html" for p in kept)
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}
