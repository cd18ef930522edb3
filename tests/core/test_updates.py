"""AdamW on weights of any width: torch's own where they are wide, and no step lost where they are narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from noria.core.errors import CheckpointError
from noria.core.runs.run import Run
from noria.core.training.updates import Updates

ADAM: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 0.01}
SHAPE: dict[str, Any] = {"prefix": "w", **ADAM}


def weights(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {n: nn.Parameter(torch.randn(3, 4, generator=generator).to(dtype)) for n in ("a", "b")}


def run(updates: Updates, steps: range, lr: float = 1e-5) -> None:
    for step in steps:
        updates.zero()
        generator = torch.Generator().manual_seed(step)
        for p in updates.parameters.values():
            p.grad = torch.randn(p.shape, generator=generator).abs().to(p.dtype)  # all one way
        updates.clip(1.0)
        updates.step(lr)
        updates.state.step += 1


def test_wide_weights_are_stepped_as_torch_steps_them() -> None:
    ours = Updates(weights(torch.float32), lr=1e-5, **SHAPE)
    theirs = weights(torch.float32)
    adam = torch.optim.AdamW(theirs.values(), lr=1e-5, **ADAM)
    assert all(ours.masters[name] is p for name, p in ours.parameters.items())
    run(ours, range(5))
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        for p in theirs.values():
            p.grad = torch.randn(p.shape, generator=generator).abs()
        nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        adam.step()
    assert all(torch.equal(p, theirs[name]) for name, p in ours.parameters.items())


def test_small_steps_add_up_in_bfloat16() -> None:
    """300 steps of up to 1e-5 are up to 3e-3; one alone is below the rounding of nearly every weight."""
    first, narrow = weights(torch.bfloat16), Updates(weights(torch.bfloat16), lr=1e-5, **SHAPE)
    lost = weights(torch.bfloat16)
    adam = torch.optim.AdamW(lost.values(), lr=1e-5, **ADAM)
    run(narrow, range(300))
    for _ in range(300):
        for p in lost.values():
            p.grad = torch.ones_like(p)
        adam.step()
    for name, p in narrow.parameters.items():
        assert p.dtype == torch.bfloat16
        assert torch.equal(p, narrow.masters[name].bfloat16())
        moved = (first[name].float() - narrow.masters[name]).detach().mean()
        assert 2e-3 < float(moved) < 3.1e-3
        assert (lost[name] == first[name]).float().mean() > 0.8, "what plain AdamW does to them"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_goes_on_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    whole, parts = (Updates(weights(dtype), lr=1e-3, **SHAPE) for _ in range(2))
    run(whole, range(6))
    run(parts, range(3))
    other = Updates({n: nn.Parameter(torch.zeros_like(p)) for n, p in weights(dtype).items()}, lr=1, **SHAPE)
    with Run.open(tmp_path / "run", config={}) as folder:
        assert other.resume(folder) is None
        parts.state.save(folder)
        assert other.resume(folder) is not None
        assert all(torch.equal(p, parts.parameters[name]) for name, p in other.parameters.items())
        run(other, range(3, 6))
        assert (whole.state.step, other.state.step) == (6, 6)
        assert whole.state.tensors().keys() == other.state.tensors().keys()
        for name, t in whole.state.tensors().items():
            assert torch.equal(t, other.state.tensors()[name]), name
        assert all(torch.equal(p, whole.parameters[name]) for name, p in other.parameters.items())
        narrow = Updates({**other.parameters, "b": nn.Parameter(torch.zeros(2))}, lr=1, **SHAPE)
        with pytest.raises(CheckpointError, match="its b is not this w's"):
            narrow.resume(folder)
