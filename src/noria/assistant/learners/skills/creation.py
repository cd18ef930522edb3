"""A learner of skills that are missing: requests that no skill fits and that are about one thing become a draft.

Out-of-domain requests are scattered, requests for a missing skill are close to each other. The largest cluster of them
that has a draft without faults is proposed, by SkillChain's Skill Creator: written, checked, tried on requests of the
cluster, and routed by a threshold of its own; the skills that are there stay byte for byte. The gate replays requests
of other leakage groups under both banks. A new skill always asks for a person's yes, whatever promotes by itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import Around, parts_of, through
from noria.assistant.learners.paid import PaidAsker, PaidModel
from noria.assistant.learners.replaying import BundleReplay, route_of
from noria.assistant.learners.skills.banks import KIND, present_bank, written_bank
from noria.assistant.learners.skills.cases import Case, ReplayedAssistant, cases_of
from noria.assistant.parts.skills import NONE, SkillSettings, SkillsPart, read_settings
from noria.core.errors import ConfigError, needing
from noria.core.experiments.gates import Rule
from noria.core.learning.dataset import Dataset, Row
from noria.core.learning.in_order import Way
from noria.core.learning.learner import Candidate, Comparison, Gate, LearnerRun, Parent
from noria.core.learning.routes.replay import Replay

with needing("skills"):
    from noria.skills.bank.bank import Bank, diff_banks, read_bank
    from noria.skills.proposing.chat import ChatProposer
    from noria.skills.proposing.protocols import TaskSpec
    from noria.skills.routing.encoders import make_encoder
    from noria.skills.stages.creator import CreateConfig, Created, create_skills
    from noria.skills.stages.human import AnyoneGate
    from noria.skills.stages.missing import MissingSkill, missing_skills

TRIED = 3
"""Most clusters for which a draft is written in a turn, the largest first."""
REACHED = 0.9
"""Share of a cluster's requests that reach the threshold of its skill."""
TAKEN = 0.05
"""Largest share of the requests of other skills that a new one may take."""
_LONGEST_DIFF = 20_000


def check(config: AssistantConfig) -> None:
    """Check that the learner has what it needs.

    Raises:
        ConfigError: there are no skills, or nobody writes.
    """
    if config.parts.skills is None:
        raise ConfigError("there are no skills to add to", where="parts.skills", mend="name a bank")
    if config.learning.writer is None:
        raise ConfigError("nobody writes a new skill", where="learning.writer", mend="name a backend")


def open_learner(around: Around) -> Way:
    """The learner, and the replay under both banks that compares its candidates."""
    learning, tools = around.config.learning, around.config.parts.tools
    assert learning.writer is not None
    assert learning.gate_judge is not None
    replay = around.replay(learning.gate_judge)  # the trial answers requests, and judges none
    names = tuple(sorted({*tools, *(name for one in tools.values() for name in one.tools)}))
    return Way(CreationLearner(replay, learning.writer, names), NewSkillReplay(BundleReplay(replay)))


@dataclass(frozen=True)
class CreationLearner:
    """Proposes a bank with one skill more.

    Attributes:
        replay: answers requests under a draft.
        writer: name of the backend that writes drafts.
        tools: names of every tool that there is; a draft may name none of them.
        config: settings of the Skill Creator.
        least_groups: leakage groups that a cluster needs.
        near: least mean cosine between two clusters that are joined: hashed n-grams of one topic in other words lie
            further apart than word embeddings.
    """

    replay: Replay
    writer: str
    tools: tuple[str, ...] = ()
    config: CreateConfig = field(default_factory=CreateConfig)
    least_groups: int = 8
    near: float = 0.35
    name: str = "new skill"
    gate: Gate = "improvement"

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Learner.settings` says."""
        return {
            "writer": self.writer,
            "tools": list(self.tools),
            "config": self.config.model_dump(mode="json"),
            "least_groups": self.least_groups,
            "near": self.near,
            "replay": self.replay.settings(),
        }

    async def propose(self, data: Dataset, parent: Parent, run: LearnerRun) -> Candidate | None:
        """Do what :meth:`Learner.propose` says; None where no cluster is large enough, or no draft passes."""
        present = present_bank(parent, run)
        if present is None:
            return None
        part = present.part
        cases = cases_of(data.rows("train"), part, run, parent.bundle.digest)
        lost = [case.sample for case in cases if case.skill is None]
        encoder = make_encoder(present.settings.encoder)
        queue = await asyncio.to_thread(
            missing_skills, lost, encoder, least_groups=self.least_groups, near=self.near
        )
        if not queue:
            run.reasons.append(
                f"{len(lost)} requests found no skill, and no {self.least_groups} leakage groups of them are about "
                "one thing"
            )
            return None
        run.spending.check()
        loop = asyncio.get_running_loop()
        made, bank, cluster = await asyncio.to_thread(self._made, queue, cases, part, parent, run, loop)
        if bank is None:
            run.reasons.extend(
                f"no draft of {one.task}: {'; '.join(one.faults) or one.state}" for one in made
            )
            return None
        name = made[-1].task
        target = written_bank(bank, _routed(bank, present.settings, name, cluster), run)
        return Candidate(KIND, target, notes=_notes(part.bank, bank, name, cluster, queue))

    def _made(
        self,
        queue: Sequence[MissingSkill],
        cases: Sequence[Case],
        part: SkillsPart,
        parent: Parent,
        run: LearnerRun,
        loop: asyncio.AbstractEventLoop,
    ) -> tuple[list[Created], Bank | None, MissingSkill]:
        """What became of the clusters that were tried, and the bank with the first draft that has no faults."""
        requests, _ = self.replay.requests([case.row for case in cases])
        by_id = {one.trace: one for one in requests}
        others = [one for one in parts_of(parent, list(self.replay.backends)) if one.kind != "skill"]
        replay = replace(self.replay, through=through(others) if others else None)
        assistant = ReplayedAssistant(replay, route_of(parent), part.bank, by_id, run.spending, loop)
        asker = PaidAsker(PaidModel(self.replay.backends[self.writer], self.writer, run.spending, loop))
        made: list[Created] = []
        for cluster in queue[:TRIED]:
            task = task_of(cluster, part.bank)
            inside = {one.id for one in cluster.samples}
            samples = [
                replace(
                    case.sample, expected=(task.name if case.sample.id in inside else case.skill or NONE,)
                )
                for case in cases
            ]
            bank, created = create_skills(
                [task], samples, part.bank, ChatProposer(asker), AnyoneGate("the turn, before a person"),
                self.config, encoder=part.router.encoder, tools=self.tools, assistant=assistant,
            )  # fmt: skip
            made += created
            if created and created[-1].state == "added":
                return made, bank, cluster
        return made, None, queue[0]


@dataclass(frozen=True)
class NewSkillReplay:
    """The replay of both banks, with a rule on the requests that a new skill takes from others.

    Attributes:
        replay: the replay of both banks.
    """

    replay: BundleReplay

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Evaluator.settings` says."""
        return {**self.replay.settings(), "taken": TAKEN}

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Do what :meth:`Evaluator.compare` says."""
        folder = parent.folder(KIND)
        assert folder is not None, "the learner adds to the skills that are there"
        sides = []
        for one in (folder, candidate.folder):
            part = SkillsPart(read_bank(one), read_settings(one))
            questions = [case.sample.query for case in cases_of(rows, part, replace(run, failures=()), "")]
            sides.append(part.router.choose(questions))
        held = [pair for pair in zip(*sides, strict=True) if pair[0] not in (None, NONE)]
        taken = sum(old != new for old, new in held)
        words = f"{taken} of {len(held)} requests of other skills go elsewhere, {TAKEN:.0%} allowed"
        rule = Rule("other skills", "passed" if taken <= TAKEN * len(held) else "failed", words)
        compared = await self.replay.compare(rows, parent, candidate, run)
        fits = sum(new not in (None, NONE) and old in (None, NONE) for old, new in zip(*sides, strict=True))
        notes = {**compared.notes, "requests that the new skill fits": fits}
        return replace(compared, rules=(*compared.rules, rule), notes=notes)


def task_of(cluster: MissingSkill, bank: Bank) -> TaskSpec:
    """The task of a cluster, named by the terms that tell it from the other requests."""
    terms = list(cluster.terms[:6]) or [cluster.samples[0].query[:60]]
    plain = re.sub(r"[^a-z0-9]+", "-", " ".join(terms[:2]).lower()).strip("-")[:48].rstrip("-") or "new-skill"
    name = f"{plain}-{len(bank.skills)}" if plain in bank.skills else plain
    return TaskSpec(name=name, purpose=f"{len(cluster.samples)} requests about {', '.join(terms)}."[:500])


def _routed(bank: Bank, before: SkillSettings, name: str, cluster: MissingSkill) -> SkillSettings:
    """Settings of the bank's routing: those before, with a threshold that nine in ten of the cluster's requests reach.

    What else found no skill says nothing of it: it may be about the same thing, or about anything.
    """
    router = SkillsPart(bank, before).router
    scores = router.scores([one.query for one in cluster.samples])[:, router.names.index(name)]
    bar = float(np.quantile(scores, 1 - REACHED))
    return before.model_copy(update={"thresholds": {**before.thresholds, name: bar}})


def _notes(
    before: Bank, after: Bank, name: str, cluster: MissingSkill, queue: Sequence[MissingSkill]
) -> dict[str, Any]:
    """The evidence of a new skill for a person to read, what else is missing, and its text."""
    say = f"{len(cluster.samples)} requests about {', '.join(cluster.terms[:6])} found no skill"
    return {
        "evidence": [{"skill": name, "dimension": "no skill fits", "say": say, "groups": cluster.groups,
                      "traces": [one.id for one in cluster.samples[:50]]}],
        "queue": [
            {"terms": list(one.terms[:6]), "requests": len(one.samples), "groups": one.groups}
            for one in queue
            if one is not cluster
        ][:10],
        "diff": diff_banks(before, after)[:_LONGEST_DIFF],
    }  # fmt: skip
