"""A student that is kept for serving is the same bytes whatever process trained it, and draws as its run does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from noria.core.errors import CheckpointError
from noria.core.progress import Progress
from noria.core.runs.served import write_served
from noria.core.versions.artefacts import content_digest
from noria.distill.config import preset
from noria.distill.training.teacher import save_teacher
from noria.distill.verbs.serve import ServeConfig, open_painter
from noria.distill.verbs.train import TrainJobConfig, run
from tests.distill.conftest import tiny_network


def test_the_same_weights_are_the_same_bytes_and_draw_the_same_pictures(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.safetensors"
    save_teacher(tiny_network(), teacher)
    kept, pictures = [], []
    for number in range(2):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "prompts.txt").write_text("0\n1\n2\n")
        random.seed(number)  # what a process brings along, and no weight follows from
        values = preset("cdm-small") | {
            "model": str(teacher), "prompts": str(place / "prompts.txt"), "output": str(place / "run"),
            "iterations": 4, "batch_size": 4, "checkpoint_every": 2, "log_every": 1, "quiet": True,
            "name": "student",
        }  # fmt: skip
        result = run(TrainJobConfig.model_validate(values), Progress(quiet=True))
        served = write_served(result.folder, place / "served", prefix="ema.", without=("prompts", "name"))
        kept.append(content_digest("student", served))
        for folder in (result.folder, served):
            painter = open_painter(ServeConfig(source=folder))
            pictures.append(painter.draw(["0", "2"], painter.noise(3, [0, 1])))
        with pytest.raises(CheckpointError, match="no tensor is named"):
            write_served(result.folder, place / "none", prefix="head.")
        assert not (place / "none").exists()
    assert kept[0] == kept[1]
    assert all(one == pictures[0] for one in pictures)
