"""A training that ends, is interrupted, blows up, or goes on: what is said, and what is left."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from pydantic import Field

from noria.core.config import Config, load_config
from noria.core.errors import CheckpointError, DivergenceError
from noria.core.pages.charts import series
from noria.core.progress import Progress
from noria.core.runs.run import Run, save_settings
from noria.core.training.loop import training


class Train(Config):
    lr: float = Field(1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    name: str = "on"


def page(folder: Path, *, stopped: str = "") -> Path:
    (folder / "report.html").write_text(stopped)
    return folder / "report.html"


def trained(
    folder: Path, steps: int, *, fails: BaseException | None = None, writer: bool = True, said: io.StringIO
) -> None:
    """A training of four steps that saves every second one and may fail after some."""
    with (
        Progress(said) as progress,
        Run.open(folder, config={}, writer=writer) as run,
        training(run, progress, 4, page=page) as task,
    ):
        for step in range(task.step + 1, steps + 1):
            task.at(step, f"loss {1 / step:.2f}")
            if step % 2 == 0:
                run.save(step, {"x": torch.zeros(1)}, {})
        if fails is not None:
            raise fails


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


def test_a_training_goes_on_where_it_was_and_says_so(tmp_path: Path, said: io.StringIO) -> None:
    trained(tmp_path, 3, said=said)
    assert "going on" not in said.getvalue()
    trained(tmp_path, 4, said=said)
    assert "going on from step 2" in said.getvalue()
    assert re.search(r"train: done in \d+\.\d s  loss 0\.25", said.getvalue())


@pytest.mark.parametrize(
    ("steps", "kept"),
    [(1, "nothing was kept yet"), (3, "step-00000002 is kept; the same command goes on from there")],
)
def test_one_that_is_interrupted_says_what_is_kept(
    tmp_path: Path, steps: int, kept: str, said: io.StringIO
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, steps, fails=KeyboardInterrupt(), said=said)
    assert f"stopped at step {steps}: {kept}" in said.getvalue()
    assert "done" not in said.getvalue()
    assert not (tmp_path / "report.html").exists()


def test_the_page_of_one_that_blew_up_says_why(tmp_path: Path, said: io.StringIO) -> None:
    error = DivergenceError("the loss is nan", where="step 3", mend="lower lr")
    with pytest.raises(DivergenceError):
        trained(tmp_path, 3, fails=error, said=said)
    written = (tmp_path / "report.html").read_text()
    assert "the loss is nan" in written
    assert "lower lr" not in written
    assert "report.html" in said.getvalue()
    # The other processes of a distributed training write nothing.
    (tmp_path / "report.html").unlink()
    with pytest.raises(DivergenceError):
        trained(tmp_path, 3, fails=error, writer=False, said=said)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.filterwarnings("ignore:.*damaged:UserWarning")
def test_one_whose_checkpoints_are_all_damaged_does_not_begin_anew(tmp_path: Path, said: io.StringIO) -> None:
    trained(tmp_path, 3, said=said)
    for file in tmp_path.glob("checkpoints/*/tensors.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        trained(tmp_path, 4, said=said)


def test_settings_come_back_as_they_were_saved(tmp_path: Path) -> None:
    config = Train(lr=3e-6, name="no")
    save_settings(tmp_path, config)
    assert load_config(Train, file=tmp_path / "settings.yaml") == config


def test_a_figure_that_was_not_logged_is_no_point() -> None:
    rows = [{"step": 1, "a": 0.0, "b": None}, {"step": 2, "b": 3.0}]
    assert series(rows, {"b": "B", "a": "A"}) == [
        {"step": 2, "value": 3.0, "name": "B"},
        {"step": 1, "value": 0.0, "name": "A"},
    ]
    assert series(rows, {"a": "A"}, x="iteration") == [{"iteration": 1, "value": 0.0, "name": "A"}]
