"""Backward simulation: stopping early changes no number, and costs (N + 1) / 2 evaluations a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noria.core.models.flow import SigmaContract, SmallTransformer, clean_estimate, euler
from noria.distill.adapters import Condition
from noria.distill.config import DistillConfig, ScheduleConfig
from noria.distill.matching.draws import draw
from noria.distill.matching.objectives import extrapolate
from noria.distill.matching.rollout import Rollout, simulate
from noria.distill.matching.schedules import schedule_lengths, schedule_sigmas

BATCH, LONGEST = 6, 7


def wavy(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """An elementwise field that depends on everything it is given."""
    s, c = sigma[:, None], condition["phase"][:, None]
    return torch.sin(3 * x + c) * (1 + s) - 0.3 * x + c * s


def case(seed: int, kind: str = "dynamic_per_sample", **options: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    config = ScheduleConfig(kind=kind, max_steps=LONGEST)  # type: ignore[arg-type]
    lengths = schedule_lengths(config, uniform(), uniform(BATCH))
    return {
        "noise": torch.randn(BATCH, 3, generator=generator),
        "sigmas": schedule_sigmas(config, SigmaContract(3.0), lengths, uniform(BATCH, LONGEST)),
        "lengths": lengths,
        "anchors": torch.minimum((uniform(BATCH) * lengths).long(), lengths - 1),
        "condition": {"phase": uniform(BATCH)},
        "step_noise": torch.randn(int(lengths.max()) - 1, BATCH, 3, generator=generator),
        "complete": uniform(BATCH) < 0.5,
    } | options


def run(velocity: Any, c: dict[str, Any], **options: Any) -> Rollout:
    return simulate(velocity, **(c | {"step_noise": None, "complete": None} | options))


def same(a: Rollout, b: Rollout, tolerance: float = 0.0) -> None:
    for name in ("x", "sigma", "velocity", "clean"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=tolerance, rtol=0)


kinds = st.sampled_from(["dynamic", "dynamic_per_sample", "fixed"])


@given(st.integers(0, 10_000), kinds, st.booleans(), st.booleans())
def test_leaving_early_changes_no_bit(seed: int, kind: str, stochastic: bool, some_complete: bool) -> None:
    c = case(seed, kind)
    options = {
        "step_noise": c["step_noise"] if stochastic else None,
        "complete": c["complete"] if some_complete else None,
    }
    ragged, full = run(wavy, c, **options), run(wavy, c, **options, ragged=False)
    same(ragged, full)
    ended = c["complete"] if some_complete else torch.zeros(BATCH, dtype=torch.bool)
    ended = ended | (c["anchors"] == c["lengths"] - 1)
    assert torch.equal(ragged.final[ended], full.final[ended])
    assert ragged.final[~ended].isnan().all()
    assert not full.final.isnan().any()
    assert full.complete.all()


@given(st.integers(0, 10_000), kinds)
def test_each_sample_is_its_own_euler_integration(seed: int, kind: str) -> None:
    """Sample by sample against the plain integrator: points, velocity, estimate, end and σ."""
    c = case(seed, kind)
    got = run(wavy, c, complete=torch.ones(BATCH, dtype=torch.bool))
    for n in range(BATCH):
        own = {"phase": c["condition"]["phase"][n : n + 1]}

        def velocity(x: Tensor, sigma: Tensor, own: Condition = own) -> Tensor:
            return wavy(x, sigma, own)

        anchor, length = int(c["anchors"][n]), int(c["lengths"][n])
        grid, start = c["sigmas"][n], c["noise"][n : n + 1]
        x = euler(velocity, start, grid[: anchor + 1])
        v = velocity(x, grid[anchor : anchor + 1])
        torch.testing.assert_close(got.x[n], x[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(got.velocity[n], v[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            got.clean[n], clean_estimate(x, v, grid[anchor : anchor + 1])[0], atol=1e-5, rtol=0
        )
        assert got.sigma[n] == grid[anchor]
        # The last step of a rollout goes to σ = 0, where the point is its own clean estimate.
        torch.testing.assert_close(
            got.final[n], euler(velocity, start, grid[: length + 1])[0], atol=1e-5, rtol=0
        )


@given(st.integers(0, 10_000))
def test_extrapolation_to_the_next_level_is_the_rollouts_own_next_point(seed: int) -> None:
    c = case(seed)
    c["anchors"] = torch.minimum(c["anchors"], (c["lengths"] - 2).clamp(min=0))
    here = run(wavy, c)
    later = c["anchors"] + 1
    has_next = later < c["lengths"]
    there = run(wavy, c | {"anchors": torch.where(has_next, later, c["anchors"])})
    x = extrapolate(here.x, here.velocity, here.sigma, there.sigma)
    assert torch.equal(x[has_next], there.x[has_next])
    same_level = extrapolate(here.x, here.velocity, here.sigma, here.sigma)
    assert torch.equal(same_level, here.x)
    # … and past the last level, at σ = 0, it is the clean estimate.
    zero = extrapolate(here.x, here.velocity, here.sigma, torch.zeros(BATCH))
    torch.testing.assert_close(zero, here.clean, atol=1e-5, rtol=0)


def test_a_stochastic_step_renoises_the_estimate() -> None:
    c = case(5, "fixed")
    c["anchors"] = torch.full((BATCH,), 2)
    got = run(wavy, c, step_noise=c["step_noise"])
    x, grid = c["noise"], c["sigmas"][0]
    for step in range(2):
        clean = clean_estimate(x, wavy(x, grid[step].expand(BATCH), c["condition"]), grid[step].expand(BATCH))
        x = (1 - grid[step + 1]) * clean + grid[step + 1] * c["step_noise"][step]
    torch.testing.assert_close(got.x, x, atol=1e-6, rtol=0)


@given(st.integers(0, 10_000), kinds)
def test_forwards_are_counted_as_they_happen(seed: int, kind: str) -> None:
    c, seen = case(seed, kind), 0

    def counting(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        nonlocal seen
        assert len(x) == len(sigma) == len(condition["phase"])
        seen += len(x)
        return wavy(x, sigma, condition)

    assert run(counting, c).forwards == seen == int((c["anchors"] + 1).sum())
    seen = 0
    assert run(counting, c, ragged=False).forwards == seen == int(c["lengths"].sum())
    seen = 0
    last = torch.where(c["complete"], c["lengths"], c["anchors"] + 1)
    assert run(counting, c, complete=c["complete"]).forwards == seen == int(last.sum())


def test_the_expected_cost_is_half_of_the_rollout_and_a_half(config: Callable[..., DistillConfig]) -> None:
    """E[anchor + 1 | N] = (N + 1) / 2, hence (N_max + 3) / 4 over N; the full order costs (N_max + 1) / 2."""
    longest = 28
    c = config("cdm", "batch_size=16", f"schedule.max_steps={longest}", "schedule.kind=dynamic_per_sample")
    ragged = full = 0
    rounds = 300
    for iteration in range(rounds):
        d = draw(c, SigmaContract(), (1,), iteration, student=False)
        zero: dict[str, Tensor] = {"labels": d.lengths}
        for order in (True, False):
            r = simulate(lambda x, s, _: x, d.noise[0], d.sigmas, d.lengths, d.anchors, zero, ragged=order)
            ragged, full = (ragged + r.forwards, full) if order else (ragged, full + r.forwards)
    samples = 16 * rounds
    assert ragged / samples == pytest.approx((longest + 3) / 4, rel=0.03)
    assert full / samples == pytest.approx((longest + 1) / 2, rel=0.03)
    assert full / ragged > 1.8


def test_a_sharded_model_is_called_as_often_as_its_peers() -> None:
    c, calls = case(3), 0

    def counting(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        nonlocal calls
        calls += 1
        assert len(x) >= 1
        return wavy(x, sigma, condition)

    plain = run(counting, c)
    needed = int(c["anchors"].max()) + 1
    assert calls == needed
    calls = 0
    padded = run(counting, c, calls=needed + 3)
    assert calls == needed + 3
    same(plain, padded)
    assert padded.forwards == plain.forwards
    assert torch.equal(plain.final.isnan(), padded.final.isnan())


def test_one_step_and_equal_levels() -> None:
    one = case(0) | {
        "lengths": torch.ones(BATCH, dtype=torch.long),
        "anchors": torch.zeros(BATCH, dtype=torch.long),
        "sigmas": torch.tensor([[1.0, 0.0]]).repeat(BATCH, 1),
    }
    got = run(wavy, one)
    assert torch.equal(got.x, one["noise"])
    assert torch.equal(got.final, got.clean)
    twice = one | {
        "lengths": torch.full((BATCH,), 3),
        "anchors": torch.full((BATCH,), 2),
        "sigmas": torch.tensor([[1.0, 0.5, 0.5, 0.0]]).repeat(BATCH, 1),
    }
    once = twice | {"lengths": torch.full((BATCH,), 2), "anchors": torch.full((BATCH,), 1)}
    once["sigmas"] = torch.tensor([[1.0, 0.5, 0.0]]).repeat(BATCH, 1)
    same(run(wavy, twice), run(wavy, once))


def test_the_students_rollout_has_no_graph_and_leaves_its_noise_alone(
    network: Callable[..., SmallTransformer],
) -> None:
    model = network().requires_grad_(True)
    c = case(4) | {"noise": torch.randn(BATCH, 1, 4, 4), "condition": {"labels": torch.arange(BATCH) % 3}}
    before = c["noise"].clone()
    got = run(lambda x, s, k: model(x, s, k["labels"]), c)
    assert not got.x.requires_grad
    assert not got.velocity.requires_grad
    assert torch.equal(c["noise"], before)
    # A network's arithmetic depends a little on how many rows it sees at once.
    same(got, run(lambda x, s, k: model(x, s, k["labels"]), c, ragged=False), 1e-5)
