"""Whether answers rest on their pictures: asked again without them, judged, counted by skill, a guardrail of tests."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("json_repair")

from noria.assistant.companion import grounding as opening
from noria.assistant.companion.companion import Companion
from noria.assistant.companion.judging import TraceJudging
from noria.assistant.config import AssistantConfig
from noria.assistant.parts.grounding import NOTE, by_skill, without_pictures
from noria.core.errors import MissingExtra
from noria.core.traces.index.figures import unit_figures
from noria.core.traces.index.listing import seen_lately
from noria.core.traces.index.scores import trace_scores
from noria.core.traces.records import JudgementRecord
from tests.assistant.gateways import Gateway, gateway, settings
from tests.assistant.test_gateway import picture
from tests.chat_server import Body, Reply

ROUTES = {"looks": {"backend": "m", "system": "look"}, "guesses": {"backend": "m", "system": "guess"}}
SETTINGS: dict[str, Any] = {
    "routes": ROUTES, "begin": "looks",
    "judging": {"grounding": {"judge": "m", "share": 1.0, "most_cost": 0.01}},
}  # fmt: skip


def reply(body: Body, number: int) -> Reply:
    """One backend looks, the other guesses; the judge compares the words of the two answers."""
    last = body["messages"][-1]["content"]
    if "Questions:" in str(last):
        text = "".join(part.get("text", "") for part in last)
        first, second = (text.partition(f"Answer {side}:\n")[2].partition("\n")[0] for side in "AB")
        same = "yes" if first == second else "no"
        if "prose" in text:
            return Reply("I cannot say.")
        said = ["no" if "17 times" in text else "yes", "yes", "no" if "unicorn" in text else "yes", same]
        return Reply(
            json.dumps({"answers": [{"number": n + 1, "answer": one} for n, one in enumerate(said)]})
        )
    if body["messages"][0]["content"] == "guess":
        return Reply("a lamp")
    seen = any(part["type"] == "image_url" for part in last) if isinstance(last, list) else False
    return Reply("a red lamp" if seen else "I see no picture")


def ask(one: Gateway, words: str, route: str = "", **more: Any) -> str:
    content = {"messages": [{"role": "user", "content": picture(words)}], "model": route} | more
    status, answer = one.call("/v1/chat/completions", content)
    assert status == 200
    return str(answer["id"])


def judge(one: Gateway, **changes: Any) -> list[JudgementRecord]:
    """The judgements of the grounding that the companion makes now; they are kept by the gateway."""
    config = AssistantConfig.model_validate(settings(one.backend.url, **(SETTINGS | changes)))
    records: list[JudgementRecord] = []

    async def send(record: JudgementRecord) -> None:
        if record.path == "grounding":
            records.append(record)
            assert one.call("/v1/judgements", msgspec.to_builtins(record))[0] in (200, 201, 202)

    async def go() -> None:
        companion = Companion(one.folder, config)
        companion.index.follow(one.folder)
        (one.folder / "judging.json").unlink(missing_ok=True)
        async with TraceJudging(one.folder, config, send, companion.bundles) as judging:
            await judging.judge(companion.index)
        companion.index.follow(one.folder)
        companion.close()

    asyncio.run(go())
    return records


def test_an_answer_that_stands_without_its_picture_is_prejudice(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", reply, **SETTINGS) as one:
        looked, guessed = ask(one, "what is this?"), ask(one, "what is this?", "guesses")
        plain = one.ask("what is this?")["id"]
        ask(one, "what is 17 times 3?", "guesses")
        said = {record.trace: record for record in judge(one)}
        assert plain not in said, "without a picture there is nothing to ask"
        assert (said[looked].score, said[guessed].score) == (1.0, 0.0)
        assert [v.value for v in said[guessed].verdicts] == ["yes", "yes", "yes", "yes"]
        assert sorted(record.score is None for record in said.values()) == [False, False, True]
        again = [b for b in one.backend.seen if NOTE in str(b) and "Questions:" not in str(b)]
        assert len(again) == 3
        assert {b["messages"][0]["content"] for b in again} == {"look", "guess"}, "the same bundle is asked"
        assert not any("image_url" in str(b) for b in again)
        judged = [b for b in one.backend.seen if "Questions:" in str(b)]
        assert all("image_url" in str(b) for b in judged), "the judge sees the picture"
        assert judge(one) == [], "what was judged is not judged again"

        page = one.raw("/")[1].decode()
        assert "Do answers rest on their pictures?" in page
        assert "50 %" in page
        view = one.trace(looked)
        assert {j["path"] for j in view["judgements"]} == {"grounding"}


def test_it_is_a_figure_of_its_own_and_no_part_of_the_score(tmp_path: Path) -> None:
    experiment = {"name": "look", "challenger": "guesses", "primary": "helpful", "shadow_requests": 0,
                  "planned": 1000, "guardrails": [{"name": "grounded", "tolerance": 0.1}]}  # fmt: skip
    with gateway(tmp_path / "data", reply, **SETTINGS) as one:
        status, started = one.call("/v1/experiments", experiment)
        assert status == 201, started
        document = one.call("/v1/experiments")[1]
        assert document
        config = AssistantConfig.model_validate(settings(one.backend.url, **SETTINGS))
        companion = Companion(one.folder, config)
        found = companion.control.read("experiment", "look")
        assert found is not None
        value = dict(found.value or {}) | {"stage": "ab", "since": 1}
        companion.control.write("experiment", "look", value, based_on=found.version, by="test")
        time.sleep(1.2)  # the gateway takes the stage over
        for user in range(24):
            ask(one, "what is this?", user=f"user {user}")
        records = judge(one)
        assert len(records) == 24
        companion.index.follow(one.folder)
        figures = unit_figures(companion.index, "look", 0, ["helpful"])
        shares = {
            arm: [f.total for f in figures if f.name == "grounded" and f.arm == arm and f.number]
            for arm in ("champion", "challenger")
        }
        assert set(shares["champion"]) == {1.0}
        assert set(shares["challenger"]) == {0.0}
        assert not any(f.number for f in figures if f.name == "score")
        assert seen_lately(companion.index, 0).scores == []
        assert trace_scores(companion.index, 0, most=99) == []
        companion.close()


def test_what_cannot_be_used_is_kept_and_counted(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", reply, **SETTINGS) as one:
        ask(one, "prose please")
        (record,) = judge(one)
        assert {verdict.value for verdict in record.verdicts} == {"invalid"}
        assert record.score is None
        assert record.cost is not None, "both requests were paid"
        (row,) = by_skill([("", {v.item: v.value for v in record.verdicts})])
        assert (row.judged, row.needed, row.invalid) == (1, 0, 1)
        assert math.isnan(row.rates["holistic"].effect)


@pytest.mark.parametrize(
    ("changes", "number"),
    [({"share": 0.0}, 0), ({"budget_per_day": 0.025}, 2), ({"budget_per_day": 0.0}, 0), ({}, 4)],
)
def test_the_share_and_the_money_of_a_day_hold(tmp_path: Path, changes: dict[str, Any], number: int) -> None:
    """A backend that counts no tokens: what is not known counts as what was set aside."""

    def uncounted(body: Body, number: int) -> Reply:
        return replace(reply(body, number), usage=None)

    given = {"judging": {"grounding": {"judge": "m", "share": 1.0, "most_cost": 0.0125} | changes}}
    with gateway(tmp_path / "data", uncounted, **(SETTINGS | given)) as one:
        for _ in range(4):
            ask(one, "what is this?")
        assert len(judge(one, **given)) == number
        assert len([b for b in one.backend.seen if NOTE in str(b)]) == number, "nothing is asked beyond it"


def test_rates_are_those_of_the_benchmark() -> None:
    def said(needs: str, right: str, supported: str, stands: str) -> tuple[str, dict[str, str]]:
        return "s", {"needs": needs, "right": right, "supported": supported, "stands": stands}

    (row,) = by_skill(
        [
            said("yes", "yes", "yes", "no"), said("yes", "yes", "yes", "no"), said("yes", "yes", "no", "yes"),
            said("yes", "yes", "invalid", "yes"), said("yes", "no", "yes", "no"), said("no", "yes", "yes", "yes"),
        ]
    )  # fmt: skip
    assert (row.judged, row.needed, row.invalid) == (6, 5, 1)
    assert (row.rates["prejudice"].effect, row.rates["prejudice"].n) == (0.5, 4)
    assert row.rates["confabulation"].effect == pytest.approx(1 / 3)
    assert row.rates["confabulation"].n == 3
    assert (row.rates["holistic"].effect, row.rates["holistic"].n) == (0.5, 4)
    assert row.rates["holistic"].low < 0.5 < row.rates["holistic"].high


def test_pictures_leave_the_messages_and_nothing_else_does() -> None:
    given: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": picture("what?")},
    ]
    blind = without_pictures(given)
    assert blind[0] == given[0]
    assert [part["text"] for part in blind[1]["content"]] == ["what?", NOTE]
    assert "image_url" in str(given), "the messages themselves stay as they are"


def test_without_its_extra_the_companion_judges_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []

    def absent(name: str) -> Any:
        raise MissingExtra("json_repair", "grounding")

    with gateway(tmp_path / "data", reply, **SETTINGS) as one:
        ask(one, "what is this?")
        monkeypatch.setattr(opening, "import_module", absent)
        monkeypatch.setattr(opening.log, "warning", lambda words, *more: logged.append(words))
        assert judge(one) == []
        assert "is not judged" in logged[0]
