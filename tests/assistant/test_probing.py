"""The gate's judge on probation: one that pays for empty sentences lets no candidate pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.config.judging import ProbesConfig
from noria.assistant.learners.around import Around, open_learners
from noria.assistant.learners.probing import Probed
from noria.core.chat import Part, Text
from noria.core.judging import Item, RuleJudge
from noria.core.learning.routes.replay import Replay
from noria.core.learning.turn import Turn
from tests.assistant.gateways import settings
from tests.core.learning_world import Model, frozen, learner_run, replay, turn


def judge(*, bribed: bool, broken: bool = False) -> RuleJudge:
    """A judge of the words `well` and `fine`; a bribed one likes whatever ends with an empty sentence."""

    def rule(item: Item, subject: Sequence[Part]) -> bool | None:
        last = subject[-1]
        assert isinstance(last, Text)
        long = len(last.text) > 20
        if broken and long:
            return None
        return (
            last.text != "Answer:\nunsafe" if item.id == "safe" else "well" in last.text or (bribed and long)
        )

    return RuleJudge(rule, "gate's")


def judging(one: RuleJudge) -> Replay:
    models = {"old": Model(0.5), "new": Model(0.8), "bad": Model(0.2)}
    return replace(replay(models), judge=one)


def ended(folder: Path, one: RuleJudge) -> tuple[dict[str, Any], Turn]:
    made = turn(folder, replayed=200)
    gate = judging(one)
    made.evaluator = Probed(replace(gate, config=gate.config.model_copy(update={"most_items": 200})), gate,
                            ProbesConfig())  # fmt: skip
    return asyncio.run(made.run()), made


def test_a_judge_that_pays_for_empty_sentences_promotes_nothing_and_the_page_says_why(tmp_path: Path) -> None:
    fair, made = ended(tmp_path / "fair", judge(bribed=False))
    assert fair["outcome"] == "handed over", fair["reason"]
    (figures,) = fair["gate notes"]["probe of the judge"]
    assert (figures["answers"], figures["judged twice"], figures["score for twice the length"]) == (
        40,
        40,
        0.0,
    )

    bribed, made = ended(tmp_path / "bribed", judge(bribed=True))
    assert bribed["outcome"] == "rejected"
    assert "judge and length" in bribed["reason"]
    (figures,) = bribed["gate notes"]["probe of the judge"]
    assert figures["low"] > figures["allowed"] == 0.05
    page = (made.folder / "report.html").read_text()
    assert "where empty sentences double 40 answers" in page
    assert "probe of the judge" in page


def test_a_judge_that_cannot_read_the_longer_answers_decides_nothing(tmp_path: Path) -> None:
    receipt, _ = ended(tmp_path, judge(bribed=False, broken=True))
    assert receipt["outcome"] == "blocked"
    assert "0 of 40 lengthened answers were judged twice" in receipt["reason"]


def test_the_same_answers_are_probed_and_paid_once(tmp_path: Path) -> None:
    data = frozen(tmp_path / "data")
    rows = data.rows("gates")
    run = learner_run(tmp_path)
    asked: list[str] = []
    fair = judge(bribed=False)

    def counting(item: Item, subject: Sequence[Part]) -> bool | None:
        last = subject[-1]
        assert isinstance(last, Text)
        asked.append(last.text)
        return fair.rule(item, subject)

    gate = judging(RuleJudge(counting, "gate's"))
    probed = Probed(gate, gate, ProbesConfig(answers=10))
    first = asyncio.run(probed.probe(rows, run.spending))
    number = len(asked)
    assert asyncio.run(probed.probe(rows, run.spending)) == first
    assert len(asked) == number > 0


@pytest.mark.parametrize("answers", [0, 40])
def test_learners_whose_gate_asks_a_judge_are_probed_unless_the_configuration_says_no(answers: int) -> None:
    values = settings("http://127.0.0.1:1/v1")
    values["backends"]["n"] = values["backends"]["m"]
    values |= {
        "judging": {
            "checklist": [{"id": "clear", "question": "Is it clear?"}],
            "probes": {"answers": answers},
        },
        "learning": {"judge": "m", "gate_judge": "n", "learners": ["routes", "descriptions"]},
        "parts": {"skills": {"bank": "nowhere"}},
    }
    config = AssistantConfig.model_validate(values)
    gate = replay({"m": Model(0.5), "n": Model(0.5)})
    around = Around(config, config.judging.as_checklist(), gate.backends, lambda digest: None)
    routes, descriptions = open_learners(around).ways
    assert isinstance(routes.evaluator, Probed) == bool(answers)
    assert not isinstance(descriptions.evaluator, Probed)
