"""Tiny distillations. The builders are plain functions, so that worker scripts run as real processes share them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from noria.core.config import load_config
from noria.core.models.flow import SmallTransformer, SmallTransformerConfig
from noria.distill.adapters import SmallAdapter
from noria.distill.config import DistillConfig, preset
from noria.distill.training.trainer import Distiller

CLASSES = 3

TINY = [
    "batch_size=4",
    "iterations=6",
    "checkpoint_every=2",
    "log_every=1",
    "precision=fp32",
    "schedule.max_steps=5",
    "student.lr=1e-3",
    "student.warmup=0",
    "critic.lr=2e-3",
    "critic.warmup=0",
    "lora.rank=3",
    "lora.alpha=6",
]


def tiny_config(name: str = "cdm", *overrides: str) -> DistillConfig:
    """A preset at a size that trains in milliseconds."""
    values = preset(name)
    return load_config(
        DistillConfig,
        base=values | {"preset": name},
        overrides=[*tiny_settings(name, *overrides), *overrides],
    )


def tiny_settings(name: str = "cdm", *overrides: str) -> list[str]:
    """Those of TINY that a preset under these overrides reads: a value that nothing reads is refused."""
    values = preset(name)
    fixed = "schedule.kind=fixed" in overrides or values.get("schedule", {}).get("kind") == "fixed"
    dynamic = any(o.startswith("schedule.kind=dynamic") for o in overrides)
    unread = {
        "schedule": fixed and not dynamic,
        "lora": "train=lora" not in overrides,
        "critic": bool(values.get("objective", {}).get("consistency_weight")),
    }
    return [override for override in TINY if not unread.get(override.split(".")[0], False)]


def tiny_network(seed: int = 0, *, width: int = 16, blocks: int = 1) -> SmallTransformer:
    """A transformer that is nothing like its zero-initialised start: every parameter matters."""
    network = SmallTransformer(
        SmallTransformerConfig(image_size=4, patch=2, width=width, blocks=blocks, heads=2, classes=CLASSES)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
        network.source.weight.zero_()  # as after a teacher's training, which never uses it
        network.source.bias.zero_()
    return network.eval()


class Classes:
    """Class prompts as a pure function of (seed, iteration)."""

    def batch(self, seed: int, iteration: int, batch_size: int) -> list[str]:
        return [str((seed + 7 * iteration + n) % CLASSES) for n in range(batch_size)]


def tiny_distiller(
    name: str = "cdm", *overrides: str, shift: float = 1.0, teacher: int = 0, apart: bool = False, **more: Any
) -> Distiller:
    """A distiller of a tiny teacher; `apart` moves student and critic away from it, so that no direction is zero."""
    adapter = SmallAdapter(tiny_network(teacher), shift=shift)
    distiller = Distiller(adapter, tiny_config(name, *overrides), Classes(), **more)
    if apart:
        set_apart(distiller)
    return distiller


def set_apart(distiller: Distiller, size: float = 0.05) -> None:
    """Move student and critic away from the teacher and from each other."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for role in ("student", "critic"):
            for parameter in distiller.roles.parameters(role).values():
                parameter += size * torch.randn(parameter.shape, generator=generator)


def weights(distiller: Distiller, role: str = "student") -> dict[str, torch.Tensor]:
    """A copy of a role's parameters."""
    return {name: p.detach().clone() for name, p in distiller.roles.parameters(role).items()}  # type: ignore[arg-type]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def config() -> Callable[..., DistillConfig]:
    return tiny_config


@pytest.fixture
def network() -> Callable[..., SmallTransformer]:
    return tiny_network


@pytest.fixture
def distiller() -> Callable[..., Distiller]:
    return tiny_distiller
