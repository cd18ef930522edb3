"""Curation: every candidate is kept or dropped for one reason, and the report has every count and every reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.pages.charts import Figure
from noria.core.pages.report import write_page
from noria.core.picture_files import open_picture
from noria.core.progress import Progress
from noria.editing.curation.difficulty import DifficultySettings, measure, unfit
from noria.editing.curation.duplicates import Benchmark, near_duplicates, picture_hash
from noria.editing.data.lines import Lines
from noria.editing.data.pictures import Scene, open_scene
from noria.editing.data.tasks import Difficulty, Task, image_paths
from noria.editing.data.working import work_through
from noria.editing.environment.rewarding import RewardEnvironment
from noria.editing.types import Planner

HARDNESS = ("easy", "medium", "hard", "unknown", "")


@dataclass(frozen=True)
class CurationResult:
    """Tasks that are kept, easy ones first, and why the others are not.

    Attributes:
        kept: tasks, with their difficulty and what they were cleared of.
        reasons: reason by the id of a dropped task.
        candidates: number of tasks that came in.
    """

    kept: tuple[Task, ...]
    reasons: Mapping[str, str]
    candidates: int

    @property
    def counts(self) -> Counter[str]:
        """Dropped tasks by reason."""
        return Counter(self.reasons.values())


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark that no training may see: a file of items with `instruction`, and their pictures beside it.

    Fields named instruction, prompt, ins_en or reference are its texts; image, images, reference_img or ori_img its
    pictures, by their path from the file's folder. A picture that is not there is an error: decontamination must not
    silently look at half of it.

    Raises:
        DataError: a record or a picture cannot be read.
    """
    from noria.editing.benchmarks.items import read_items

    benchmark = Benchmark(path.stem if path.stem not in ("data", "annotation") else path.parent.name)
    for item in read_items(path):
        benchmark.add(item.texts, (open_picture(one) for one in item.pictures))
    return benchmark


def sift(
    tasks: Sequence[Task],
    root: Path,
    benchmarks: Sequence[Benchmark] = (),
    *,
    progress: Progress | None = None,
) -> tuple[list[tuple[Task, Scene]], dict[str, str]]:
    """Drop tasks whose pictures cannot be read, near-duplicates, and what is too near to a benchmark.

    Args:
        tasks: candidates.
        root: folder that their pictures are named from.
        benchmarks: benchmarks to stay away from.
        progress: shows the tasks read, if given.

    Returns:
        Tasks with their pictures, and why others were dropped, by id.
    """
    scenes: list[tuple[Task, Scene]] = []
    reasons: dict[str, str] = {}
    bar = progress.task("read", len(tasks)) if progress else None
    for task in tasks:
        try:
            scenes.append((task, open_scene(image_paths(task, root))))
        except DataError as error:
            reasons[task.id] = f"picture: {error.what}"
        if bar:
            bar.advance()
    hashes = [picture_hash(scene.source) for _, scene in scenes]
    repeated = near_duplicates([task.instruction for task, _ in scenes], hashes=hashes)
    kept = []
    for number, (task, scene) in enumerate(scenes):
        if number in repeated:
            reasons[task.id] = "near-duplicate"
            continue
        texts = [task.instruction, *([task.reference.outcome] if task.reference else [])]
        every = [hashes[number], *(picture_hash(image) for image in scene.images[1:])]
        if why := next((w for b in benchmarks if (w := b.contaminates(texts, every))), ""):
            reasons[task.id] = why
            continue
        cleared = {"text": "ok", "phash": "ok", "against": [one.name for one in benchmarks]}
        provenance = dict(task.provenance) | ({"decontam": cleared} if benchmarks else {})
        kept.append((replace(task, provenance=provenance), scene))
    if bar:
        bar.done()
    return kept, reasons


async def weigh(
    tasks: Sequence[tuple[Task, Scene]],
    planner: Planner,
    environment: RewardEnvironment,
    settings: DifficultySettings,
    log: Path,
    *,
    in_flight: int = 8,
    progress: Progress | None = None,
) -> tuple[list[Task], dict[str, str]]:
    """Measure the difficulty of tasks, and drop those that no planner learns from. It resumes from its log.

    Args:
        tasks: tasks with their pictures.
        planner: current planner.
        environment: rewards its rollouts.
        settings: rollouts and bounds.
        log: file of the difficulties, a line a task.
        in_flight: tasks under way at once.
        progress: shows the finished tasks, if given.

    Raises:
        CoverageError: too many verdicts or renders are invalid.
        RunError: the disk refuses.
    """
    kept: dict[str, Task] = {}
    reasons: dict[str, str] = {}
    with Lines(log) as lines:

        async def work(pair: tuple[Task, Scene]) -> None:
            task, scene = pair
            record = lines.records.get(task.id)
            if record is None or record.get("settings") != vars(settings):
                try:
                    found, _ = await measure(task, scene, planner, environment, settings)
                except DataError as error:
                    reasons[task.id] = f"planner: {error.what}"
                    return
                record = {"id": task.id, "difficulty": vars(found), "settings": vars(settings)}
                lines.add(record)
            difficulty = Difficulty(**record["difficulty"])
            why = unfit(difficulty, settings)
            if why:
                reasons[task.id] = why
            else:
                kept[task.id] = replace(task, difficulty=difficulty)

        await work_through(tasks, work, in_flight=in_flight, progress=progress, label="rollouts")
    return [kept[task.id] for task, _ in tasks if task.id in kept], reasons


def in_order(tasks: Sequence[Task]) -> list[Task]:
    """Tasks from easy to hard, by bucket; within one, as they came."""
    place = {name: number for number, name in enumerate(HARDNESS)}
    return sorted(tasks, key=lambda task: place.get(task.difficulty.bucket if task.difficulty else "", 4))


def write_report(path: Path, result: CurationResult, *, note: str = "") -> None:
    """Write the page of a curation: counts by family and by reason, difficulties, every dropped task.

    Raises:
        RunError: the disk refuses.
    """
    families = Counter(task.family for task in result.kept)
    counts: list[list[str | int]] = [[reason, count] for reason, count in result.counts.most_common()]
    blocks: list[Any] = [
        Figure.table("Dropped", ["reason", "tasks"], counts) if counts else "Nothing was dropped.",
        Figure.table("Kept", ["family", "tasks"], [[name, n] for name, n in sorted(families.items())]),
    ]
    rated = [(task, task.difficulty) for task in result.kept if task.difficulty is not None]
    points = [
        {"reward": name, "mean": value, "bucket": difficulty.bucket}
        for _, difficulty in rated
        for name, value in (("r_cog", difficulty.p_cog), ("r_vis", difficulty.p_vis))
        if value is not None
    ]
    if points:
        blocks.append(
            Figure.chart("Difficulty", _histogram(points), "Mean reward of the rollouts of a kept task.")
        )
    licences = Counter(str(task.provenance.get("licence", "not stated")) for task in result.kept)
    rows = [[name, reason] for name, reason in sorted(result.reasons.items(), key=lambda pair: pair[1])]
    write_page(
        path,
        "Curation",
        [
            ("Counts", blocks),
            (
                "Licences",
                [
                    Figure.table(
                        "Kept tasks", ["licence", "tasks"], [[str(k), n] for k, n in licences.items()]
                    )
                ],
            ),
            (
                "Every dropped task",
                [Figure.table("Reasons", ["task", "reason"], rows)] if rows else ["None."],
            ),
        ],
        intro=f"{len(result.kept):,} of {result.candidates:,} tasks are kept. {note}".strip(),
        footer="Made by noria editing curate.",
    )


def _histogram(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "data": {"values": list(points)},
        "mark": "bar",
        "height": 160,
        "encoding": {
            "x": {"field": "mean", "type": "quantitative", "bin": {"step": 0.1}, "scale": {"domain": [0, 1]}},
            "y": {"aggregate": "count", "type": "quantitative", "title": "tasks"},
            "color": {"field": "reward", "type": "nominal"},
        },
    }
