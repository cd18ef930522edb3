"""Training a small class-conditional flow-matching teacher on an image set, for proofs, benches and tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from noria.core.errors import CheckpointError, ConfigError
from noria.core.files import check_input, decoding, write_atomic
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
    warm = max(0.05, min(0.6, 2 / config.steps))  # of one step or less, OneCycleLR divides by zero
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
    """Weights, their digest and the network's shape in one safetensors file, all of it or nothing."""
    tensors = {n: t.contiguous() for n, t in network.state_dict().items()}
    digest = _weights_digest(save(tensors))
    write_atomic(path, save(tensors, {"config": json.dumps(vars(network.config)), "sha256": digest}))


def load_teacher(path: Path) -> SmallTransformer:
    """Read a file of :func:`save_teacher`.

    Raises:
        CheckpointError: the file is not such a file, or its weights are not those that were written.
    """
    from safetensors import safe_open

    mend = "give a file that `noria distill teacher` wrote"
    check_input(path)
    with decoding(path, "a small flow-matching transformer", mend=mend, error=CheckpointError):
        with safe_open(path, framework="pt") as file:
            note = file.metadata() or {}
            config = SmallTransformerConfig(**json.loads(note["config"]))
            _check_shape(config, {name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
        network = SmallTransformer(config)
        digest = _weights_digest(path.read_bytes())
        if note.get("sha256", digest) != digest:
            raise CheckpointError(
                "its weights are not what was written (their digest differs)",
                where=str(path),
                mend="copy the file again",
            )
        network.load_state_dict(load_file(path))
    return network.eval()


def _check_shape(config: SmallTransformerConfig, stored: dict[str, list[int]]) -> None:
    """Compare a shape that a file names with the tensors that it holds, before memory is taken for it.

    Raises:
        ValueError: no small transformer has that shape, or the file holds another's tensors.
    """
    if any(type(size) is not int or not 1 <= size <= MAX_SIZE for size in vars(config).values()):
        raise ValueError("a size that no small transformer has")
    try:
        with torch.device("meta"):
            network = SmallTransformer(config)
    except ConfigError as error:
        raise ValueError(error.what) from error
    if {name: list(tensor.shape) for name, tensor in network.state_dict().items()} != stored:
        raise ValueError("its tensors are not of the shape that it names")


def _weights_digest(file: bytes) -> str:
    """SHA-256 of the tensors in a safetensors file, which follow its header."""
    header = 8 + int.from_bytes(file[:8], "little")
    return hashlib.sha256(file[header:]).hexdigest()
