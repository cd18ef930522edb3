"""A finished report afterwards: made again from newer sources, asked questions, and written in another language."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from noria.core.chat import ChatServer
from noria.core.errors import DataError, RunError
from noria.reports.agents.asking import Asker
from noria.reports.agents.pipeline import Job
from noria.reports.checking.verify import verify_bundle
from noria.reports.document.blocks import sentences
from noria.reports.document.bundle import Bundle
from noria.reports.finished.followup import answer
from noria.reports.reading.documents import Piece
from noria.reports.search.index import Index, build_index, corpus_documents
from noria.reports.verbs import group
from tests.chat_server import Reply, chat_server
from tests.reports.conftest import REQUEST, Corpus, lands

Made = tuple[Path, Bundle]


@pytest.fixture(scope="module")
def newer(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus again with other ids, in which one number of France is another."""
    path = tmp_path_factory.mktemp("newer") / "newer.index"
    documents = lands()
    first = documents[0].pieces[0]
    assert first.text == "7.4% (2024 est.)"
    documents[0] = replace(
        documents[0],
        pieces=[
            Piece("7.9% (2024 est.)", first.heading, first.entity, first.measure),
            *documents[0].pieces[1:],
        ],
    )
    build_index(
        path, [*corpus_documents([str(corpus.folder)], []), *reversed(documents)], retrieved="2026-02-03"
    )
    return path


def test_a_refreshed_report_lists_what_changed_and_nothing_else(
    made: Made, newer: Path, tmp_path: Path
) -> None:
    folder, _ = made
    before = (folder / "report.md").read_bytes()
    words = ["refresh", str(folder), "-i", str(newer), "-o", str(tmp_path / "r"), "--offline", "--json"]
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.output)["changes"]
    assert rows == json.loads((tmp_path / "r" / "changes.json").read_text())
    facts = [row for row in rows if " of " not in row["measure"]]
    assert facts == [
        {
            "entity": "France",
            "measure": "Unemployment rate",
            "period": "2024",
            "before": "7.4%",
            "after": "7.9%",
        }
    ]
    assert rows != facts
    assert all("France" in row["entity"] for row in rows)
    assert (folder / "report.md").read_bytes() == before
    assert "7.9%" in (tmp_path / "r" / "report.md").read_text()
    assert verify_bundle(tmp_path / "r").findings == []


def test_a_table_is_found_again_by_its_address(corpus: Corpus, newer: Path, tmp_path: Path) -> None:
    with Index(corpus.index) as index:
        bundle = Job(tmp_path / "a", index).write("temps: line chart of temp by city")
    words = ["refresh", str(tmp_path / "a"), "-i", str(newer), "-o", str(tmp_path / "b")]
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 0, result.output
    assert "0 changed numbers" in result.output
    assert bundle.charts.keys() == {path.stem for path in (tmp_path / "b" / "charts").glob("*.csv")}
    with pytest.raises(DataError, match="no request"):
        CliRunner().invoke(group, ["refresh", str(tmp_path), "-i", str(newer)], catch_exceptions=False)


def test_a_question_is_answered_from_the_ledger_or_not_at_all(made: Made) -> None:
    _, bundle = made
    given = answer("What was the unemployment rate of Japan in 2022?", bundle)
    assert "2.6" in given.sentences[0].text
    assert all(bundle.book.has(id) for s in given.sentences for id in s.cites)
    zh = answer("日本的失业率是多少？", bundle)
    assert "Japan" in zh.sentences[0].text
    assert answer("Who won the football match?", bundle).sentences == ()


def test_a_models_answer_keeps_to_what_it_cites(made: Made) -> None:
    _, bundle = made
    fact = next(f for f in bundle.book.facts.values() if f.raw == "2.6%")

    def respond(body: dict, number: int) -> Reply:
        if body["response_format"]["json_schema"]["name"] == "said":
            return Reply("no")
        said = [
            {"text": "It was 2.6%.", "cites": [fact.id]},
            {"text": "It was 44%.", "cites": [fact.id]},
            {"text": "Everything is well.", "cites": ["S99"]},
        ]
        return Reply(json.dumps({"sentences": said}))

    with chat_server(respond) as double:
        asker = Asker(ChatServer(url=double.url, model="m", attempts=1))
        given = answer("unemployment rate of Japan", bundle, asker)
    assert [s.text for s in given.sentences] == ["It was 2.6%."]
    assert len(given.removed) == 2


def test_asking_prints_references_and_says_when_nothing_is_known(made: Made) -> None:
    folder, _ = made
    known = CliRunner().invoke(group, ["ask", str(folder), "unemployment rate of Germany"])
    assert known.exit_code == 0
    assert "[1]" in known.output
    assert "Germany" in known.output
    unknown = CliRunner().invoke(group, ["ask", str(folder), "price of tulips"], standalone_mode=False)
    assert unknown.return_value == 1
    assert "does not say" in unknown.output


def test_research_in_another_language_than_the_reports(index: Index, tmp_path: Path) -> None:
    job = Job(tmp_path, index, language="zh", research_language="en")
    assert job.read(REQUEST).queries == ("Unemployment rate, Median income, France, Germany, Japan",)
    bundle = job.write(REQUEST)
    assert (bundle.report.language, bundle.report.sections[0].title) == ("zh", "引言")
    assert any("最高" in s.text for _, s in sentences(bundle.report))
    assert "参考文献" in (tmp_path / "report.md").read_text()
    assert verify_bundle(tmp_path).findings == []


def _bench(tasks: list[dict[str, str]], corpus: Corpus, home: Path, *more: str) -> Any:
    home.mkdir(exist_ok=True)
    (home / "query.json").write_text(json.dumps(tasks))
    words = ["bench-tasks", str(home / "query.json"), "-i", str(corpus.index), "-o", str(home / "out"), *more]
    return CliRunner().invoke(group, words, standalone_mode=False)


def test_a_task_that_failed_has_the_lowest_scores_and_is_counted(corpus: Corpus, tmp_path: Path) -> None:
    good = {"id": "a", "query": "The unemployment rate of France and Japan. Draw a line chart of it."}
    result = _bench([good, {"id": "b", "query": " "}, {"id": "c", "query": "\n"}], corpus, tmp_path)
    assert (result.return_value, result.exception) == (1, None)
    assert "written: 1 of 3 tasks" in result.output
    kept = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (kept["written"], sorted(kept["failures"]), sorted(kept["tasks"])) == (
        1,
        ["b", "c"],
        ["a", "b", "c"],
    )
    assert (kept["tasks"]["a"]["CS"], kept["means"]["CS"], kept["counts"]["CS"]) == (1.0, 1 / 3, 3)
    assert kept["tasks"]["b"]["CSC"] is None, "its request demands no visual"
    assert (kept["counts"]["CSC"], kept["counts"]["findings"]) == (1, 1)
    assert "1 of 3 tasks" in (tmp_path / "out" / "board.html").read_text()


def test_tasks_are_not_taken_from_reports_of_other_settings(corpus: Corpus, tmp_path: Path) -> None:
    tasks = [{"id": "a", "query": "The unemployment rate of France."}]
    assert _bench(tasks, corpus, tmp_path, "--no-charts").return_value == 0
    again = ("--no-charts", "--quiet", "--timeout", "7", "--in-flight", "1")  # none of which changes a report
    assert _bench(tasks, corpus, tmp_path, *again).return_value == 0
    with pytest.raises(RunError, match="other settings"):
        raise _bench(tasks, corpus, tmp_path).exception
    with pytest.raises(RunError, match="another request"):
        raise _bench([{"id": "a", "query": "Coal."}], corpus, tmp_path, "--no-charts").exception
    for wrong, why in (
        ([*tasks, *tasks], "2 tasks have the id"),
        ([{"id": "a" * 300, "query": "x"}], "plain name"),
    ):
        with pytest.raises(DataError, match=why):
            raise _bench(wrong, corpus, tmp_path / "w").exception


def test_scores_of_other_tasks_are_not_compared(tmp_path: Path) -> None:
    def compare(first: dict[str, float], second: dict[str, float]) -> Any:
        for name, scores in (("a", first), ("b", second)):
            tasks = {task: {"CS": score} for task, score in scores.items()}
            (tmp_path / f"{name}.json").write_text(json.dumps({"tasks": tasks}))
        words = ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
        return CliRunner().invoke(group, words, standalone_mode=False)

    with pytest.raises(DataError, match="no task has the same id"):
        raise compare({"a": 0.1, "b": 0.2}, {"c": 0.1}).exception
    assert (
        "2 of 3 and 2 tasks have the same id"
        in compare({"a": 0.1, "b": 0.2, "c": 1}, {"a": 0, "b": 1}).stderr
    )
    same = compare({"a": 0.1, "b": 0.3, "c": float("nan")}, {"a": 0.0, "b": 1.0, "c": 0.5})
    assert (same.stderr, "0.200" in same.output) == ("", True)
