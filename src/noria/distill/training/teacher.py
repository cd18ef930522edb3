"""Training a small class-conditional flow-matching teacher on an image set, for proofs, benches and tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from noria.core.errors import CheckpointError, ConfigError
from noria.core.files import write_atomic
from noria.core.models.flow import Ema, SmallTransformer, SmallTransformerConfig, interpolate
from noria.distill.config import TeacherConfig
from noria.distill.data.images import ImageSet
from noria.distill.matching.objectives import flow_matching_loss

MAX_SIZE = 4096
"""Largest size in the shape of a small transformer that a file is read of."""


def train_teacher(
    data: ImageSet,
    shape: SmallTransformerConfig,
    config: TeacherConfig,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> SmallTransformer:
    """Train by flow matching, with labels dropped for guidance; returns the EMA weights.

    Args:
        data: labelled images.
        shape: shape of the network.
        config: settings of the training.
        on_step: called with (step, loss) after every step.
    """
    images, labels = torch.as_tensor(data.images), torch.as_tensor(data.labels)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = SmallTransformer(shape)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=1e-4)
    warm = max(0.05, min(0.5, 2 / config.steps))  # of one step or less, OneCycleLR divides by zero
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=config.steps, pct_start=warm
    )
    ema = Ema(network.parameters(), 0.998)
    for step in range(config.steps):
        rows = torch.randint(len(images), (config.batch_size,), generator=generator)
        clean, classes = images[rows], labels[rows].clone()
        classes[torch.rand(config.batch_size, generator=generator) < config.label_dropout] = shape.classes
        noise = torch.randn(clean.shape, generator=generator)
        sigma = torch.sigmoid(torch.randn(config.batch_size, generator=generator) * 1.2)
        loss = flow_matching_loss(network(interpolate(clean, noise, sigma), sigma, classes), clean, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update()
        if on_step:
            on_step(step + 1, float(loss.detach()))
    ema.swap()
    return network.eval()


def save_teacher(network: SmallTransformer, path: Path) -> None:
    """Weights and shape in one safetensors file, all of it or nothing."""
    tensors = {n: t.contiguous() for n, t in network.state_dict().items()}
    write_atomic(path, save(tensors, {"config": json.dumps(vars(network.config))}))


def load_teacher(path: Path) -> SmallTransformer:
    """Read a file of :func:`save_teacher`.

    Raises:
        CheckpointError: the file is not such a file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            config = SmallTransformerConfig(**json.loads((file.metadata() or {})["config"]))
            if any(type(size) is not int or not 1 <= size <= MAX_SIZE for size in vars(config).values()):
                raise ValueError("a size that no small transformer has")
            with torch.device("meta"):  # the file decides how much memory its shape may take
                wanted = {name: list(t.shape) for name, t in SmallTransformer(config).state_dict().items()}
            if wanted != {name: file.get_slice(name).get_shape() for name in file.keys()}:  # noqa: SIM118
                raise ValueError("the tensors are not of the shape in the metadata")
        network = SmallTransformer(config)
        network.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError, OSError, ConfigError) as error:
        raise CheckpointError(
            f"not a small flow-matching transformer ({type(error).__name__})",
            where=str(path),
            mend="give a file that `noria distill teacher` wrote",
        ) from error
    return network.eval()
