"""Edits that people asked for as tasks of a planner: a picture, a request, and the checklist of its result.

A writer says what the result has to be, from the picture, the request, and where somebody said so what it should have
been; its items are tested by the judge that will answer them. What people write is data: it stands in the material
of the writer, between markers, and an item that does not fit its rules is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from noria.assistant.config.learning import PlannerConfig
from noria.assistant.learners.paid import PaidModel
from noria.assistant.learners.pictures.calls import PictureCall
from noria.core.chat import Image
from noria.core.errors import ConfigError, DataError, needing
from noria.core.files import write_atomic
from noria.core.judging.judges import ChatJudge
from noria.core.traces.chats import Blobs

with needing("editing"):
    from noria.editing.data.tasks import Reference, Task, write_tasks
    from noria.editing.environment.judges import AtomicJudges
    from noria.editing.plans import format_output, parse_plan
    from noria.editing.validation.writing import write_all
    from noria.editing.verbs.sft import SftJobConfig
    from noria.editing.verbs.train import TrainJobConfig

LEAST = 20
"""Edits with a checklist, or examples, below which nothing is learnt from them."""


@dataclass(frozen=True)
class CheckedEdits:
    """Tasks with their checklists, in a file beside their pictures.

    Attributes:
        file: file of the tasks.
        tasks: the tasks, in its order; a task's id is that of its trace.
        dropped: why other edits have no checklist, by the id of their trace.
    """

    file: Path
    tasks: Sequence[Task]
    dropped: Mapping[str, str] = field(default_factory=dict)


def judges_of(model: PaidModel) -> AtomicJudges:
    """A backend as the judge of plans and pictures."""
    judge = ChatJudge(model, model.name)
    return AtomicJudges(judge, judge)


async def checked_edits(
    calls: Sequence[PictureCall], folder: Path, blob: Blobs, writer: PaidModel, judges: AtomicJudges
) -> CheckedEdits:
    """The tasks of some edits, with checklists that the writer writes and the judges test.

    Args:
        calls: edits that were asked for.
        folder: folder of the file and its pictures, which a turn that was killed comes back to.
        blob: contents of the pictures.
        writer: model that writes references and checklists.
        judges: judges that will answer the items.

    Raises:
        TurnStopped: the budget or the time is spent.
    """
    tasks, dropped = [], {}
    for call in calls:
        task = task_of(call, folder, blob)
        if task is None:
            dropped[call.trace] = "its picture is gone"
        else:
            tasks.append(task)
    written = await write_all(tasks, folder, writer, judges, folder / "checklists.jsonl", mutate=False)
    writer.halt.check()
    kept = []
    for task in tasks:
        one = written[task.id]
        if why := one.why or one.too_few(1):
            dropped[task.id] = why
        else:
            kept.append(replace(task, reference=one.reference, checklist=one.checklist))
    file = folder / "tasks.jsonl"
    write_tasks(file, kept)
    return CheckedEdits(file, kept, dropped)


def examples_of(calls: Sequence[PictureCall], folder: Path, blob: Blobs, least: float) -> CheckedEdits:
    """The edits that people liked, with what the planner wrote for them as the output to imitate.

    Args:
        calls: edits that were asked for.
        folder: folder of the file and its pictures.
        blob: contents of the pictures.
        least: score from which an edit was liked.
    """
    tasks = []
    for call in calls:
        output = format_output(call.thinking, call.plan)
        liked = call.score is not None and call.score >= least and not call.wished
        if liked and call.plan and parse_plan(output).ok:
            task = task_of(call, folder, blob)
            if task is not None:
                tasks.append(replace(task, reference=None, extra={"output": output}))
    file = folder / "examples.jsonl"
    write_tasks(file, tasks)
    return CheckedEdits(file, tasks)


def task_of(call: PictureCall, folder: Path, blob: Blobs) -> Task | None:
    """The task of an edit, with its picture in the folder; None where the picture is gone."""
    content = None if call.before is None else blob(call.before)
    if content is None:
        return None
    try:
        suffix = Image(content).media_type.partition("/")[2]
    except DataError:
        return None
    name = f"pictures/{call.before}.{suffix}"
    if not (folder / name).exists():
        write_atomic(folder / name, content)
    reference = Reference(call.wished) if call.wished else None
    return Task(call.trace, (name,), call.prompt, reference=reference, provenance={"source": "traffic"})


def imitation(config: PlannerConfig, model: Path, data: Path, output: Path) -> SftJobConfig:
    """Settings of imitating what people liked.

    Raises:
        ConfigError: a setting is none.
    """
    job: SftJobConfig = _job(SftJobConfig, config.imitate or {}, model, data, output, "imitate")
    return job


def reinforcement(config: PlannerConfig, model: Path, data: Path, output: Path) -> TrainJobConfig:
    """Settings of training over the frozen editor.

    Raises:
        ConfigError: a setting is none.
    """
    settings = {**config.editor, **(config.reinforce or {})}
    where = "reinforce, learning.planner.editor"
    job: TrainJobConfig = _job(TrainJobConfig, settings, model, data, output, where)
    return job


def _job(kind: Any, settings: Mapping[str, Any], model: Path, data: Path, output: Path, where: str) -> Any:
    values = {**settings, "model": str(model), "data": str(data), "output": str(output), "quiet": True}
    try:
        return kind.model_validate(values)
    except ValueError as error:
        first = str(error).splitlines()[1:3]
        raise ConfigError(" ".join(first).strip(), where=f"learning.planner.{where}") from None
