"""A random share of judged answers is labelled by a person, blind, and the console shows how far judges agree."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from noria.core.traces.ids import new_id
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.index.people import HUMAN_SAMPLE, is_drawn, people_and_judges
from noria.core.traces.records import Feedback, JudgementRecord, Trace
from tests.assistant.gateways import TOKEN, Gateway, gateway
from tests.waiting import until

SHOP = "a-token-of-the-shop-0123"
JUDGING = {"human_share": 0.5}


def judged(trace: str, score: float) -> JudgementRecord:
    return JudgementRecord(f"judgement {trace}", trace, 1, "large", "1", "c", "judge", (), score)


def test_agreement_is_read_on_the_random_sample_alone(tmp_path: Path) -> None:
    index = TraceIndex(tmp_path / "index.sqlite")
    at, expected, differences = 1_800_000_000_000_000_000, [], []
    for n in range(400):
        at += 1_000_000
        trace = new_id(at)
        score, value = float(n % 4 > 0), float(n % 8 > 1)
        index._add(Trace(trace, at, at, "ok"))
        index._add(judged(trace, score))
        if n % 2:
            label = Feedback(new_id(at), trace, "comment", HUMAN_SAMPLE, at, value, source="operator")
            index._add(label)
            index._add(Feedback(new_id(at), trace, "rating", "helpful", at, 0.0, source="user"))
            if is_drawn(trace, 0.3):
                expected.append(score == value)
                differences.append(score - value)
    found = people_and_judges(index, 0.3)
    assert found.agreement.n == len(expected) == found.difference.n
    assert found.agreement.effect == pytest.approx(sum(expected) / len(expected))
    assert found.agreement.low < found.agreement.effect < found.agreement.high
    assert found.difference.effect == pytest.approx(sum(differences) / len(differences))
    assert all(is_drawn(one, 0.3) for one in found.waiting)
    assert 20 < len(found.waiting) < 100
    assert people_and_judges(index, 0.0).waiting == []
    index.close()


def form(one: Gateway, **fields: str) -> tuple[int, str]:
    body = urllib.parse.urlencode({"action": "label", "back": "/judges", **fields}).encode()
    request = urllib.request.Request(one.url + "/console/act", body, {"origin": one.url})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_person_labels_drawn_answers_in_the_console_without_the_judges_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", SHOP)
    callers = [{"name": "shop", "token_env": "SHOP_TOKEN"}]
    with gateway(tmp_path / "data", judging=JUDGING, callers=callers) as one:
        names = [one.ask(f"question {n}")["id"] for n in range(16)]
        for name in names:
            verdicts = [{"item": "clear", "value": "no", "reason": "the judge's own words"}]
            record: dict[str, Any] = {
                "type": "judgement", "id": name, "trace": name, "at": 1, "judge": "large", "version": "1",
                "checklist": "c", "path": "judge", "verdicts": verdicts, "score": 0.0,
            }  # fmt: skip
            assert one.call("/v1/judgements", record)[0] == 202
        drawn = [name for name in names if is_drawn(name, 0.5)]
        others = [name for name in names if name not in drawn]
        assert drawn
        assert others

        def shown() -> str:
            return one.raw("/judges")[1].decode()

        assert until(lambda: f'value="{drawn[-1]}"' in shown())
        text = shown()
        assert "the judge's own words" not in text, "who knows what the judge said agrees with it"
        assert "question" in text
        assert form(one, trace=drawn[0], value="1", token="wrong")[0] == 401
        assert form(one, trace=drawn[0], value="", token=TOKEN)[0] == 400
        status, text = form(one, trace=others[0], value="1", token=TOKEN)
        assert (status, "not in the random sample" in text) == (400, True)
        assert form(one, trace=drawn[0], value="1", token=TOKEN)[0] == 200
        label = {"target": drawn[1], "kind": "comment", "name": HUMAN_SAMPLE, "value": 0}
        assert one.call("/v1/feedback", label)[0] == 202, "the door of feedback does the same"
        assert one.call("/v1/feedback", label | {"kind": "rating"})[0] == 400
        assert one.call("/v1/feedback", label, token=SHOP)[0] in (403, 404), "an application labels nothing"
        assert until(lambda: "of 2 labelled answers" in shown())
        assert "50 %" in shown()
        (kept,) = one.trace(drawn[0])["feedback"]
        assert (kept["source"], kept["text"]) == ("operator", "drawn with probability 0.5")
