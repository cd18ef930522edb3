"""The ladder that a training is judged on, and the files that scores are kept in."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.files import write_atomic
from noria.core.pages.charts import image_grid
from noria.core.runs.run import package_versions
from noria.distill.adapters import FlowAdapter, SmallAdapter
from noria.distill.config import DistillConfig
from noria.distill.data.prompts import Prompts
from noria.distill.evaluation.grids import SamplingConfig, ladder_grids
from noria.distill.evaluation.judge import Judge, Score
from noria.distill.evaluation.views import COLUMNS
from noria.distill.training.trainer import Distiller
from noria.distill.types import LADDER_KEY

TEACHER_GUIDANCE = 4.5
"""Guidance of a teacher that a guided student is compared with (the papers' evaluation)."""


class TrainingLadder:
    """The ladder during and after a training: the same prompts, noise and teacher's run each time.

    The teacher's run is made when first needed. Every process draws, since a sharded model needs them all; one writes.

    Args:
        config: settings of the training.
        adapter: model of the training.
        prompts: prompts of the training; the first ones are drawn.
        folder: folder of the run; None in a process that writes no files.
    """

    def __init__(
        self, config: DistillConfig, adapter: FlowAdapter, prompts: Prompts, folder: Path | None
    ) -> None:
        self.config, self.adapter, self.folder = config, adapter, folder
        samples, batch_size = (100, 100) if isinstance(adapter, SmallAdapter) else (16, 8)
        self.prompts = cycled(prompts.texts, samples)
        self.sampling = SamplingConfig(
            seed=config.seed, guidance=teacher_guidance(config), batch_size=batch_size
        )
        self.grids = ladder_grids(adapter.contract, config.schedule.steps)
        self.judge: Judge | None = None

    def __call__(self, distiller: Distiller) -> dict[str, float]:
        """Distances by grid, for the log; the trained grid's pictures go to a file."""
        scores = self._scores(distiller)
        trained = [float(s) for s in self.adapter.contract.grid(self.config.schedule.steps)]
        own = next(
            s for s in scores if s.grid.steps == len(trained) - 1 and np.allclose(s.grid.sigmas, trained)
        )
        if self.folder is not None and own.pictures is not None:
            path = self.folder / "pictures" / f"step-{distiller.iteration:08d}.png"
            write_atomic(path, picture_sheet([f"{own.grid.name} steps"], [own.pictures]))
        distances = {s.grid.name: s.figures["sliced_wasserstein"] for s in scores}
        return {f"{LADDER_KEY}{n}": float("nan") if d is None else d for n, d in distances.items()}

    def finish(self, distiller: Distiller) -> None:
        """Write the ladder of the trained student beside its teacher's to `ladder.json` and a picture."""
        began = time.perf_counter()
        scores = self._scores(distiller)
        assert self.judge is not None, "the ladder was climbed"
        scores += self.judge.teacher_scores(distiller, self.grids)
        if self.folder is None:
            return
        about = {
            "name": self.folder.resolve().name,
            "step": distiller.iteration,
            "seconds": round(time.perf_counter() - began, 2),
        }
        pictures = self.folder / "pictures" / "ladder.png"
        write_scores(self.folder / "ladder.json", pictures, self.judge, scores, about)

    def _scores(self, distiller: Distiller) -> list[Score]:
        if self.judge is None:
            self.judge = Judge(distiller, self.prompts, self.sampling)
        return [self.judge.score(distiller, grid) for grid in self.grids]


def teacher_guidance(config: DistillConfig) -> float:
    """Guidance of the teacher that a student is compared with: of the strength distilled in, at most the papers'."""
    o = config.objective
    scale = o.ca_scale - (o.ca_convention == "guidance") if o.ca_weight else 0.0
    distilled = max(
        1 + scale * (scale > 0), o.dm_guidance, o.consistency_guidance if o.consistency_weight else 1.0
    )
    return min(distilled, TEACHER_GUIDANCE) if distilled != 1 else 1.0


def write_scores(
    path: Path, pictures: Path, judge: Judge, scores: Sequence[Score], about: dict[str, Any]
) -> dict[str, Any]:
    """Write scores as JSON, and a picture of the first samples on every grid.

    Args:
        path: the JSON file.
        pictures: the PNG file.
        judge: the judge that gave the scores.
        scores: a score of each arm on each grid.
        about: what else the file says, such as the student's name and step.

    Returns:
        The content of the JSON file.
    """
    results = about | {
        "samples": len(judge.prompts),
        "seed": judge.config.seed,
        "guidance": judge.config.guidance,
        "reference": judge.reference_name,
        "lens": judge.extractor.name,
        "shown": [one_line(p, 60) for p in judge.prompts[:COLUMNS]],
        "versions": package_versions(),
        "scores": [s.to_json() for s in scores],
    }
    write_atomic(path, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    shown = [(f"{s.arm}, {s.grid.name}", s.pictures) for s in scores if s.pictures is not None]
    if shown:
        write_atomic(pictures, picture_sheet(*zip(*shown, strict=True)))
    return results


def picture_sheet(labels: Sequence[str], rows: Sequence[Any]) -> bytes:
    """A PNG of labelled rows of pictures, small ones enlarged."""
    images = np.stack(rows)
    return image_grid(images, list(labels), scale=max(1, 56 // images.shape[2]))


def cycled(texts: Sequence[str], count: int) -> list[str]:
    """The first `count` texts, begun anew where there are fewer."""
    return list(itertools.islice(itertools.cycle(texts), count))


def one_line(text: str, length: int = 32) -> str:
    """The text on one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
