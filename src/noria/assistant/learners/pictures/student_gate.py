"""The gate of few-step students: pictures by what serves and by a student, from the same noise, judged blind.

The judge sees a request and a picture, and not what drew it. Speed is counted in calls of a network for a picture,
which a killed turn counts alike, and not in seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noria.assistant.config.learning import StudentConfig
from noria.assistant.config.parts import LEARNT
from noria.assistant.learners.around import Around
from noria.assistant.learners.paid import PaidModel
from noria.assistant.learners.pictures.calls import PictureCall, picture_calls
from noria.assistant.learners.working import Halt, worked
from noria.core.chat import Image, Text
from noria.core.errors import DataError, needing
from noria.core.experiments.gates import PairedScores, Rule
from noria.core.experiments.splits import widest_contents
from noria.core.judging import Checklist, Item
from noria.core.judging.judges import ChatJudge, judged
from noria.core.learning.dataset import Row
from noria.core.learning.learner import Candidate, Comparison, LearnerRun, Parent
from noria.core.learning.spending import all_of
from noria.core.progress import Progress

with needing("distill"):
    from noria.distill.service.drawing import Painter
    from noria.distill.students.loading import open_model
    from noria.distill.verbs.serve import ServeConfig, open_painter

KIND = LEARNT["generate"]
QUESTIONS = Checklist(
    (
        Item("shows", "Does the picture show what the request asks for?"),
        Item("whole", "Is the picture free of visible faults?"),
    )
)
_BATCH = 8


@dataclass(frozen=True)
class SameQuality:
    """Draws prompts of the gates' split by what serves and by a student, and lets the gate's judge see both blind.

    Attributes:
        config: the model, how the tool draws by it, and the number of prompts.
        around: the gateway's backends.
        judge: name of the backend that judges.
    """

    config: StudentConfig
    around: Around
    judge: str

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Evaluator.settings` says."""
        return {"judge": self.judge, "checklist": QUESTIONS.digest, "prompts": self.config.prompts}

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Do what :meth:`Evaluator.compare` says, with the calls of a network for a picture as a rule."""
        calls = picture_calls(rows, self.config.tool)
        known = set(await asyncio.to_thread(known_prompts, self.config, [one.prompt for one in calls]))
        chosen = [one for one in calls if one.prompt in known][: self.config.prompts]
        sides: list[list[float]] = []
        costs = []
        for folder in (parent.folder(KIND), candidate.folder):
            painter = await asyncio.to_thread(painter_of, folder, self.config)
            files = await worked(run.spending, lambda progress, p=painter: _drawn(p, chosen, progress))  # type: ignore[misc]
            sides.append(await self._scores(chosen, files, run))
            costs.append(painter.grid.steps * (2 if painter.guidance > 1 else 1))
        fewer = costs[1] < costs[0]
        words = f"{costs[1]} calls of a network for a picture, {costs[0]} before"
        scores = PairedScores(
            [one.trace for one in chosen],
            [one.group for one in chosen],
            np.array(sides[0], np.float64),
            np.array(sides[1], np.float64),
            contents=widest_contents([one.contents for one in chosen]),
        )
        notes = {"prompts": len(chosen), "quality before": _mean(sides[0]), "quality": _mean(sides[1])}
        return Comparison(scores, (Rule("speed", "passed" if fewer else "failed", words),), notes)

    async def _scores(
        self, calls: Sequence[PictureCall], files: Sequence[bytes], run: LearnerRun
    ) -> list[float]:
        """[calls] share of the questions that the judge answers well; NaN where a verdict is missing.

        Raises:
            TurnStopped: the budget or the time is spent.
        """
        halt = Halt()
        backend = self.around.backends[self.judge]
        model = PaidModel(backend, self.judge, run.spending, asyncio.get_running_loop(), halt)
        judge = ChatJudge(model, self.judge)

        async def one(call: PictureCall, file: bytes) -> float:
            subject = (Text(f"Request: {call.prompt}"), Image(file))
            found = await judged(judge, QUESTIONS, subject, name=call.trace)
            halt.check()
            good = [v.value == i.good for v, i in zip(found.verdicts, QUESTIONS.items, strict=True)]
            return float("nan") if found.invalid else sum(good) / len(good)

        return await all_of([lambda c=c, f=f: one(c, f) for c, f in zip(calls, files, strict=True)])  # type: ignore[misc]


def painter_of(folder: Path | None, config: StudentConfig) -> Painter:
    """What draws: the student of a folder, or the model as the tool draws by it where there is none yet.

    Raises:
        NoriaError: it cannot be opened.
    """
    if folder is not None:
        return open_painter(ServeConfig(source=folder))
    return open_painter(ServeConfig(source=Path(config.model), steps=config.steps, guidance=config.guidance))


def known_prompts(config: StudentConfig, prompts: Sequence[str]) -> list[str]:
    """The different prompts that the model can read, in their order.

    Raises:
        NoriaError: the model cannot be opened.
    """
    adapter = open_model(config.model)
    found = []
    for prompt in dict.fromkeys(prompts):
        try:
            adapter.encode([prompt])
        except (DataError, ValueError):
            continue
        found.append(prompt)
    return found


def _drawn(painter: Painter, calls: Sequence[PictureCall], progress: Progress) -> list[bytes]:
    """[calls] PNG files; call n is drawn from noise n, so that both sides begin with the same."""
    task, files = progress.task("draw", len(calls)), []
    for start in range(0, len(calls), _BATCH):
        some = calls[start : start + _BATCH]
        noise = painter.noise(0, range(start, start + len(some)))
        files += painter.draw([one.prompt for one in some], noise)
        task.at(len(files))
    return files


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else None
