"""What every training says: where it goes on, how far it is and, when it is stopped, what it keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from noria.core.errors import DivergenceError
from noria.core.progress import Progress, Task
from noria.core.runs.run import Run, checkpoints, whole_checkpoint

__all__ = ["PageWriter", "training"]


class PageWriter(Protocol):
    """Writes a run's page, which says why it was stopped."""

    def __call__(self, folder: Path, *, stopped: str = "") -> Path:
        """The page of the run in `folder`."""
        ...


@contextlib.contextmanager
def training(
    run: Run, progress: Progress, total: int, *, page: PageWriter, unit: str = "step"
) -> Iterator[Task]:
    """The task of a training; tell it how far the training is.

    Args:
        run: the training's run folder.
        progress: where it is said.
        total: steps in all.
        page: writes the run's page, when the training blew up.
        unit: what a step is called.

    Raises:
        CheckpointError: the run has checkpoints, and all are damaged.
    """
    start = whole_checkpoint(run.folder) or 0
    if start:
        progress.say(f"going on from {unit} {start}")
    task = progress.task("train", total, start=start)
    try:
        yield task
    except (KeyboardInterrupt, DivergenceError) as error:
        task.stop()
        kept = checkpoints(run.folder)
        words = (
            f"{kept[-1].name} is kept; the same command goes on from there"
            if kept
            else "nothing was kept yet"
        )
        progress.say(f"stopped at {unit} {task.step}: {words}")
        if isinstance(error, DivergenceError) and run.writer:
            progress.say(f"report: {page(run.folder, stopped=str(error).partition(';')[0])}")
        raise
    task.done()
