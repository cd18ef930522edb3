"""A training that is saved and restored is the same training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from noria.core.errors import CheckpointError
from noria.core.runs.run import Run
from noria.core.training.state import TrainState


def state(*, width: int = 3, seed: int = 0) -> tuple[nn.Linear, TrainState]:
    torch.manual_seed(seed)
    network = nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    parameters: dict[str, Tensor] = dict(network.named_parameters())
    return network, TrainState(parameters, optimizer, prefix="net", scheduler=scheduler, random=True)


def advance(network: nn.Linear, training: TrainState, steps: int) -> None:
    assert training.scheduler is not None
    for _ in range(steps):
        training.optimizer.zero_grad()
        network(torch.randn(4, network.in_features)).square().mean().backward()
        training.optimizer.step()
        training.scheduler.step()
        training.step += 1


def test_a_restored_training_goes_on_to_the_bit(tmp_path: Path) -> None:
    network, whole = state()
    advance(network, whole, 2)
    with Run.open(tmp_path, config={}, versions={}) as run:
        whole.save(run, {"extra": torch.ones(2)}, note="kept")
    advance(network, whole, 3)
    other, part = state(seed=1)
    with Run.open(tmp_path, config={}, versions={}) as run:
        checkpoint = part.resume(run)
    assert checkpoint is not None
    assert checkpoint.tensors["extra"].tolist() == [1, 1]
    assert checkpoint.state["note"] == "kept"
    assert part.step == 2
    advance(other, part, 3)
    assert part.step == whole.step
    for name, value in whole.tensors().items():
        assert torch.equal(value, part.tensors()[name]), name
    assert part.values() == whole.values()


def test_nothing_is_restored_where_nothing_was_saved(tmp_path: Path) -> None:
    network, training = state()
    before = network.weight.clone()
    with Run.open(tmp_path, config={}, versions={}) as run:
        assert training.resume(run) is None
    assert torch.equal(network.weight, before)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    network, training = state()
    advance(network, training, 1)
    with Run.open(tmp_path, config={}, versions={}) as run:
        training.save(run)
        with pytest.raises(CheckpointError, match="its weight is not this net's"):
            state(width=4)[1].resume(run)


def renamed(name: str) -> str | None:
    return name.replace("optimizer.", "optimizer.net.")


def dropped(name: str) -> str | None:
    return None if name.startswith("optimizer.") else name


@pytest.mark.parametrize("change", [renamed, dropped])
def test_an_older_checkpoint_without_the_optimizers_memory_is_refused_and_changes_nothing(
    tmp_path: Path, change: Callable[[str], str | None]
) -> None:
    network, training = state()
    advance(network, training, 2)
    older = {new: t for name, t in training.tensors().items() if (new := change(name))}
    other, part = state(seed=1)
    before = other.weight.clone()
    with Run.open(tmp_path, config={}, versions={}) as run:
        run.save(2, older, training.values())
        with pytest.raises(CheckpointError, match="an older version of Noria wrote it"):
            part.resume(run)
    assert torch.equal(other.weight, before)


def test_an_older_checkpoint_of_16_bit_weights_is_refused(tmp_path: Path) -> None:
    network, training = state()
    advance(network, training, 2)
    masters = {f"optimizer.{name}.master": p.detach() for name, p in network.named_parameters()}
    with Run.open(tmp_path, config={}, versions={}) as run:
        run.save(2, training.tensors() | masters, training.values())
        with pytest.raises(CheckpointError, match="an older version of Noria wrote it"):
            state(seed=1)[1].resume(run)


def test_an_older_checkpoint_with_the_optimizers_memory_is_resumed(tmp_path: Path) -> None:
    network, training = state()
    advance(network, training, 2)
    with Run.open(tmp_path, config={}, versions={}) as run:
        run.save(2, training.tensors(), training.values())
        assert state(seed=1)[1].resume(run) is not None


def test_a_training_that_took_no_step_of_the_optimizer_yet_is_resumed(tmp_path: Path) -> None:
    _, training = state()
    training.step = 3  # three steps without a signal
    with Run.open(tmp_path, config={}, versions={}) as run:
        training.save(run)
        other = state(seed=1)[1]
        assert other.resume(run) is not None
    assert other.step == 3
