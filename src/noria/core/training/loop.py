"""Messages of every training: where it resumes, how far it is and, when it is stopped, which checkpoint is kept."""

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
        """Write the page of the run in `folder`."""
        ...


@contextlib.contextmanager
def training(
    run: Run, progress: Progress, total: int, *, page: PageWriter, unit: str = "step"
) -> Iterator[Task]:
    """Hold the progress task of a training, which starts at the run's last checkpoint.

    When the training is interrupted or diverges, say which checkpoint is kept.

    Args:
        run: run of the training.
        progress: where the training reports its progress.
        total: number of steps in all.
        page: writes the page of the run when the training diverges.
        unit: name of a step.

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
        rest = "nothing was kept yet"
        if kept:
            rest = f"{kept[-1].name} is kept; the same command goes on from there"
        progress.say(f"stopped at {unit} {task.step}: {rest}")
        if isinstance(error, DivergenceError) and run.writer:
            progress.say(f"report: {page(run.folder, stopped=str(error).partition(';')[0])}")
        raise
    task.done()
