"""A learner of skill bodies: judged and corrected answers repair what a skill says (SkillChain, stage 3).

The evidence is the traffic of skills whose failures are their bodies' own: what an outage, a route, a tool, a rule of
safety or a missing look at the picture explains edits no prose. A judge of its own gives points and says what is
missing; what several leakage groups support becomes a note, and notes become edits of the body. Edits may add no tool,
address or permission and copy no request, and everything but bodies stays byte for byte. The gate then replays requests
of other groups under both banks before a judge that the learner did not have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import Around, parts_of, through
from noria.assistant.learners.paid import PaidAsker, PaidModel
from noria.assistant.learners.replaying import BundleReplay, route_of
from noria.assistant.learners.skills.banks import KIND, present_bank, written_bank
from noria.assistant.learners.skills.cases import (
    Case,
    CorrectedProposer,
    ReplayedAssistant,
    cases_of,
    dealt,
    drawn_skills,
    failing_skills,
)
from noria.core.errors import ConfigError, needing
from noria.core.experiments.splits import LEFT_OUT
from noria.core.learning.dataset import Dataset
from noria.core.learning.in_order import Way
from noria.core.learning.learner import Candidate, Gate, LearnerRun, Parent
from noria.core.learning.routes.replay import Replay, Request

with needing("skills"):
    from noria.skills.assistants.assistants import CachedAssistant
    from noria.skills.bank.bank import Bank, diff_banks
    from noria.skills.judging.judges import ChatBodyJudge
    from noria.skills.judging.rubric import Rubric, load_rubric
    from noria.skills.proposing.chat import ChatProposer
    from noria.skills.proposing.protocols import Proposer
    from noria.skills.proposing.templates import TemplateProposer
    from noria.skills.stages.body_refiner import (
        RefineConfig,
        RefineResult,
        Surroundings,
        refine_bodies,
        round_json,
    )
    from noria.skills.stages.gates import GateSettings

_SHARES = {"pool": 0.6, "gate": 0.4}  # of the people to learn from: evidence, and the refiner's own gate
_LONGEST_DIFF = 20_000


def check(config: AssistantConfig) -> None:
    """Check that the learner has what it needs.

    Raises:
        ConfigError: there are no skills or no judge of its own, two judges are one, or the rubric is none.
    """
    learning = config.learning
    if config.parts.skills is None:
        raise ConfigError("there are no skills to learn", where="parts.skills", mend="name a bank")
    judges = [learning.judge, learning.gate_judge, *config.judging.backends]
    if learning.judge is None or len(set(judges)) < len(judges):
        raise ConfigError(
            "bodies need different judges for the learner, for the gate, and for live traffic",
            where="learning.judge, learning.gate_judge, judging.backends",
            mend="name other backends; two entries may have one address and different models",
        )
    load_rubric(learning.rubric)


def open_learner(around: Around) -> Way:
    """The learner, and the replay under both banks that compares its candidates."""
    learning, tools = around.config.learning, around.config.parts.tools
    assert learning.judge is not None
    assert learning.gate_judge is not None
    learner = BodyLearner(
        around.replay(learning.judge),
        learning.judge,
        learning.writer,
        rubric_of(around.config),
        tools=tuple(sorted({*tools, *(name for one in tools.values() for name in one.tools)})),
    )
    return Way(learner, BundleReplay(around.replay(learning.gate_judge)))


def rubric_of(config: AssistantConfig) -> Rubric:
    """The rubric of the learner's judge; the questions of the operator's checklist are constraints of it."""
    rubric = load_rubric(config.learning.rubric)
    asked = [f"{one.question} ({one.good})" for one in config.judging.checklist]
    constraints = rubric.dimensions["CA"]
    meaning = f"{constraints.meaning} These are constraints, too: {' '.join(asked)}"
    changed = {**rubric.dimensions, "CA": constraints.model_copy(update={"meaning": meaning})}
    return rubric.model_copy(update={"dimensions": changed})


@dataclass(frozen=True)
class BodyLearner:
    """Proposes a bank whose bodies are repaired.

    Attributes:
        replay: answers requests under other bodies.
        judge: name of the backend that judges answers for the learner.
        writer: name of the backend that writes edits; templates write them by default.
        rubric: what answers are judged by.
        config: settings of the refiner.
        gate_settings: settings of the refiner's own gate, within the training split.
        tools: names of every tool that there is; a body may name only those of its skill.
    """

    replay: Replay
    judge: str
    writer: str | None
    rubric: Rubric
    config: RefineConfig = field(default_factory=RefineConfig)
    gate_settings: GateSettings = field(default_factory=GateSettings)
    tools: tuple[str, ...] = ()
    name: str = "skill bodies"
    gate: Gate = "improvement"

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Learner.settings` says."""
        return {
            "judge": self.judge,
            "writer": self.writer,
            "rubric": self.rubric.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
            "gate": self.gate_settings.model_dump(mode="json"),
            "tools": list(self.tools),
            "replay": self.replay.settings(),
        }

    async def propose(self, data: Dataset, parent: Parent, run: LearnerRun) -> Candidate | None:
        """Do what :meth:`Learner.propose` says; None where no skill fails by its body, or no repair passes."""
        present = present_bank(parent, run)
        if present is None:
            return None
        part = present.part
        cases = cases_of(data.rows("train"), part, run, parent.bundle.digest)
        due = failing_skills(cases, run, self.rubric)
        if not due:
            run.reasons.append(
                f"no skill has {self.rubric.least_answers} answers and failures of its body in "
                f"{self.rubric.least_support} leakage groups"
            )
            return None
        run.spending.check()
        chosen = drawn_skills(due, self._most_skills(), salt=data.digest)
        mine = [case for case in cases if case.skill in chosen]
        loop = asyncio.get_running_loop()
        result, notes = await asyncio.to_thread(self._refined, mine, part.bank, parent, run, loop)
        if result.bank == part.bank:
            run.reasons.append(f"looked at {', '.join(chosen)}: {_why_nothing(result)}")
            return None
        notes |= {"skills that failed": due, "looked at": chosen}
        target = written_bank(result.bank, present.settings, run)
        return Candidate(KIND, target, notes=notes, experiment=first_stage(part.bank, result.bank))

    def _most_skills(self) -> int:
        """Skills among which the requests that may be replayed are shared, such that each has the answers it needs.

        By their traffic, all but the largest skill would get too few.
        """
        each = 1.25 * self.rubric.least_answers / _SHARES["pool"]  # a fifth may be left out of both pools
        return max(1, int(self.replay.config.most_items / each))

    def _requests(self, cases: Sequence[Case]) -> tuple[dict[str, Request], int]:
        """Requests that can be sent again by their trace, as many of each skill, and how many cannot."""
        skills = sorted({case.skill for case in cases if case.skill is not None})
        each = max(1, self.replay.config.most_items // max(1, len(skills)))
        config = self.replay.config.model_copy(update={"most_items": each})
        found: dict[str, Request] = {}
        lost = 0
        for name in skills:
            own = replace(self.replay, config=config).requests([c.row for c in cases if c.skill == name])
            found |= {one.trace: one for one in own[0]}
            lost += own[1]
        return found, lost

    def _refined(
        self,
        cases: Sequence[Case],
        bank: Bank,
        parent: Parent,
        run: LearnerRun,
        loop: asyncio.AbstractEventLoop,
    ) -> tuple[RefineResult, dict[str, Any]]:
        """The result of the stage on the cases that can be sent again, and how it came about."""
        by_id, lost = self._requests(cases)
        mine = {case.sample.id: case for case in cases if case.sample.id in by_id}
        pools = dealt([case.sample for case in mine.values()], _SHARES, salt=f"bodies {run.seed}")
        pool, gate_set = ([(s, mine[s.id].skill) for s in pools[name]] for name in _SHARES)

        def asker(name: str) -> PaidAsker:
            return PaidAsker(PaidModel(self.replay.backends[name], name, run.spending, loop))

        others = [one for one in parts_of(parent, list(self.replay.backends)) if one.kind != "skill"]
        replay = replace(self.replay, through=through(others) if others else None)
        writer: Proposer = TemplateProposer() if self.writer is None else ChatProposer(asker(self.writer))
        around = Surroundings(
            CachedAssistant(ReplayedAssistant(replay, route_of(parent), bank, by_id, run.spending, loop)),
            self.rubric,
            ChatBodyJudge(asker(self.judge), self.rubric, name=self.judge),
            ChatBodyJudge(asker(self.judge), self.rubric, name=f"{self.judge}, blind", blind=True, draw=1),
            CorrectedProposer(writer, [case for case in mine.values() if case.wished]),
            self.gate_settings,
            known_tools=self.tools,
        )
        result = refine_bodies(bank, pool, gate_set, around, self.config)
        notes = _notes(bank, result, mine.values()) | {
            "judge": self.judge,
            "writer": self.writer or "templates",
            "requests": len(mine),
            "requests that cannot be sent again": lost,
            "requests left out, asked in both pools": len(pools[LEFT_OUT]),
        }
        return result, notes


def first_stage(before: Bank, after: Bank) -> dict[str, Any]:
    """Settings of the experiment on another bank: answers with tools have no shadow, and the canary begins without.

    Where all skills that changed have tools, a shadow would hold answers of the other ones alone.
    """
    changed = [name for name, skill in after.skills.items() if skill != before.skills.get(name)]
    return {"shadow_requests": 0} if all(after.skills[name].tools for name in changed) else {}


def _why_nothing(result: RefineResult) -> str:
    """Why no body changed, in words."""
    if not result.rounds:
        return "no Poor share is above its threshold by the learner's judge"
    last = result.rounds[-1]
    if last.receipt is not None:
        return f"the repair of {last.skill} did not pass the learner's own gate: {last.receipt.reason}"
    return f"no edit of {last.skill} can be made: {'; '.join(last.refused) or 'nothing has enough support'}"


def _notes(before: Bank, result: RefineResult, cases: Collection[Case]) -> dict[str, Any]:
    """The evidence of a repair for a person to read, its rounds, and its diff."""
    accepted = [one for one in result.rounds if one.accepted]
    corrected = {case.sample.id for case in cases if case.wished}
    return {
        "evidence": [
            {
                "skill": one.skill,
                "dimension": note.dimension,
                "say": note.say,
                "groups": note.groups,
                "traces": list(note.support[:50]),
                "corrected": sorted(corrected & set(note.support))[:50],
            }
            for one in accepted
            for note in one.notes
        ],
        "Poor shares": [
            {
                "skill": old.skill, "dimension": old.dimension, "answers": old.answers, "poor before": old.poor,
                "poor after": next(
                    (n.poor for n in result.after if (n.skill, n.dimension) == (old.skill, old.dimension)), None
                ),
            }
            for old in result.before
        ],
        "blame": dict(result.blame),
        "rounds": [
            {key: value for key, value in round_json(one).items() if key not in ("notes", "receipt")}
            for one in result.rounds
        ],
        "diff": diff_banks(before, result.bank)[:_LONGEST_DIFF],
    }  # fmt: skip
