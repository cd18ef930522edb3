"""A trained model from its run: the model that it began with, and the weights of a checkpoint over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from noria.core.errors import CheckpointError
from noria.core.files import decoding
from noria.core.runs.outputs import is_run
from noria.core.runs.run import latest_checkpoint, read_config
from noria.tryon.pipeline.loading import open_pipeline, outline
from noria.tryon.training.config import TrainConfig
from noria.tryon.training.trainer import learner, trainable


def open_any(model: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Any:
    """Open a pipeline from a diffusers folder, the name `tiny`, or the folder of a training.

    Raises:
        ModelError: there is no such folder, or it is of another family.
        CheckpointError: the training has no checkpoint, or one of another network.
    """
    folder = Path(model)
    return (
        open_trained(folder, dtype, device)
        if is_run(folder)
        else open_pipeline(model, dtype=dtype, device=device)
    )


def outline_any(model: str, dtype: torch.dtype) -> Any:
    """What :func:`open_any` would open, without weights; a training's is that of the model that it began with.

    Raises:
        ModelError: there is no such folder, or it is of another family.
        CheckpointError: the folder of a training is damaged.
    """
    while is_run(Path(model)):
        model = settings_of(Path(model)).model
    return outline(model, dtype)


def open_trained(folder: Path, dtype: torch.dtype, device: str | torch.device) -> Any:
    """The pipeline of a training at its newest checkpoint.

    Raises:
        CheckpointError: there is none, or it is of another network.
    """
    config = settings_of(folder)
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointError("no checkpoint yet", where=str(folder), mend="train it further")
    pipeline = open_any(config.model, dtype=dtype, device=device)
    model, _ = learner(pipeline, config.expert)
    parameters = trainable(model, config)
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = checkpoint.tensors.get(f"tryon.{name}")
            if value is None or value.shape != parameter.shape:
                raise CheckpointError(f"its {name} is not this model's", where=str(checkpoint.folder))
            parameter.copy_(value)
    model.requires_grad_(False).eval()
    return pipeline


def settings_of(folder: Path) -> TrainConfig:
    """Settings of a training.

    Raises:
        CheckpointError: its folder is damaged.
    """
    with decoding(folder, "a run of noria tryon", error=CheckpointError):
        stored = read_config(folder)
        return TrainConfig(
            **{name: value for name, value in stored.items() if name in TrainConfig.model_fields}
        )
