"""The end of a turn: what people wrote goes, its receipt stays; an erasure and other settings end one that is open."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from noria.core.errors import DataError, RunError
from noria.core.experiments.assignment import position
from noria.core.files import lock
from noria.core.learning.ending import ERASED, forget_traces, remove_old_texts, stop_turn
from noria.core.learning.plan import TurnConfig, open_turn, plan_turn
from noria.core.learning.turn import Turn
from noria.core.storage.control import SQLiteControl
from noria.core.traces.store import TraceView

from .learning_world import Model, logged_trace, models, replay, trace_id, turn

pytestmark = pytest.mark.anyio
WORD = "zebra"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def views(number: int = 160) -> list[TraceView]:
    """A log in which everybody says one word that can be looked for."""
    letters = ["".join(chr(97 + int(digit)) for digit in str(n)) for n in range(number)]
    return [
        logged_trace(n, text=f"{WORD} {letters[n]}", score=float(position("log", str(n)) < 0.6))
        for n in range(number)
    ]


def small(home: Path, **more: Any) -> Turn:
    return turn(home, **{"views": views(), "replayed": 20} | more)


async def interrupted(home: Path, **more: Any) -> Turn:
    """A turn whose process ended when it had paid for the proposal, before its gate."""
    one = small(home, **more)
    one.evaluator.__dict__["compare"] = None
    with pytest.raises(TypeError):
        await one.run()
    return one


def control(home: Path) -> SQLiteControl:
    return SQLiteControl(home / "control.sqlite")


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file; of Parquet, whose pages are packed, the values."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content = b"".join(
                    repr(row).encode() for row in pq.read_table(io.BytesIO(content)).to_pylist()
                )
            yield path.relative_to(folder).as_posix(), content


def telling(folder: Path, word: str = WORD) -> list[str]:
    """Names of the files in which somebody's words can be read."""
    return [name for name, content in written(folder) if word.encode() in content]


async def test_what_people_wrote_is_in_no_file_of_a_turn_that_has_ended(tmp_path: Path) -> None:
    one = await interrupted(tmp_path)
    assert {"1-freeze/train.parquet", "1-freeze/gates.parquet", "1-freeze/final.parquet"} <= {
        *telling(one.folder)
    }
    receipt = await small(tmp_path).run()
    assert receipt["stages"][-1] == "4-gate" or receipt["outcome"] == "handed over"
    assert telling(one.folder) == []
    assert trace_id(3) not in "".join(content.decode() for _, content in written(one.folder))
    stays = {name for name, _ in written(one.folder)}
    assert {"receipt.json", "report.html", "spent.json", "config.json", "1-freeze/dataset.json"} <= stays
    assert not {name for name in stays if name.startswith(("paid", "work"))}
    assert json.loads((one.folder / "spent.json").read_text())["money"] == receipt["spent"]["money"] > 0
    assert one.data.counts == receipt["data"]["counts"]
    with pytest.raises(DataError, match="what learnt from them has ended"):
        one.data.rows("train")


async def test_an_open_turn_ends_when_somebody_is_erased_whom_it_learns_from(tmp_path: Path) -> None:
    one = await interrupted(tmp_path)
    store = control(tmp_path)
    forget_traces(tmp_path / "turns", store, {trace_id(777)})
    assert open_turn(store) == one.plan, "somebody else's erasure costs it nothing"
    assert telling(one.folder)
    forget_traces(tmp_path / "turns", store, {trace_id(777), trace_id(3)})
    assert open_turn(store) is None
    receipt = json.loads((one.folder / "receipt.json").read_text())
    assert (receipt["outcome"], receipt["reason"]) == ("stopped", ERASED)
    assert receipt["spent"]["money"] > 0, "what was paid is said"
    assert (one.folder / "report.html").exists()
    assert telling(one.folder) == []
    second = small(tmp_path)
    assert second.plan.number == 2
    assert second.plan.round == 1, "no gate decided"


async def test_a_damaged_file_of_a_turn_does_not_keep_an_erasure_from_what_it_holds(tmp_path: Path) -> None:
    one = await interrupted(tmp_path)
    (one.folder / "2-attribute" / "result.json").write_text("{")
    store = control(tmp_path)
    forget_traces(tmp_path / "turns", store, {trace_id(3)})
    assert open_turn(store) is None
    assert telling(one.folder) == []


async def test_a_turn_that_was_killed_before_it_ran_is_ended_and_the_next_one_is_planned(
    tmp_path: Path,
) -> None:
    store = control(tmp_path)
    plan = plan_turn(store, parent="x", learner="routes", reason="", now=0.0)
    receipt = stop_turn(tmp_path / "turns" / f"{plan.number:06d}", plan, store, "it never ran")
    assert (receipt["outcome"], receipt["stages"]) == ("stopped", [])
    assert open_turn(store) is None


async def test_an_erasure_stops_a_process_that_works_at_the_turn(tmp_path: Path) -> None:
    class Erases(Model):
        async def ask(self, request):  # type: ignore[no-untyped-def]
            if len(self.asked) == 5:
                forget_traces(tmp_path / "turns", control(tmp_path), {trace_id(3)})
                assert telling(tmp_path / "turns") == [], "they are gone when the erasure is"
            return await super().ask(request)

    erases = Erases(0.5)
    one = small(tmp_path, served=models() | {"old": erases})
    receipt = await one.run()
    assert (receipt["outcome"], receipt["reason"]) == ("stopped", ERASED)
    assert len(erases.asked) <= 6 + 8  # those that were under way
    assert telling(one.folder) == []
    document = control(tmp_path).read("turn", "000001")
    assert document is not None
    assert document.value is not None
    assert (document.value["state"], document.value["reason"]) == ("stopped", ERASED)


async def test_what_a_kill_or_an_earlier_version_left_of_a_turn_goes_with_the_next_one(
    tmp_path: Path,
) -> None:
    one = await interrupted(tmp_path)
    remove_old_texts(tmp_path / "turns", control(tmp_path))
    assert telling(one.folder), "it is open"
    left = dict(written(one.folder))
    stop_turn(one.folder, one.plan, control(tmp_path), "by hand")
    for name in ("1-freeze/rest.parquet", "paid.sqlite", "work/notes.txt", "3-propose/candidate/route.json"):
        path = one.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(WORD.encode() + left.get(name, b""))
    remove_old_texts(tmp_path / "turns", control(tmp_path))
    assert telling(one.folder) == []
    assert not (one.folder / "work").exists()


async def test_other_settings_are_a_reason_to_stop_in_words_and_other_money_is_none(tmp_path: Path) -> None:
    one = await interrupted(tmp_path, config=TurnConfig(money=50.0))
    assert small(tmp_path, config=TurnConfig(money=60.0, seconds=1e6)).changed() == ""
    other = small(tmp_path, config=TurnConfig(alpha=0.01))
    assert other.changed() == "its settings have changed: config.alpha was 0.05, and is 0.01"
    other = small(tmp_path)
    other.evaluator = replay(models(), most_items=3)
    assert other.changed().startswith("its settings have changed: evaluator.config.most_items was 400")
    with lock(one.folder), pytest.raises(RunError, match="in use by another process"):
        stop_turn(one.folder, one.plan, control(tmp_path), "it was changed")
    receipt = stop_turn(one.folder, one.plan, control(tmp_path), other.changed())
    assert (receipt["outcome"], receipt["reason"]) == ("stopped", other.changed())
    assert receipt["stages"] == ["1-freeze", "2-attribute", "3-propose"]
    assert receipt["spent"]["money"] > 0
    assert small(tmp_path).plan.number == 2


async def test_a_turn_with_more_money_resumes_with_what_was_paid(tmp_path: Path) -> None:
    await interrupted(tmp_path, config=TurnConfig(money=50.0))
    served = models()
    receipt = await small(tmp_path, served=served, config=TurnConfig(money=60.0)).run()
    assert receipt["turn"]["number"] == 1
    assert served["bad"].asked == [], "the learner asks nothing again"


async def test_a_turn_freezes_its_window_and_the_next_one_finds_no_data_of_the_first(tmp_path: Path) -> None:
    config = TurnConfig(freeze={"most_traces": 120}, least_rated=1000)
    first = await small(tmp_path, config=config).run()
    second = small(tmp_path, config=config, views=views(240))
    seen: list[list[str]] = []
    attribute = second._attribute

    async def listening(folder: Path, spending: Any) -> dict[str, Any]:
        seen.append([row.view.trace.id for name in ("train", "gates", "final", "left out", "rest")
                     for row in second.data._rows(name)])  # fmt: skip
        return await attribute(folder, spending)

    second._attribute = listening  # type: ignore[method-assign]
    receipt = await second.run()
    assert sorted(seen[0]) == [trace_id(n) for n in range(120, 240)], "the newest ones"
    for one in (first, receipt):
        assert (one["data"]["counts"]["traces"], one["data"]["counts"]["most traces"]) == (120, 120)
    for number in (1, 2):
        folder = tmp_path / "turns" / f"{number:06d}"
        assert list(folder.rglob("*.parquet")) == []
        assert (folder / "receipt.json").exists()
        assert "most traces" in (folder / "report.html").read_text()
