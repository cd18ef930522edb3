"""A benchmark as a task file of inspect_ai: `inspect eval FOLDER/task.py --model openai/…`.

The folder holds the items, frames as JPEG files if there are clips, and the task; it does not need Noria. Written
against inspect_ai 0.3: multiple choice, accuracy by category, standard errors clustered by source.
"""

from __future__ import annotations

import json
from pathlib import Path

from noria.core.errors import DataError
from noria.core.files import inside, write_atomic
from noria.grounding.corpus.clips import clip_path, jpeg, sample_frames
from noria.grounding.corpus.records import Corpus
from noria.grounding.integrations.lmms_eval import item_rows, rating_rows

__all__ = ["export_inspect"]


def export_inspect(
    corpus: Corpus, folder: Path, videos: Path | None, *, frames: int = 16, side: int = 512
) -> Path:
    """Write the task folder.

    Args:
        corpus: whole records.
        folder: made if need be.
        videos: folder of the clips; without it the tasks are blind ones, which is a control.
        frames: number of frames of a clip.
        side: pixels of their longer side at most.

    Raises:
        DataError: a clip is not there or cannot be used, or there is nothing to ask.
        RunError: the disk refuses.
    """
    shown: dict[str, list[dict[str, object]]] = {}
    if videos is not None:
        for number, record in enumerate(corpus):
            sampled = sample_frames(clip_path(videos, record.video_path, record.video_id), frames, side=side)
            shown[record.video_id] = []
            for place, (seconds, pixels) in enumerate(zip(sampled.seconds, sampled.pixels, strict=True)):
                name = f"frames/{number:05d}-{place:03d}.jpg"
                write_atomic(inside(folder, name), jpeg(pixels), sync=False)
                shown[record.video_id].append({"seconds": seconds, "file": name})
    for name, rows in (("questions", item_rows(corpus, None)), ("ratings", rating_rows(corpus, None))):
        if not rows:
            raise DataError(f"no {name}", where=str(corpus.folder or "corpus"))
        for row in rows:
            row["frames"] = shown.get(row["id"].rpartition("/")[0], [])
            del row["video"]
        write_atomic(
            folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        )
    write_atomic(folder / "task.py", TASK)
    return folder


TASK = '''\
"""Questions and ratings of a video benchmark, for inspect_ai."""

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText
from inspect_ai.scorer import accuracy, choice, grouped, stderr
from inspect_ai.solver import multiple_choice

HERE = Path(__file__).parent


def sample(record):
    content = []
    for frame in record["frames"]:
        content.append(ContentText(text=f"[t={frame['seconds']:.2f}s]"))
        content.append(ContentImage(image=str(HERE / frame["file"])))
    content.append(ContentText(text=record["question"]))
    return Sample(
        id=record["id"],
        input=[ChatMessageUser(content=content)],
        choices=record["options"],
        target=record["answer"],
        metadata={"source": record["source"], "category": record["category"]},
    )


def make(name):
    return Task(
        dataset=json_dataset(str(HERE / f"{name}.jsonl"), sample, name=name),
        solver=multiple_choice(),
        scorer=choice(),
        metrics=[grouped(accuracy(), "category", all="samples"), stderr(cluster="source")],
    )


@task
def questions():
    return make("questions")


@task
def ratings():
    return make("ratings")
'''
