"""Long work of learners ends with the turn's budget, and what they learn from pictures is what the traces hold."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.learners.paid import PaidModel
from noria.assistant.learners.pictures.calls import distinct, picture_calls
from noria.assistant.learners.working import Halt, worked
from noria.core.chat import Answer, ChatRequest, Outcome, Prices, Text
from noria.core.judging import Checklist, Item
from noria.core.judging.judges import ChatJudge, judged
from noria.core.learning.dataset import Row
from noria.core.learning.routes.backends import Backend
from noria.core.learning.spending import Spending, TurnStopped
from noria.core.progress import Progress
from noria.core.traces.blobs import PREFIX
from noria.core.traces.datasets import Example
from noria.core.traces.records import Span, SpanError, Trace
from noria.core.traces.store import TraceView

ITEMS = Checklist((Item("a", "Is it so?"),))


class Model:
    """A chat model that says yes, for money."""

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, request: ChatRequest) -> Outcome:
        self.asked += 1
        return Answer('{"answers": [{"number": 1, "answer": "yes"}]}', cost=0.4)


def test_work_whose_time_is_spent_ends_at_its_next_step(tmp_path: Path) -> None:
    steps: list[int] = []

    def work(progress: Progress) -> None:
        task = progress.task("train", 10_000)
        for step in range(10_000):
            steps.append(step)
            time.sleep(0.01)
            task.at(step)

    async def run() -> None:
        spending = Spending(tmp_path / "paid.sqlite", seconds=0.3)
        with pytest.raises(TurnStopped, match="its time"):
            await worked(spending, work)
        spending.close()

    asyncio.run(run())
    assert 5 < len(steps) < 1000


def test_a_judge_whose_money_is_spent_ends_the_work_and_is_no_missing_verdict(tmp_path: Path) -> None:
    model = Model()

    def work(progress: Progress, paid: PaidModel) -> int:
        async def judge_all() -> int:
            judge, valid = ChatJudge(paid, "judge"), 0
            for number in range(9):
                one = await judged(judge, ITEMS, [Text(f"thing {number}")], name=str(number))
                valid += not one.invalid
            return valid

        with asyncio.Runner() as runner:  # a loop of its own, as a training has
            return runner.run(judge_all())

    async def run(money: float | None) -> int:
        spending = Spending(tmp_path / f"{money}.sqlite", money=money)
        halt = Halt()
        backend = Backend(model, Prices(input=0.0, output=200.0))
        paid = PaidModel(backend, "judge", spending, asyncio.get_running_loop(), halt)
        try:
            return await worked(spending, lambda progress: work(progress, paid), halt)
        finally:
            spending.close()

    assert asyncio.run(run(None)) == 9
    with pytest.raises(TurnStopped, match="its budget of 1 is spent"):
        asyncio.run(run(1.0))
    before = model.asked
    assert asyncio.run(run(None)) == 9
    assert model.asked == before, "what was answered is not paid again"


def test_an_error_of_the_work_is_the_learners(tmp_path: Path) -> None:
    def work(progress: Progress) -> None:
        assert threading.current_thread() is not threading.main_thread()
        raise ValueError("no such thing")

    async def run() -> None:
        spending = Spending(tmp_path / "paid.sqlite")
        with pytest.raises(ValueError, match="no such thing"):
            await worked(spending, work)
        spending.close()

    asyncio.run(run())


def row(number: int, *, arguments: str = '{"prompt": "red"}', files: tuple[str, ...] = ("a", "b"), error: bool = False,
        chat: bool = True, corrections: tuple[str, ...] = (), output: Any = None) -> Row:  # fmt: skip
    gave = {
        "text": "done",
        "files": [f"{PREFIX}{one};image/png" for one in files],
        "notes": {"plan": "paint"},
    }
    span = Span(
        f"s{number}", "tool", "edit", 1, 2, input={"arguments": arguments}, output=gave if output is None else output,
        error=SpanError("failed", "x") if error else None,
    )  # fmt: skip
    trace = Trace(f"t{number}", 1, 2, "ok", spans=(span,))
    example = Example(trace.id, (), "", corrections, 0.9, f"g{number}", "train") if chat else None
    return Row(TraceView(trace, (), ()), example)


def test_a_call_is_read_from_its_span_and_what_tells_nothing_is_left_out() -> None:
    (one,) = picture_calls([row(1, corrections=("blue",))], "edit")
    assert (one.prompt, one.picture, one.before, one.plan) == ("red", "a", "b", "paint")
    assert (one.score, one.wished, one.group) == (0.9, "blue", "g1")
    lost = [
        row(2, error=True),
        row(3, chat=False),
        row(4, arguments="{"),
        row(5, arguments='{"prompt": " "}'),
        row(6, arguments="[]"),
        row(7, files=()),
        row(8, output="text"),
    ]
    assert picture_calls(lost, "edit") == []
    assert picture_calls([row(1)], "draw") == []


def test_the_same_request_for_the_same_picture_counts_once() -> None:
    calls = picture_calls([row(1), row(2), row(3, files=("a", "c"))], "edit")
    assert [one.trace for one in distinct(calls)] == ["t2", "t3"]
