"""One iteration's random numbers are a pure function of (seed, iteration, sample)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from scipy import stats

from noria.core.models.flow import SigmaContract
from noria.distill.config import DistillConfig
from noria.distill.matching.draws import Draws, draw, key

SHAPE = (1, 4, 4)
CONTRACT = SigmaContract(3.0)
KINDS = [
    ("schedule.kind=fixed",),
    ("schedule.kind=dynamic",),
    ("schedule.kind=dynamic_per_sample",),
    ("schedule.kind=dynamic", "schedule.stochastic=true"),
    ("schedule.kind=dynamic_per_sample", "schedule.stochastic=true"),
]


def tensors(d: Draws) -> dict[str, tuple[torch.Tensor, int]]:
    """Each tensor with its batch axis."""
    named = {
        "sigmas": (d.sigmas, 0),
        "lengths": (d.lengths, 0),
        "anchors": (d.anchors, 0),
        "noise": (d.noise, 1),
        "uniform": (d.uniform, 1),
    }
    return named if d.rollout_noise is None else named | {"rollout_noise": (d.rollout_noise, 1)}


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_many_processes_are_the_batch_of_one(
    config: Callable[..., DistillConfig], options: tuple[str, ...], processes: int
) -> None:
    c = config("cdm", "batch_size=8", *options)
    for iteration in range(6):
        whole = draw(c, CONTRACT, SHAPE, iteration)
        shares = [
            draw(c, CONTRACT, SHAPE, iteration, rank=rank, processes=processes) for rank in range(processes)
        ]
        for name, (tensor, axis) in tensors(whole).items():
            joined = torch.cat([tensors(share)[name][0] for share in shares], dim=axis)
            assert torch.equal(joined, tensor), name
        assert {share.last_call for share in shares} == {whole.last_call} == {int(whole.anchors.max())}


def test_nothing_else_enters_a_draw(config: Callable[..., DistillConfig]) -> None:
    c = config()
    torch.manual_seed(1)
    first = draw(c, CONTRACT, SHAPE, 3)
    torch.manual_seed(2)
    for iteration in (7, 0, 3, 2):
        before = torch.get_rng_state()
        d = draw(c, CONTRACT, SHAPE, iteration)
        assert torch.equal(torch.get_rng_state(), before)
        if iteration == 3:
            for name, (tensor, _) in tensors(d).items():
                assert torch.equal(tensor, tensors(first)[name][0]), name


def test_samples_iterations_seeds_and_streams_differ(config: Callable[..., DistillConfig]) -> None:
    draws = [
        draw(config("cdm", f"seed={seed}"), CONTRACT, SHAPE, iteration)
        for seed in (0, 1)
        for iteration in (0, 1)
    ]
    rows = [row.flatten() for d in draws for row in d.noise.flatten(0, 1)]
    for a, b in itertools.combinations(rows, 2):
        assert not torch.equal(a, b)
    numbers = torch.cat([d.uniform.flatten() for d in draws])
    assert len(numbers.unique()) == len(numbers)


def test_noise_is_standard_normal_and_its_streams_are_independent(
    config: Callable[..., DistillConfig],
) -> None:
    c = config("cdm", "batch_size=16")
    noise = torch.cat([draw(c, CONTRACT, SHAPE, n).noise for n in range(40)], dim=1)
    assert noise.shape == (6, 640, *SHAPE)
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    correlations = torch.corrcoef(noise.flatten(1)) - torch.eye(6)
    assert correlations.abs().max() < 4 / noise[0].numel() ** 0.5
    uniform = torch.cat([draw(c, CONTRACT, SHAPE, n, student=False).uniform for n in range(40)], dim=1)
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 0.01
    correlations = torch.corrcoef(uniform) - torch.eye(6)
    assert correlations.abs().max() < 4 / uniform.shape[1] ** 0.5


def test_the_critic_alone_needs_two_streams(config: Callable[..., DistillConfig]) -> None:
    assert draw(config(), CONTRACT, SHAPE, 0, student=False).noise.shape == (2, 4, *SHAPE)


def test_a_stochastic_rollout_gets_noise_for_every_inner_step(config: Callable[..., DistillConfig]) -> None:
    c = config("cdm", "schedule.stochastic=true", "schedule.kind=dynamic_per_sample")
    for iteration in range(10):
        d = draw(c, CONTRACT, SHAPE, iteration)
        assert d.rollout_noise is not None
        assert d.rollout_noise.shape == (int(d.lengths.max()) - 1, 4, *SHAPE)


def test_keys_do_not_collide_and_the_order_of_their_parts_matters() -> None:
    keys = {key(seed, it, n) for seed in range(3) for it in range(100) for n in range(-1, 32)}
    keys |= {key(seed, it, n, 1) for seed in range(3) for it in range(100) for n in range(-1, 32)}
    assert len(keys) == 2 * 3 * 100 * 33
    assert all(0 <= k < 2**63 for k in keys)
    assert key(1, 2) != key(2, 1)


def test_neighbouring_keys_differ_in_half_of_their_bits() -> None:
    flips = [(key(0, n) ^ key(0, n + 1)).bit_count() for n in range(500)]
    assert 31.5 - 1 < sum(flips) / len(flips) < 31.5 + 1
