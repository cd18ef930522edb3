"""Synthesis of a file of tasks: leaves or pictures in, tasks with pictures and references out; it resumes by line."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image as Picture

from noria.core.chat import ChatModel, Image as ImagePart
from noria.core.errors import NoriaError
from noria.core.files import write_atomic
from noria.core.picture_files import open_picture, png
from noria.core.progress import Progress
from noria.editing.data.lines import Lines
from noria.editing.data.tasks import Task
from noria.editing.data.working import work_through
from noria.editing.synthesis.proposing import Proposal, consistent, propose, propose_for


class Generator(Protocol):
    """Protocol of a text-to-image model."""

    async def generate(self, prompt: str, seed: int, *, size: tuple[int, int] | None = None) -> Picture:
        """Make a picture of a description.

        Raises:
            EditorError: there is none.
        """
        ...


@dataclass(frozen=True)
class Job:
    """One request for proposals: a leaf, and a picture that is there or none."""

    id: str
    family: str
    leaf: str
    number: int
    picture: Path | None = None


@dataclass(frozen=True)
class SynthesisSettings:
    """Settings by which tasks are made.

    Attributes:
        draws: references written anew that must agree with the first; 0 leaves that out.
        size: width and height of generated pictures.
        language: language of the instructions.
        seed: seed of the pictures.
        licence: licence of the pictures, which each task states.
    """

    draws: int = 2
    size: tuple[int, int] | None = None
    language: str = "English"
    seed: int = 0
    licence: str = "not stated"


def jobs(leaves: Sequence[tuple[str, str]], number: int, pictures: Sequence[Path] = ()) -> list[Job]:
    """Jobs of every leaf; with pictures, each picture gets leaves in turn.

    Args:
        leaves: pairs of family and leaf.
        number: tasks of each leaf, or of each picture.
        pictures: pictures that are there; without them, they are made.
    """
    if not pictures:
        return [Job(f"{family}/{leaf}", family, leaf, number) for family, leaf in leaves]
    return [
        Job(f"{path.name}/{leaf}", family, leaf, 1, path)
        for at, path in enumerate(pictures)
        for family, leaf in (leaves[(at * number + n) % len(leaves)] for n in range(number))
    ]


async def synthesize(
    model: ChatModel,
    generator: Generator | None,
    work_: Sequence[Job],
    folder: Path,
    settings: SynthesisSettings,
    *,
    in_flight: int = 8,
    progress: Progress | None = None,
) -> tuple[list[Task], Counter[str]]:
    """Make tasks, with pictures below `folder`.

    Args:
        model: chat model that proposes and checks.
        generator: makes the pictures of jobs without one.
        work_: jobs.
        folder: folder of `proposals.jsonl` and `pictures/`.
        settings: how tasks are made.
        in_flight: jobs under way at once.
        progress: shows the finished jobs, if given.

    Returns:
        The tasks, and why others were left out.

    Raises:
        RunError: another process writes there, or the disk refuses.
    """
    with Lines(folder / "proposals.jsonl") as lines:
        done = {name for name, one in lines.records.items() if not one.get("failed")}
        left = [job for job in work_ if job.id not in done]

        async def work(job: Job) -> None:
            lines.add({"id": job.id} | await _made(model, generator, job, folder, settings))

        await work_through(
            left,
            work,
            in_flight=in_flight,
            progress=progress,
            label="synthesize",
            done=len(work_) - len(left),
        )
        records = [lines.records[job.id] for job in work_ if job.id in lines.records]
    from noria.editing.data.tasks import task_from_json

    tasks = [task_from_json(entry) for record in records for entry in record["tasks"]]
    return tasks, Counter(reason for record in records for reason in record["reasons"])


async def _made(
    model: ChatModel, generator: Generator | None, job: Job, folder: Path, settings: SynthesisSettings
) -> dict[str, Any]:
    """The line of a job: its tasks, and why others were left out."""
    try:
        picture = None if job.picture is None else await asyncio.to_thread(open_picture, job.picture)
        part = None if picture is None else ImagePart(png(picture))
        if part is not None:
            proposals, reasons = await propose_for(model, part, job.family, job.leaf, job.number)
        else:
            proposals, reasons = await propose(
                model, job.family, job.leaf, job.number, language=settings.language
            )
    except NoriaError as error:
        return {"tasks": [], "reasons": [error.what], "failed": True}
    tasks = []
    for proposal in proposals:
        agreed = (
            await consistent(model, proposal, [part] if part else (), draws=settings.draws)
            if settings.draws
            else True
        )
        if not agreed:
            reasons.append("references disagree" if agreed is False else "no second reference")
            continue
        try:
            tasks.append((await _task(generator, job, proposal, picture, folder, settings)).to_json())
        except NoriaError as error:
            reasons.append(f"picture: {error.what}")
    return {"tasks": tasks, "reasons": reasons}


async def _task(
    generator: Generator | None,
    job: Job,
    proposal: Proposal,
    picture: Picture | None,
    folder: Path,
    settings: SynthesisSettings,
) -> Task:
    text = f"{job.id} {proposal.scene} {proposal.instruction}"
    mark = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    source = "picture of the user"
    if picture is None:
        assert generator is not None
        seed = (int(mark[:8], 16) + settings.seed) % 2**31
        picture = await generator.generate(proposal.scene, seed, size=settings.size)
        source = "generated"
    name = f"pictures/{mark[:24]}.png"
    write_atomic(folder / name, png(picture))
    return Task(
        mark[:16],
        (name,),
        proposal.instruction,
        {"bench_like": job.family, "leaf": job.leaf},
        proposal.reference,
        provenance={"source": source, "scene": proposal.scene, "licence": settings.licence},
    )
