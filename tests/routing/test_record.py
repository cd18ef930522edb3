"""Recording: once, resumably, whatever the servers do."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from noria.core.chat import ChatServer, Prices
from noria.core.errors import ConfigError, DataError, RunError
from noria.core.files import lock
from noria.routing.pool.config import Member, PoolConfig
from noria.routing.pool.pool import Reply as Said, open_pool
from noria.routing.pool.record import RecordResult, check_pool_answers, read_questions, record
from noria.routing.tables.table import Question, Route, read_table
from noria.routing.verbs.record import RecordConfig
from tests.chat_server import Body, Reply, chat_server

QUESTIONS = [Question(f"q{n}", "sums", f"{n}+1?", (str(n + 1),), "number") for n in range(12)]


def pool_of(url: str, **server: Any) -> PoolConfig:
    def member(name: str) -> Member:
        settings = {"attempts": 1, "timeout": 3.0, "prices": Prices(input=1.0, output=1.0)} | server
        return Member(name=name, server=ChatServer(url=url, model=name, **settings))

    return PoolConfig(models=(member("right"), member("wrong")))


def answering(body: Body, number: int) -> Reply:
    n = int(body["messages"][0]["content"].split("+")[0])
    return Reply(f"It is {n + 1}." if body["model"] == "right" else "It is 0.")


def run(
    url: str,
    path: Path,
    questions: list[Question] = QUESTIONS,
    *,
    budget: float | None = None,
    cache: Path | None = None,
    **server: Any,
) -> RecordResult:
    async def go() -> RecordResult:
        async with open_pool(pool_of(url, **server), budget=budget, cache=cache) as pool:
            return await record(pool, questions, path, in_flight=4)

    return asyncio.run(go())


def test_everything_is_asked_once(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with chat_server(answering) as double:
        done = run(double.url, path, QUESTIONS[:5])
        more = run(double.url, path)
        again = run(double.url, path)
        assert len(double.seen) == 24
    assert (done.before, done.asked, done.failed) == (0, 10, 0)
    assert (more.before, more.asked) == (10, 14)
    assert again.cost == 0
    assert (again.before, again.asked) == (24, 0)
    assert done.cost == pytest.approx(10 * 15e-6)
    table = read_table(path)
    assert table.score.mean(0).tolist() == [1, 0]
    assert table.cost.sum() == pytest.approx(24 * 15e-6)
    text = path.read_text()
    with chat_server(answering) as double:
        run(double.url, tmp_path / "other.jsonl")
    timeless = lambda t: [json.loads(x) | {"seconds": 0} for x in t.split("\n") if x]  # noqa: E731
    assert timeless((tmp_path / "other.jsonl").read_text()) == timeless(text)


def test_what_failed_is_not_scored_and_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with chat_server(lambda b, n: Reply(status=500) if b["model"] == "wrong" else answering(b, n)) as double:
        done = run(double.url, path)
    assert done.failed == 12
    table = read_table(path)
    wrong = [r.model for r in table.routes].index("wrong")
    assert all(math.isnan(score) for score in table.score[:, wrong])
    assert {c.failure for (_, r), c in table.cells.items() if r == wrong} != {None}
    with chat_server(answering) as double:
        again = run(double.url, path)
        assert len(double.seen) == 12
    assert (again.before, again.failed) == (12, 0)


def test_a_failure_stays_until_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with chat_server(lambda b, n: Reply(status=500) if b["model"] == "wrong" else answering(b, n)) as double:
        run(double.url, path)
        again = run(double.url, path)  # nothing comes of it, and all else is in the table
        check_pool_answers(again, str(path))
        ((route, failed, cells, why),) = again.failures()
        assert (route.model, failed, cells) == ("wrong", 12, 12)
        assert "server" in why
        assert (again.before, again.asked, again.failed) == (12, 12, 12)
        nothing = run(double.url, path, budget=0.0)
    assert nothing.asked == 0
    assert (nothing.table.available == 0).sum() == 12


def test_a_recording_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    class Broken:
        routes = (Route("m"),)

        async def ask(self, route: Route, query: str, *, question: Question | None = None) -> Said:
            return Said("words")

    unscorable = Question("q", "d", "words?", ("a",), "magic")
    with pytest.raises(DataError, match="no rule"):
        asyncio.run(record(Broken(), [unscorable], tmp_path / "t.jsonl"))


def test_the_files_of_gsm8k_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows = [
        {"question": "How many?", "answer": "48/2 = <<48/2=24>>24 clips.\nIn all 72.\n#### 72"},
        {"question": "How dear?", "answer": "It is $1,000.\n#### 1,000\n"},
        {"question": "Which?", "answers": ["so it is\n#### the red one"], "rule": "exact"},
        {"question": "What is behind ####?", "answer": "a C#### chord"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [(question.answers, question.rule) for question in read_questions(path)]
    assert found == [
        (("72",), "number"),
        (("1,000",), "number"),
        (("the red one",), "exact"),
        (("a C#### chord",), "exact"),
    ]


def test_a_table_is_named_as_what_it_is() -> None:
    named = RecordConfig(pool=Path("p.yaml"), questions=Path("quiz.parquet"))
    assert named.table == Path("runs/routing/record-quiz/table.jsonl")
    with pytest.raises(ConfigError, match=r"t\.parquet: a table is JSON lines; name it \.jsonl"):
        _ = named.model_copy(update={"output": "t.parquet"}).table


def test_requests_under_way_are_as_many_as_told(tmp_path: Path) -> None:
    """Also where that is more than a server's own default."""

    def slowly(body: Body, number: int) -> Reply:
        reply = answering(body, number)
        reply.delay = 0.3
        return reply

    questions = [Question(f"q{n}", "sums", f"{n}+1?", (str(n + 1),), "number") for n in range(20)]
    with chat_server(slowly) as double:

        async def go() -> None:
            async with open_pool(pool_of(double.url), in_flight=40) as pool:
                await record(pool, questions, tmp_path / "t.jsonl", in_flight=40)

        began = time.monotonic()
        asyncio.run(go())
    assert time.monotonic() - began < 20 * 0.3 - 1, "one after another would take six seconds"


def test_a_spent_budget_leaves_the_rest_for_another_day(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with chat_server(answering) as double:
        some = run(double.url, path, budget=0.0006)
        assert 0 < some.asked < 24
        whole = run(double.url, path, budget=1.0)
        assert len(double.seen) == 24
    assert whole.before + whole.asked == 24


def test_an_answer_that_was_kept_has_the_cost_of_asking_and_costs_nothing(tmp_path: Path) -> None:
    with chat_server(answering) as double:
        first = run(double.url, tmp_path / "one.jsonl", cache=tmp_path / "cache")
        again = run(double.url, tmp_path / "two.jsonl", cache=tmp_path / "cache")
        assert len(double.seen) == 24
    assert first.cost > 0
    assert again.cost == 0
    assert again.table.cost.tolist() == first.table.cost.tolist()
    assert all(math.isnan(cell.seconds) for cell in again.table.cells.values())


def test_a_torn_row_is_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with chat_server(answering) as double:
        run(double.url, path)
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])
        again = run(double.url, path)
    assert (again.before, again.asked) == (23, 1)


def test_another_question_of_the_same_id_or_another_process(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with chat_server(answering) as double:
        run(double.url, path)
        with pytest.raises(DataError, match="another question"):
            run(double.url, path, [Question("q1", "sums", "changed?", ("1",), "number")])
        with lock(tmp_path / ".t.jsonl.lock"), pytest.raises(RunError, match="in use"):
            run(double.url, path)


def test_no_answer_at_all_is_told(tmp_path: Path) -> None:
    done = run("http://127.0.0.1:9/v1", tmp_path / "t.jsonl", QUESTIONS[:1])
    with pytest.raises(RunError, match="connection"):
        check_pool_answers(done, "pool.yaml")


KILLED = """
import sys
from pathlib import Path
from tests.routing.test_record import run
run(sys.argv[1], Path(sys.argv[2]), in_flight=2)
"""


def test_killed_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"

    def slowly(body: Body, number: int) -> Reply:
        reply = answering(body, number)
        reply.delay = 0.1
        return reply

    with chat_server(slowly) as double:
        environment = os.environ | {"PYTHONPATH": f"{os.getcwd()}:{os.environ.get('PYTHONPATH', '')}"}
        child = subprocess.Popen([sys.executable, "-c", KILLED, double.url, str(path)], env=environment)
        deadline = time.monotonic() + 60
        while len(double.seen) < 8 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = len(double.seen)
        done = run(double.url, path)
    assert done.before >= 4
    assert done.before + done.asked == 24
    assert len(double.seen) - before == done.asked


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"query": " ", "answers": ["a"]}, "query"),
        ({"query": "q"}, "answers"),
        ({"query": "q", "answers": []}, "answers"),
        ({"query": "q", "answers": [3]}, "answers"),
        ({"query": "q", "answers": ["a"], "rule": "magic"}, "no rule"),
        ({"query": "q", "answers": ["a"], "id": "x"}, "twice"),
    ],
)
def test_questions_that_are_none(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"query": "fine", "answer": "a", "id": "x"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"q.jsonl:2: .*{told}"):
        read_questions(path)


def test_questions_have_names_and_rules(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text(
        '{"query": "a?", "answer": "1"}\n{"query": "b?", "answers": ["x", "y"], "rule": "f1", "dataset": "d"}\n'
    )
    first, second = read_questions(path)
    assert (first.id, first.dataset, first.rule) == ("quiz-1", "quiz", "exact")
    assert (second.answers, second.rule, second.dataset) == (("x", "y"), "f1", "d")
    path.write_text('{"prompt": "2 + 2?", "answer": 4, "rule": "number"}\n')  # as for `noria credit`
    (third,) = read_questions(path)
    assert (third.text, third.answers) == ("2 + 2?", ("4",))
    path.write_text("")
    with pytest.raises(DataError, match="no questions"):
        read_questions(path)
