"""A learner of the planner of edits, over a frozen editor (DDA-Thinker), from the edits that people asked for.

What people liked is imitated: the planner's own outputs of edits that were rated well. Then the planner is reinforced
on the edits that were asked for, each with its checklist: one stream of rollouts is rewarded for the plan, another for
the picture that the frozen editor makes of it, by the learner's judge; FlowTracer's credit may share the advantage out
to the tokens of the plan. The gate renders edits of other leakage groups by both planners before another judge. The
tool swaps the planner in by its content hash, where it serves versions.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.config.learning import PlannerConfig
from noria.assistant.config.parts import LEARNT
from noria.assistant.learners.around import Around, check_tool
from noria.assistant.learners.paid import PaidModel
from noria.assistant.learners.pictures.calls import PictureCall, distinct, picture_calls
from noria.assistant.learners.pictures.edits import (
    LEAST,
    CheckedEdits,
    checked_edits,
    examples_of,
    imitation,
    judges_of,
    reinforcement,
)
from noria.assistant.learners.pictures.planner_gate import BetterEdits
from noria.assistant.learners.working import Halt, worked
from noria.core.errors import ConfigError, needing
from noria.core.files import remove_folder
from noria.core.learning.dataset import Dataset
from noria.core.learning.in_order import Way
from noria.core.learning.learner import Candidate, Gate, LearnerRun, Parent
from noria.core.progress import Progress

with needing("editing"):
    from noria.editing.environment.judges import AtomicJudges
    from noria.editing.verbs.sft import run as imitate
    from noria.editing.verbs.train import run as reinforce

KIND = LEARNT["edit"]


def check(config: AssistantConfig) -> None:
    """Check that the learner has what it needs.

    Raises:
        ConfigError: no planner is named, its tool is not there, nobody writes or judges, two judges are one, or a
            setting of a training is none.
    """
    learning, planner = config.learning, config.learning.planner
    if planner is None:
        raise ConfigError(
            "no planner is named", where="learning.planner", mend="give its tool and its folder"
        )
    check_tool(config, planner.tool, "edit", "learning.planner.tool")
    if learning.writer is None or learning.gate_judge is None:
        raise ConfigError(
            "edits need a writer of their checklists and a judge of the gate",
            where="learning.writer, learning.gate_judge",
            mend="name backends that see pictures",
        )
    if planner.reinforce is not None and learning.judge in (None, learning.gate_judge):
        raise ConfigError(
            "a planner is reinforced by another judge than the gate's",
            where="learning.judge",
            mend="name another backend; two entries may have one address and different models",
        )
    for make in (imitation, reinforcement):
        make(planner, Path("planner"), Path("tasks.jsonl"), Path("run"))
    if planner.credit is not None:
        from noria.assistant.learners.pictures.credit import credit_of

        credit_of(planner.credit)


def open_learner(around: Around) -> Way:
    """The learner, and the rendering by both planners that compares its candidates."""
    planner, learning = around.config.learning.planner, around.config.learning
    assert planner is not None
    assert learning.gate_judge is not None
    return Way(PlannerLearner(planner, around), BetterEdits(planner, around, learning.gate_judge))


@dataclass(frozen=True)
class PlannerLearner:
    """Proposes a planner of edits.

    Attributes:
        config: the planner, its tool and editor, and the settings of its trainings.
        around: the gateway's backends, and the pictures of its requests.
    """

    config: PlannerConfig
    around: Around
    name: str = "planner"
    gate: Gate = "improvement"

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Learner.settings` says."""
        learning = self.around.config.learning
        served = self.around.config.parts.tools[self.config.tool].versions
        asked = {"judge": learning.judge, "writer": learning.writer, "served": served}
        return {**self.config.model_dump(mode="json"), **asked}

    async def propose(self, data: Dataset, parent: Parent, run: LearnerRun) -> Candidate | None:
        """Do what :meth:`Learner.propose` says; None where few edits were asked for that can be learnt from."""
        calls = [one for one in picture_calls(data.rows("train"), self.config.tool) if one.before]
        folder = parent.folder(KIND) or Path(self.config.model)
        notes: dict[str, Any] = {"edits": len(calls)}
        if self.config.imitate is not None:
            liked = examples_of(calls, run.folder / "liked", self.around.blob, self.config.good)
            notes["liked"] = len(liked.tasks)
            if len(liked.tasks) >= LEAST:
                folder = await worked(
                    run.spending, lambda progress: self._imitated(liked, folder, run, progress)
                )
        if self.config.reinforce is not None and len(distinct(calls)) >= LEAST:
            reinforced = await self._asked(data, folder, run, notes)
            folder = reinforced or folder
        if folder in (parent.folder(KIND), Path(self.config.model)):
            run.reasons.append(f"{len(calls)} edits of {self.config.tool}: {LEAST} that were liked, or with a "
                               "checklist, are needed")  # fmt: skip
            return None
        target = run.folder / "planner"
        remove_folder(target)  # of a run that was killed: the same edits give the same planner
        shutil.copytree(folder, target)
        served = self.around.config.parts.tools[self.config.tool].versions
        return Candidate(
            KIND, target, notes=notes, tested=served,
            experiment={"shadow_requests": 0},  # answers with tools have no shadow
        )  # fmt: skip

    async def _asked(
        self, data: Dataset, folder: Path, run: LearnerRun, notes: dict[str, Any]
    ) -> Path | None:
        """Folder of the planner that was reinforced on what was asked for; None where too little has a checklist."""
        learning, backends, loop = (
            self.around.config.learning,
            self.around.backends,
            asyncio.get_running_loop(),
        )
        assert learning.writer is not None
        assert learning.judge is not None
        halt = Halt()
        writer, judge = (
            PaidModel(backends[name], name, run.spending, loop, halt)
            for name in (learning.writer, learning.judge)
        )
        calls = distinct([one for one in picture_calls(data.rows("train"), self.config.tool) if one.before])
        calls = sorted(calls, key=_urgency)[: self.config.tasks]
        tasks = await checked_edits(calls, run.folder / "asked", self.around.blob, writer, judges_of(judge))
        notes |= {"with a checklist": len(tasks.tasks), "corrected": sum(bool(one.wished) for one in calls)}
        notes["without one"] = sorted(set(tasks.dropped.values()))[:10]
        if len(tasks.tasks) < LEAST:
            return None
        return await worked(
            run.spending,
            lambda progress: self._reinforced(tasks, folder, run, judges_of(judge), notes, progress),
            halt,
        )

    def _imitated(self, liked: CheckedEdits, folder: Path, run: LearnerRun, progress: Progress) -> Path:
        job = imitation(self.config, folder, liked.file, run.folder / "imitation")
        return imitate(job, progress).planner

    def _reinforced(
        self,
        tasks: CheckedEdits,
        folder: Path,
        run: LearnerRun,
        judges: AtomicJudges,
        notes: dict[str, Any],
        progress: Progress,
    ) -> Path:
        credit = None
        if self.config.credit is not None:
            from noria.assistant.learners.pictures.credit import PlanCredit

            credit = PlanCredit(self.config.credit)
        job = reinforcement(self.config, folder, tasks.file, run.folder / "reinforcement")
        result = reinforce(job, progress, judges=judges, credit=credit)
        notes |= {"steps": result.steps, "renders": result.renders, "credit": self.config.credit or "none"}
        return result.planner


def _urgency(call: PictureCall) -> tuple[bool, float, str]:
    """Order in which edits are learnt from: what people corrected, then what they liked least."""
    return not call.wished, 0.5 if call.score is None else call.score, call.trace
