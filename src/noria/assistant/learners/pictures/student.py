"""A learner of few-step students: the model of a tool that makes pictures is distilled on what people ask of it (CDM).

A student may not draw worse: on prompts of other leakage groups the difference of quality has to lie within the margin
on both sides, and a picture has to take fewer calls of a network. The tool swaps the student in by its content hash,
where it serves versions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.config.learning import StudentConfig
from noria.assistant.learners.around import Around, check_tool
from noria.assistant.learners.pictures.calls import picture_calls
from noria.assistant.learners.pictures.student_gate import KIND, SameQuality, known_prompts, painter_of
from noria.assistant.learners.working import worked
from noria.core.errors import ConfigError, needing
from noria.core.files import remove_folder, write_atomic
from noria.core.learning.dataset import Dataset
from noria.core.learning.in_order import Way
from noria.core.learning.learner import Candidate, Gate, LearnerRun, Parent
from noria.core.progress import Progress
from noria.core.runs.served import write_served

with needing("distill"):
    from noria.distill.config import merged, preset
    from noria.distill.verbs.export import ExportJobConfig, run as export
    from noria.distill.verbs.train import TrainJobConfig, run as train

LEAST = 20
"""Pictures that were asked for in words that the model knows, below which nothing is distilled."""


def check(config: AssistantConfig) -> None:
    """Check that the learner has what it needs.

    Raises:
        ConfigError: no model is named, its tool is not there, nobody judges, or a setting of the training is none.
    """
    student = config.learning.student
    if student is None:
        raise ConfigError("no model is named", where="learning.student", mend="give its tool and its model")
    check_tool(config, student.tool, "generate", "learning.student.tool")
    if config.learning.gate_judge is None:
        raise ConfigError("nobody judges the pictures", where="learning.gate_judge", mend="name a backend")
    _job(student, Path("prompts.jsonl"), Path("run"))


def open_learner(around: Around) -> Way:
    """The learner, and the drawing by both models that compares its candidates."""
    student, judge = around.config.learning.student, around.config.learning.gate_judge
    assert student is not None
    assert judge is not None
    served = around.config.parts.tools[student.tool].versions
    return Way(StudentLearner(student, served), SameQuality(student, around, judge))


@dataclass(frozen=True)
class StudentLearner:
    """Proposes a student of few steps.

    Attributes:
        config: the model, its tool, and the settings of the training.
        served: whether the tool answers by versions, so that an experiment can tell them apart.
    """

    config: StudentConfig
    served: bool
    name: str = "student"
    gate: Gate = "equivalence"

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Learner.settings` says."""
        return {**self.config.model_dump(mode="json"), "served": self.served}

    async def propose(self, data: Dataset, parent: Parent, run: LearnerRun) -> Candidate | None:
        """Do what :meth:`Learner.propose` says; None where few prompts were asked for."""
        calls = picture_calls(data.rows("train"), self.config.tool)
        prompts = await asyncio.to_thread(known_prompts, self.config, [one.prompt for one in calls])
        known = sum(one.prompt in prompts for one in calls)
        if known < LEAST:
            run.reasons.append(
                f"{known} pictures of {self.config.tool} that its model can be asked for, {LEAST} needed"
            )
            return None
        folder, steps = await worked(run.spending, lambda progress: self._distilled(prompts, run, progress))
        notes = {"pictures": known, "prompts": len(prompts), "not known": len(calls) - known, "steps": steps}
        return Candidate(
            KIND, folder, notes=notes, evidence={"bound": self.config.margin}, tested=self.served,
            experiment={"shadow_requests": 0},  # answers with tools have no shadow
        )  # fmt: skip

    def _distilled(self, prompts: Sequence[str], run: LearnerRun, progress: Progress) -> tuple[Path, int]:
        """Folder of a student as `noria distill serve` opens it, and its number of steps."""
        path, target = run.folder / "prompts.jsonl", run.folder / "student"
        write_atomic(path, "".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
        result = train(_job(self.config, path, run.folder / "training"), progress)
        remove_folder(target)  # of a run that was killed: the same prompts give the same student
        if result.small:
            write_served(result.folder, target, prefix="ema.", without=("prompts",))
        else:
            export(ExportJobConfig(source=result.folder, output=str(target)))
        return target, painter_of(target, self.config).grid.steps


def _job(config: StudentConfig, prompts: Path, output: Path) -> TrainJobConfig:
    """Settings of the training.

    Raises:
        ConfigError: a setting is none.
    """
    values = merged(preset(str(config.settings.get("preset", "cdm"))), config.settings)
    values |= {"model": config.model, "prompts": str(prompts), "output": str(output), "quiet": True}
    try:
        return TrainJobConfig.model_validate(values)
    except ValueError as error:
        first = str(error).splitlines()[1:3]
        raise ConfigError(" ".join(first).strip(), where="learning.student.settings") from None
