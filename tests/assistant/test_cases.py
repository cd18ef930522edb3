"""Which traffic speaks of a body: what stood, and failures that no other cause explains."""

from __future__ import annotations

from pathlib import Path

import pytest

from noria.assistant.learners.skills.bodies import first_stage
from noria.assistant.learners.skills.cases import (
    ELSEWHERE,
    CorrectedProposer,
    cases_of,
    drawn_skills,
    failing_skills,
)
from noria.assistant.parts.skills import SkillSettings, SkillsPart
from noria.core.learning.attribution import Attribution, Cause
from noria.core.learning.dataset import Dataset, FreezeConfig, freeze
from noria.core.learning.learner import LearnerRun
from noria.core.traces.records import Feedback
from noria.core.traces.store import TraceView
from noria.skills.bank.bank import Bank
from noria.skills.bank.editing import Edit
from noria.skills.bank.skill import make_skill
from noria.skills.judging.rubric import Rubric
from noria.skills.proposing.protocols import EditTask
from noria.skills.proposing.templates import TemplateProposer
from tests.core.learning_world import learner_run, log


def part() -> SkillsPart:
    skill = make_skill("tea", "For everything that is asked, about tea or not.", "# Tea\n\nBoil it.\n")
    return SkillsPart(Bank({"tea": skill}), SkillSettings(thresholds={"tea": -2.0}))


def frozen(folder: Path, wished: str = "") -> Dataset:
    folder.mkdir()
    views = log(100)
    for number, view in enumerate(views[:4] if wished else []):
        said = [
            Feedback(f"f{n}", view.trace.id, "correction", name, n, text=text, by="ann")
            for n, (name, text) in enumerate((("answer", "old"), ("answer", wished), ("skill", "none")))
        ]
        views[number] = TraceView(view.trace, tuple(said), view.judgements)
    return freeze(folder, views, FreezeConfig(train=0.9, gates=0.1))


def run_of(folder: Path, cause: Cause, traces: list[str]) -> LearnerRun:
    run = learner_run(folder)
    return LearnerRun(run.folder, 0, run.spending, [Attribution(one, cause, "") for one in traces])


@pytest.mark.parametrize(
    "cause", ["infrastructure", "routing", "tool", "safety", "grounding", "body", "model"]
)
def test_only_failures_that_a_body_can_mend_speak_of_it(tmp_path: Path, cause: Cause) -> None:
    rows = frozen(tmp_path / "data").rows("train")
    failed = [row.view.trace.id for row in rows[:20]]
    run = run_of(tmp_path, cause, failed)
    cases = cases_of(rows, part(), run, "bundle")
    assert {case.skill for case in cases} == {"tea"}
    due = failing_skills(cases, run, Rubric(least_answers=50))
    if cause in ELSEWHERE:
        assert len(cases) == len(rows) - 20
        assert due == {}
    else:
        assert len(cases) == len(rows)
        assert due == {"tea": 20}
    assert failing_skills(cases, run, Rubric(least_answers=1000)) == {}, "too few answers to say so"


def test_a_body_whose_answers_have_tools_begins_with_the_canary() -> None:
    """Answers with tools have no shadow: one would be awaited that holds other skills' answers alone."""
    search = make_skill("search", "For goods.", "Search.\n", tools=["search_products"])
    talk = make_skill("talk", "For all else.", "Talk.\n")
    before = Bank({"search": search, "talk": talk})
    one, other = search.with_body("Search, and say the price.\n"), talk.with_body("Talk briefly.\n")
    assert first_stage(before, Bank({"search": one, "talk": talk})) == {"shadow_requests": 0}
    assert first_stage(before, Bank({"search": one, "talk": other})) == {}
    assert first_stage(before, Bank({"search": search, "talk": other})) == {}


def test_skills_are_drawn_by_what_they_failed_and_none_waits_for_ever() -> None:
    failing = {"large": 200, "middle": 50, "small": 10}
    drawn = [drawn_skills(failing, 2, salt=str(turn)) for turn in range(300)]
    often = {name: sum(name in one for one in drawn) for name in failing}
    assert all(len(one) == 2 for one in drawn)
    assert often["large"] > 280 > often["middle"] > 200 > often["small"] > 20
    assert drawn_skills(failing, 5, salt="s") == ["large", "middle", "small"]


def test_the_last_correction_of_the_answer_is_what_was_wished_and_the_writer_sees_it(tmp_path: Path) -> None:
    rows = frozen(tmp_path / "data", wished="as it should be").rows("train")
    cases = cases_of(rows, part(), run_of(tmp_path, "body", []), "bundle")
    wished = [case for case in cases if case.wished]
    seen: list[EditTask] = []

    class Seeing(TemplateProposer):
        def edits(self, task: EditTask) -> list[Edit]:
            seen.append(task)
            return []

    skill = part().bank.skills["tea"]
    CorrectedProposer(Seeing(), wished).edits(EditTask(skill, [], []))
    assert [response.text for _, response in seen[0].good] == [case.wished for case in wished]
    assert wished, "the split of this seed holds it"
